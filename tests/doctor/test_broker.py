"""Brokers that are sound, away, narrow, or of another time; the real ones."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import subprocess
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from legion_iot.doctor import broker
from legion_iot.doctor.broker import Visit, certificate, delays, limits
from legion_iot.transport.connection import BrokerAddress, StatedLimits
from legion_iot.wire.topics import Topics
from legion_iot_broker.launch import local_broker
from legion_iot_broker.mosquitto import end_child, find_mosquitto
from legion_iot_broker.records import now_utc
from legion_iot_broker.serving import serve
from tests.broker.conftest import require_mosquitto
from tests.broker.groups import free_ports, let_in, make_group, open_place
from tests.broker.test_served import authority_of, rewritten

TOPICS = Topics("kitchen")


@contextlib.contextmanager
def mosquitto(directory: Path, *lines: str) -> Iterator[BrokerAddress]:
    """One with a configuration of its own."""
    require_mosquitto()
    (port,) = free_ports(1)
    config = directory / "mosquitto.conf"
    config.write_text("\n".join([f"listener {port} 127.0.0.1", "allow_anonymous true", *lines]), encoding="utf-8")
    child = subprocess.Popen([str(find_mosquitto()), "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20.0
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
                break
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield BrokerAddress("127.0.0.1", port)
    finally:
        end_child(child)


@pytest.mark.parametrize("kind", ["embedded", "mosquitto"])
def test_a_sound_broker(kind: str) -> None:
    if kind == "mosquitto":
        require_mosquitto()
    with local_broker(kind) as running:  # type: ignore[arg-type]
        found = {finding.check: finding for finding in broker.examine(Visit(running.address, TOPICS))}
    assert list(found) == ["broker", "limits", "small messages", "large messages"]
    # How long messages take is the machine's business.
    assert {check: each.level for check, each in found.items() if check != "small messages"} == {
        "broker": "ok", "limits": "ok", "large messages": "ok",
    }  # fmt: skip


def test_nobody_is_there() -> None:
    (port,) = free_ports(1)
    address = BrokerAddress("127.0.0.1", port)
    (named,) = broker.examine(Visit(address, TOPICS))
    assert (named.check, named.level) == ("broker", "failure")
    assert "--broker" in named.cure
    (unnamed,) = broker.examine(Visit(address, TOPICS, named=False))
    assert (unnamed.level, unnamed.check) == ("warning", "broker")


def test_a_broker_that_drops_what_is_large(tmp_path: Path) -> None:
    with mosquitto(tmp_path, "message_size_limit 100000") as address:
        found = {finding.check: finding for finding in broker.examine(Visit(address, TOPICS))}
    assert found["large messages"].level == "failure"
    assert "message_size_limit" in found["large messages"].cure
    assert found["limits"].level == "ok", "it does not say so"


def test_a_broker_that_says_it_takes_little_and_retains_nothing(tmp_path: Path) -> None:
    with mosquitto(tmp_path, "max_packet_size 100000") as address:
        found = {finding.check: finding for finding in broker.examine(Visit(address, TOPICS))}
        assert found["limits"].level == "failure"
        assert found["large messages"].level == "failure"
    with mosquitto(tmp_path, "retain_available false") as address:
        found = {finding.check: finding for finding in broker.examine(Visit(address, TOPICS))}
        assert found["limits"].level == "failure"
        assert "retain" in found["limits"].cure


def test_members_of_a_group_and_those_who_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    require_mosquitto()
    with open_place() as place:
        held = make_group(place)
        eye, authority = let_in(held, "eye", "observer"), authority_of(held)
        old = authority.member("eye", now_utc() - timedelta(days=3), days=1)
        soon = authority.member("eye", now_utc(), days=5)
        with serve(held, "mosquitto"):
            topics = Topics(eye.base_topic)
            visit = Visit(eye.address(), topics, eye)
            found = list(broker.examine(visit))
            assert [finding.level for finding in found if finding.check == "certificate"] == ["ok", "ok", "warning"]
            assert {finding.check: finding.level for finding in found}["large messages"] == "ok"
            monkeypatch.setattr(broker, "ECHO_TIMEOUT", 0.5)
            last = list(broker.examine(dataclasses.replace(visit, topics=TOPICS)))[-1]
            assert (last.check, last.level) == ("small messages", "warning")
            assert "access rules" in last.cure
            monkeypatch.undo()
            wrong = dataclasses.replace(visit, address=dataclasses.replace(visit.address, password="wrong"))
            (refused,) = broker.examine(wrong)
            assert (refused.level, refused.check) == ("failure", "broker")
            assert "legion broker add-device" in refused.cure
            renewed = rewritten(eye, soon.certificate, soon.key, authority.certificate)
            ours = [f for f in broker.examine(Visit(renewed.address(), topics, renewed)) if "ours" in f.found]
            assert [finding.level for finding in ours] == ["warning"]
            expired = rewritten(eye, old.certificate, old.key, authority.certificate)
            found = list(broker.examine(Visit(expired.address(), topics, expired)))
            assert found[0].level == "failure"
            assert [f.level for f in found if "ours ended" in f.found] == ["failure"]


@pytest.mark.parametrize(("days", "level"), [(-1, "failure"), (0.5, "warning"), (29, "warning"), (31, "ok")])
def test_certificates_near_their_end(days: float, level: str) -> None:
    finding = certificate("ours", 1e9 + days * 86_400, 1e9, "renew it")
    assert finding.level == level
    assert bool(finding.cure) == (level != "ok")


@pytest.mark.parametrize(
    ("said", "level"),
    [
        (StatedLimits(), "ok"),
        (StatedLimits(packet=40 << 20), "ok"),
        (StatedLimits(packet=8 << 20), "warning"),
        (StatedLimits(packet=600_000), "failure"),
        (StatedLimits(window=5), "warning"),
        (StatedLimits(retains=False), "failure"),
        (StatedLimits(most_qos=0), "failure"),
    ],
)
def test_what_a_broker_says_of_itself(said: StatedLimits, level: str) -> None:
    finding = limits(said)
    assert finding.level == level
    assert bool(finding.cure) == (level != "ok")


def test_messages_that_are_slower_than_the_network() -> None:
    assert delays(0.0442, 0.0002).level == "warning"
    assert delays(0.0442, 0.040).level == "ok", "it is the network"
    assert delays(0.001, 0.0002).level == "ok"
