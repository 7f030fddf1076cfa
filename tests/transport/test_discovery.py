"""A broker that announces itself on the loopback interface, and who looks for it."""

from __future__ import annotations

import errno
import secrets
import subprocess
import sys
from pathlib import Path

import pytest
import zeroconf
from zeroconf import ServiceInfo, Zeroconf

from legion_iot.configuration.programs import BROKER, address, configured
from legion_iot.errors import BrokerError, UsageError
from legion_iot.transport import discovery
from legion_iot.transport.discovery import SERVICE, Announcement, announced, find

LOOPBACK = ["127.0.0.1"]


@pytest.fixture
def base_topic() -> str:
    """Nobody else on this machine looks for it."""
    return f"test-{secrets.token_hex(4)}"


def test_one_is_found_and_two_are_a_question(base_topic: str) -> None:
    with announced(Announcement(8884, ("127.0.0.1", "hub.local"), base_topic), LOOPBACK):
        assert find(base_topic, 10, LOOPBACK) == "mqtts://127.0.0.1:8884"
        with pytest.raises(BrokerError, match=r"no broker for 'another' .* --broker"):
            find("another", 1, LOOPBACK)
        with (
            announced(Announcement(8885, ("127.0.0.1",), base_topic), LOOPBACK),
            pytest.raises(BrokerError, match=r"several .*:8884, mqtts://127\.0\.0\.1:8885"),
        ):
            find(base_topic, 10, LOOPBACK)


def test_what_others_announce_is_passed_over(base_topic: str) -> None:
    said = {"program": "legion-iot", "base": base_topic}  # and no hosts
    with Zeroconf(interfaces=LOOPBACK) as other:
        other.register_service(
            ServiceInfo(SERVICE, f"{base_topic}.{SERVICE}", 1, properties=said, server=f"{base_topic}.local.")
        )
        with pytest.raises(BrokerError, match="no broker"):
            find(base_topic, 1, LOOPBACK)


@pytest.mark.parametrize(
    ("hosts", "addresses", "url"),
    [
        (("10.0.0.1", "hub.local"), ["10.0.0.1"], "mqtts://10.0.0.1:1"),
        (("hub.local", "10.0.0.1"), ["10.0.0.9", "10.0.0.1"], "mqtts://10.0.0.1:1"),
        (("hub.local", "10.0.0.1"), ["10.0.0.9"], "mqtts://hub.local:1"),
        (("fd00::1",), ["fd00::1"], "mqtts://[fd00::1]:1"),
    ],
)
def test_the_address_is_one_that_the_certificate_names(hosts: tuple[str, ...], addresses: list[str], url: str) -> None:
    assert Announcement(1, hosts, "legion").url(addresses) == url


def test_auto_is_looked_for_when_it_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bundle = tmp_path / "ant.pem"
    bundle.write_text("name: ant\nbase-topic: shelf\npassword: hunter2\n", encoding="utf-8")
    bundle.chmod(0o600)
    monkeypatch.setattr(discovery, "find", lambda topic: f"mqtts://{topic}.local:7")
    settings, read = configured("agent", {"broker": "auto", "credentials": str(bundle)}, {}, Path("/dev/null"))
    assert settings[BROKER] == "auto"
    assert str(address(settings, read)) == "mqtts://ant@shelf.local:7"


def test_a_sandbox_that_hides_the_interfaces(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def refusing(interfaces: object) -> Zeroconf:
        asked.append(interfaces)
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr(zeroconf, "Zeroconf", refusing)
    with pytest.raises(BrokerError, match="cannot be asked for a broker"):
        find("legion")
    assert asked == [zeroconf.InterfaceChoice.All, zeroconf.InterfaceChoice.Default]


def test_without_the_extra_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zeroconf", None)
    assert not discovery.is_available()
    with pytest.raises(UsageError, match=r"legion-iot\[discovery\].*--broker"):
        find("legion")


def test_the_agent_loads_it_only_where_it_is_asked_for() -> None:
    code = "import sys, legion_iot_agent.main, legion_iot_agent.service; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert not {"zeroconf", "legion_iot.transport.discovery"} & set(done.stdout.split())
