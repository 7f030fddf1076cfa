"""A broker's directory: what is in it, and that no accident leaves half of it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from legion_iot.errors import InputError, LegionError, UsageError
from legion_iot_broker import directory as directory_module
from legion_iot_broker.access import AccessList, Users
from legion_iot_broker.directory import BrokerDirectory, Wanted, initialise
from legion_iot_broker.hosts import own_hosts
from legion_iot_broker.records import now_utc

from .groups import let_in, make_group, open_place


@pytest.fixture
def place() -> Iterator[Path]:
    with open_place() as made:
        yield made


@pytest.fixture
def group(place: Path) -> BrokerDirectory:
    return make_group(place)


def contents(path: Path) -> dict[str, bytes]:
    return {str(each.relative_to(path)): each.read_bytes() for each in path.rglob("*") if each.is_file()}


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_secrets_are_for_their_owner_only(group: BrokerDirectory) -> None:
    let_in(group, "pi1")
    modes = {str(each.relative_to(group.path)): each.stat().st_mode & 0o777 for each in group.path.rglob("*")}
    assert {name for name, mode in modes.items() if mode & 0o077} == {
        "broker.json", "conf.d", "mosquitto.conf", "private/ca.crt", "mosquitto/ca.crt", "mosquitto/server.crt",
    }  # fmt: skip
    if os.geteuid() == 0:
        # A Mosquitto that was taken over could let nobody in.
        assert (group.path / "private" / "ca.key").stat().st_uid == 0
        assert (group.path / "mosquitto" / "server.key").stat().st_uid != 0


def test_the_second_time_changes_nothing(place: Path) -> None:
    wanted = Wanted(("broker.example", "192.0.2.7"), base_topic="kitchen/legion")
    made, new = initialise(place / "group", wanted, now_utc())
    assert new
    before = contents(made.path)
    for again in (wanted, Wanted(), Wanted(("192.0.2.7",))):
        assert initialise(place / "group", again, now_utc()) == (made, False)
    assert contents(made.path) == before | {"private/lock": b""}
    for other in (Wanted(("other.example",)), Wanted(port=1), Wanted(base_topic="legion"), Wanted(websockets_port=2)):
        with pytest.raises(UsageError, match="other settings"):
            initialise(place / "group", other, now_utc())
    assert contents(made.path) == before | {"private/lock": b""}


@pytest.mark.parametrize(
    "wanted",
    [Wanted(("a b",)), Wanted(("",)), Wanted(("x" * 64,)), Wanted(base_topic="#"), Wanted(port=0), Wanted(port=1883),
     Wanted(local_port=70_000), Wanted(websockets_port=8883)],
)  # fmt: skip
def test_what_cannot_be_is_refused(place: Path, wanted: Wanted) -> None:
    with pytest.raises(UsageError):
        initialise(place / "group", wanted, now_utc())
    assert not list(place.iterdir())


def test_nothing_is_overwritten(place: Path) -> None:
    (place / "group").mkdir()
    (place / "group" / "thesis.tex").write_text("years of work")
    (place / "file").write_text("more work")
    for name in ("group", "file", "missing/group"):
        with pytest.raises(InputError):
            initialise(place / name, Wanted(), now_utc())
    assert contents(place) == {"group/thesis.tex": b"years of work", "file": b"more work"}
    with pytest.raises(InputError, match="name too long"):
        initialise(place / ("x" * 300), Wanted(), now_utc())
    with pytest.raises(InputError, match="legion broker init"):
        BrokerDirectory.open(place / ("x" * 300))
    (place / "empty").mkdir()
    assert initialise(place / "empty", Wanted(), now_utc())[1]


@pytest.mark.parametrize("calls", range(11))
def test_a_full_disk_leaves_nothing(place: Path, monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    """Whichever of the files it is that cannot be written."""
    left = calls

    def full(*arguments: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(28, "No space left on device")
        written(*arguments)  # type: ignore[arg-type]

    written = directory_module.replace_file
    monkeypatch.setattr(directory_module, "replace_file", full)
    with pytest.raises(InputError, match="No space left"):
        make_group(place)
    assert not list(place.iterdir())
    monkeypatch.setattr(directory_module, "replace_file", written)
    make_group(place)


def test_the_server_is_known_by_all_its_names(place: Path) -> None:
    made, _ = initialise(place / "group", Wanted(("pi.local", "192.0.2.7", "2001:db8::7")), now_utc())
    names = certificate(made.path / "mosquitto" / "server.crt").extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert set(names.value.get_values_for_type(x509.DNSName)) == {"pi.local", "localhost"}
    addresses = {str(each) for each in names.value.get_values_for_type(x509.IPAddress)}
    assert addresses == {"192.0.2.7", "2001:db8::7", "127.0.0.1", "::1"}
    assert made.url == "mqtts://pi.local:8883"
    found, _ = initialise(place / "found", Wanted(), now_utc())
    assert set(own_hosts()) <= set(found.settings.hosts)


def test_a_bundle_opens_the_door_for_one(group: BrokerDirectory) -> None:
    pi1, boss = let_in(group, "pi1"), let_in(group, "boss", "orchestrator")
    assert pi1.path.stat().st_mode & 0o777 == 0o600
    assert (pi1.name, pi1.role, pi1.broker, pi1.base_topic) == ("pi1", "agent", group.url, "legion")
    users = Users(group.passwords.read_text())
    assert users.accepts("pi1", (pi1.password or "").encode())
    assert not users.accepts("boss", (pi1.password or "").encode())
    rules = AccessList.parse(group.access_rules.read_text())
    assert rules.allows("pi1", "x", "legion/agents/pi1/state", "write")
    assert not rules.allows("pi1", "x", "legion/agents/pi1/command", "write")
    assert rules.allows("boss", "x", "legion/agents/pi1/command", "write")
    authority = certificate(group.path / "mosquitto" / "ca.crt")
    for bundle in (pi1, boss):
        member = x509.load_pem_x509_certificate(bundle.path.read_bytes())  # the first in the file
        member.verify_directly_issued_by(authority)
        assert member.subject.rfc4514_string() == f"CN={bundle.name}"
        assert member.not_valid_before_utc < now_utc() - timedelta(days=29)
        assert member.not_valid_after_utc < now_utc() + timedelta(days=31)
        assert not member.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        usage = member.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert [each._name for each in usage] == ["clientAuth"]


def test_no_certificate_outlives_its_authority(group: BrokerDirectory, place: Path) -> None:
    group.add("eternal", "agent", place / "eternal.pem", 100_000, now_utc())
    issued = x509.load_pem_x509_certificate((place / "eternal.pem").read_bytes())
    assert issued.not_valid_after_utc <= certificate(group.path / "mosquitto" / "ca.crt").not_valid_after_utc


def test_names_are_taken_once(group: BrokerDirectory, place: Path) -> None:
    first = let_in(group, "pi1")
    for name, role, out in [
        ("pi1", "client", "again.pem"), ("pi 2", "agent", "a.pem"), ("pi2", "king", "b.pem"),
        ("orchestrator", "agent", "c.pem"), ("pi2", "agent", first.path.name), ("pi2", "agent", "no/where.pem"),
    ]:  # fmt: skip
        with pytest.raises((UsageError, InputError)):
            group.add(name, role, place / out, 30, now_utc())
    with pytest.raises(UsageError, match="--days"):
        group.add("pi2", "agent", place / "d.pem", 0, now_utc())
    assert [member.name for member in group.roll.present] == ["pi1"]
    assert sorted(each.name for each in place.iterdir()) == ["group", first.path.name]
    with pytest.raises(UsageError, match="let in: pi1"):
        group.remove("pi2", now_utc())


def test_whoever_was_removed_stays_out(group: BrokerDirectory) -> None:
    first = let_in(group, "pi1")
    group.remove("pi1", now_utc())
    assert group.passwords.read_text() == ""
    rules = AccessList.parse(group.access_rules.read_text())
    assert not rules.allows("pi1", "x", "legion/agents/pi2/inbox/pi1", "write")
    assert not rules.allows("pi1", "x", "legion/agents/pi1/state", "write")
    first.path.rename(first.path.with_name("old.pem"))
    second = let_in(group, "pi1", "observer")
    revoked = x509.load_pem_x509_crl((group.path / "mosquitto" / "revoked.pem").read_bytes())
    assert revoked.is_signature_valid(certificate(group.path / "mosquitto" / "ca.crt").public_key())  # type: ignore[arg-type]
    serials = [
        x509.load_pem_x509_certificate(path.read_bytes()).serial_number
        for path in (first.path.with_name("old.pem"), second.path)
    ]
    assert [each.serial_number for each in revoked] == serials[:1]
    rules = AccessList.parse(group.access_rules.read_text())
    assert not rules.allows("pi1", "x", "legion/agents/pi1/state", "write")
    assert rules.allows("pi1", "x", "legion/agents/pi2/state", "read")


@pytest.mark.parametrize("cut", ["_write_rules", "_write_revoked"])
def test_a_change_that_was_cut_short_is_completed(
    group: BrokerDirectory, place: Path, monkeypatch: pytest.MonkeyPatch, cut: str
) -> None:
    let_in(group, "pi1")

    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(directory_module, cut, broken)
        with pytest.raises(InputError, match="run the same again"):
            group.remove("pi1", now_utc())
    assert not group.roll.present
    let_in(group, "pi2")
    assert "pi1:" not in group.passwords.read_text()
    revoked = x509.load_pem_x509_crl((group.path / "mosquitto" / "revoked.pem").read_bytes())
    assert len(list(revoked)) == 1


def test_no_bundle_is_left_of_a_member_that_was_not_let_in(
    group: BrokerDirectory, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(directory_module, "replace_file", broken)
    with pytest.raises(InputError, match="No space left"):
        group.add("pi1", "agent", place / "pi1.pem", 30, now_utc())
    assert [each.name for each in place.iterdir()] == ["group"]
    assert not group.roll.members


def test_changes_at_once_wait_for_each_other(group: BrokerDirectory) -> None:
    names = [f"pi{number}" for number in range(8)]
    threads = [threading.Thread(target=let_in, args=(group, name)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert {member.name for member in group.roll.present} == set(names)
    assert len(group.passwords.read_text().splitlines()) == 8


@pytest.mark.parametrize("name", ["broker.json", "private/members.json", "private/ca.key", "private/ca.crt"])
@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"schema": 2}', b'{"schema": 1, "members": [1]}', b"\xff", None]
)
def test_damage_is_told_in_one_line(place: Path, name: str, content: bytes | None) -> None:
    path = make_group(place).path
    if content is None:
        (path / name).unlink()
    else:
        (path / name).write_bytes(content)
    with pytest.raises(LegionError) as caught:
        BrokerDirectory.open(path).add("pi1", "agent", place / "pi1.pem", 30, now_utc())
    assert len(str(caught.value).splitlines()) == 1
    assert not (place / "pi1.pem").exists()


def test_a_directory_can_be_moved(group: BrokerDirectory, place: Path) -> None:
    group.path.rename(place / "moved")
    moved = BrokerDirectory.open(place / "moved")
    moved.refresh()
    assert str(group.path) not in moved.config.read_text()
    assert str(moved.passwords) in moved.config.read_text()


def test_nobody_else_is_told(group: BrokerDirectory) -> None:
    """A signal to a stranger's process might end it."""
    assert group.reload() is False
    command = [sys.executable, "-c", "import time; time.sleep(60)", "-c", str(group.config)]
    with subprocess.Popen(command) as stranger:
        try:
            assert group.reload() is False
        finally:
            stranger.kill()


def test_without_cryptography_there_is_a_cure(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "legion_iot_broker.authority", None)
    with pytest.raises(UsageError, match=r"pip install 'legion-iot\[broker\]'"):
        make_group(place)
