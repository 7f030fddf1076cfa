"""The broker of a directory as it runs: who gets in, who is cut off, and what each of them is told."""

from __future__ import annotations

import dataclasses
import os
import queue
import signal
import socket
import ssl
import subprocess
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import paho.mqtt.client as paho
import pytest

from legion_iot.errors import (
    BrokerError,
    CertificateExpiredError,
    CertificateRevokedError,
    ForeignCertificateError,
    PasswordRefusedError,
)
from legion_iot.transport import BrokerAddress, Connected, Disconnected, Message, Refused, TransportEvent
from legion_iot.transport import paho as paho_transport
from legion_iot.transport.credentials import Bundle, bundle_text, read_bundle
from legion_iot.transport.paho import PahoConnection
from legion_iot.transport.tls import client_context
from legion_iot.wire import codec
from legion_iot.wire.messages import AgentState
from legion_iot_broker import farewell, serving
from legion_iot_broker.authority import Authority
from legion_iot_broker.directory import BrokerDirectory
from legion_iot_broker.mosquitto import find_mosquitto, mosquitto_processes
from legion_iot_broker.records import now_utc
from legion_iot_broker.serving import Served, serve

from .conftest import require_mosquitto
from .groups import let_in, make_group, open_place

PATIENCE = 20.0


@pytest.fixture
def place() -> Iterator[Path]:
    with open_place() as made:
        yield made


@pytest.fixture
def group(place: Path) -> BrokerDirectory:
    return make_group(place)


@pytest.fixture
def mosquitto(group: BrokerDirectory) -> Iterator[Served]:
    require_mosquitto()
    with serve(group, "mosquitto") as running:
        yield running


class Client:
    def __init__(self, address: BrokerAddress, name: str = "test") -> None:
        self.events: queue.SimpleQueue[TransportEvent] = queue.SimpleQueue()
        self.connection = PahoConnection(address, name, self.events.put)

    def next(self, kind: type[TransportEvent]) -> TransportEvent:
        while True:
            event = self.events.get(timeout=PATIENCE)
            if isinstance(event, kind):
                return event


@contextmanager
def connected(address: BrokerAddress, name: str = "test") -> Iterator[Client]:
    client = Client(address, name)
    client.connection.open(PATIENCE)
    try:
        yield client
    finally:
        client.connection.abort()


def refusal(address: BrokerAddress) -> BrokerError:
    """Why the first attempt fails; it must not take until the time is up."""
    begun = time.monotonic()
    with pytest.raises(BrokerError) as caught, connected(address):
        pass
    assert time.monotonic() - begun < PATIENCE / 2
    assert len(str(caught.value).splitlines()) == 1
    assert address.password is None or address.password not in str(caught.value)
    return caught.value


def rewritten(bundle: Bundle, *blocks: bytes, password: str | None = None) -> Bundle:
    """The bundle with other PEM blocks."""
    head = {"name": bundle.name, "broker": bundle.broker, "password": password or bundle.password or ""}
    path = bundle.path.with_name("rewritten.pem")
    path.touch(0o600)
    path.write_text(bundle_text(head, *blocks))
    return read_bundle(path)


def authority_of(group: BrokerDirectory) -> Authority:
    return Authority.load(*((group.path / "private" / name).read_bytes() for name in ("ca.crt", "ca.key")))


# -- who gets in -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("mosquitto")
def test_a_member_gets_in_by_tls_and_from_this_machine(group: BrokerDirectory) -> None:
    pi1 = let_in(group, "pi1")
    for url in ("", f"mqtts://127.0.0.1:{group.settings.port}", f"mqtt://127.0.0.1:{group.settings.local_port}"):
        with connected(pi1.address(url)):
            pass


@pytest.mark.usefixtures("mosquitto")
def test_a_revoked_certificate(group: BrokerDirectory) -> None:
    pi1 = let_in(group, "pi1")
    assert group.remove("pi1", now_utc())
    error = refusal(pi1.address())
    assert isinstance(error, CertificateRevokedError)
    assert "revoked" in str(error)
    # Its password was taken back as well: from this machine it needs no certificate.
    here = pi1.address(f"mqtt://127.0.0.1:{group.settings.local_port}")
    assert isinstance(refusal(here), PasswordRefusedError)


@pytest.mark.usefixtures("mosquitto")
def test_an_expired_certificate(group: BrokerDirectory) -> None:
    pi1, authority = let_in(group, "pi1"), authority_of(group)
    old = authority.member("pi1", now_utc() - timedelta(days=3), days=1)
    error = refusal(rewritten(pi1, old.certificate, old.key, authority.certificate).address())
    assert isinstance(error, CertificateExpiredError)
    assert "expired" in str(error)


@pytest.mark.usefixtures("mosquitto")
def test_a_foreign_certificate(group: BrokerDirectory, place: Path) -> None:
    """One that another authority made for the same name, with the right password."""
    pi1 = let_in(group, "pi1")
    foreign = Authority.create(now_utc()).member("pi1", now_utc())
    error = refusal(rewritten(pi1, foreign.certificate, foreign.key, authority_of(group).certificate).address())
    assert isinstance(error, ForeignCertificateError)
    assert "did not issue" in str(error)


@pytest.mark.usefixtures("mosquitto")
def test_no_certificate(group: BrokerDirectory) -> None:
    error = refusal(rewritten(let_in(group, "pi1"), authority_of(group).certificate).address())
    assert isinstance(error, ForeignCertificateError)
    assert "wants a certificate" in str(error)


@pytest.mark.usefixtures("mosquitto")
def test_the_server_s_own_certificate_lets_nobody_in(group: BrokerDirectory) -> None:
    pi1, authority = let_in(group, "pi1"), authority_of(group)
    server = authority.server(["localhost"], now_utc())
    error = refusal(rewritten(pi1, server.certificate, server.key, authority.certificate).address())
    assert isinstance(error, BrokerError)


@pytest.mark.usefixtures("mosquitto")
def test_a_broker_that_is_not_ours_is_not_told_the_password(group: BrokerDirectory, place: Path) -> None:
    elsewhere = let_in(make_group(place, "elsewhere"), "pi1")
    error = refusal(elsewhere.address(group.url))
    assert isinstance(error, ForeignCertificateError)
    assert "another authority" in str(error)


@pytest.mark.usefixtures("mosquitto")
def test_a_name_that_the_broker_does_not_have(group: BrokerDirectory) -> None:
    error = refusal(let_in(group, "pi1").address(f"mqtts://127.0.0.2:{group.settings.port}"))
    assert isinstance(error, ForeignCertificateError)
    assert "other names" in str(error)


@pytest.mark.usefixtures("mosquitto")
def test_a_wrong_password_and_another_member_s(group: BrokerDirectory) -> None:
    pi1, pi2 = let_in(group, "pi1"), let_in(group, "pi2")
    for password in ("wrong", pi2.password):
        for url in ("", f"mqtt://127.0.0.1:{group.settings.local_port}"):
            error = refusal(dataclasses.replace(pi1.address(url), password=password))
            assert isinstance(error, PasswordRefusedError)
            assert "did not accept pi1" in str(error)


def test_old_versions_of_tls_are_refused(group: BrokerDirectory, mosquitto: Served) -> None:
    bundle = let_in(group, "pi1")
    for version, accepted in ((ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True)):
        context = client_context(bundle.address())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = context.maximum_version = version
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        with socket.create_connection(("localhost", group.settings.port), PATIENCE) as raw:
            try:
                with context.wrap_socket(raw, server_hostname="localhost") as encrypted:
                    assert accepted, encrypted.version()
            except ssl.SSLError:
                assert not accepted


def with_tls_1_2(address: BrokerAddress) -> ssl.SSLContext:
    context = client_context(address)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


@pytest.mark.usefixtures("mosquitto")
def test_before_tls_1_3_the_reasons_are_the_same(group: BrokerDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """There the broker refuses a certificate in the handshake, and not after it."""
    monkeypatch.setattr(paho_transport, "client_context", with_tls_1_2)
    pi1, pi2, authority = let_in(group, "pi1"), let_in(group, "pi2"), authority_of(group)
    old = authority.member("pi2", now_utc() - timedelta(days=3), days=1)
    expired = refusal(rewritten(pi2, old.certificate, old.key, authority.certificate).address())
    assert isinstance(expired, CertificateExpiredError)
    with connected(pi1.address()) as removed:
        assert group.remove("pi1", now_utc())
        last = removed.next(Refused)
        assert isinstance(last, Refused)
        assert isinstance(last.error, CertificateRevokedError)
    assert isinstance(refusal(pi1.address()), CertificateRevokedError)


def test_the_owner_s_additions_hold(group: BrokerDirectory) -> None:
    require_mosquitto()
    (group.path / "conf.d" / "mine.conf").write_text("max_packet_size 2000\n")
    pi1 = let_in(group, "pi1")
    with serve(group, "mosquitto"), connected(pi1.address()) as client:
        client.connection.publish("legion/agents/pi1/info", b"x" * 1000)
        with pytest.raises(BrokerError, match="takes packets of 2000 bytes"):
            client.connection.publish("legion/agents/pi1/info", b"x" * 2000)


def test_each_reason_has_its_exit_code() -> None:
    kinds = (CertificateRevokedError, CertificateExpiredError, ForeignCertificateError, PasswordRefusedError)
    assert [kind.exit_code for kind in kinds] == [11, 12, 13, 14]


@pytest.mark.usefixtures("mosquitto")
def test_nobody_gets_in_without_a_name(group: BrokerDirectory) -> None:
    local = BrokerAddress("127.0.0.1", group.settings.local_port)
    assert isinstance(refusal(local), PasswordRefusedError)
    pi1 = let_in(group, "pi1").address()
    assert isinstance(refusal(dataclasses.replace(pi1, user=None, password=None)), PasswordRefusedError)


@pytest.mark.usefixtures("mosquitto")
def test_the_listener_without_tls_is_on_loopback_only(group: BrokerDirectory) -> None:
    """As the kernel sees it: addresses in hexadecimal, in the order of the bytes on the wire."""
    found: dict[int, set[str]] = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            if state == "0A":  # LISTEN
                address, port = local.split(":")
                found.setdefault(int(port, 16), set()).add(address)
    assert found[group.settings.local_port] == {"0100007F"}
    assert "00000000" in found[group.settings.port]


# -- who is cut off ----------------------------------------------------------------------------------------------------


def network_threads() -> int:
    return sum(thread.name.startswith("paho-mqtt-client") for thread in threading.enumerate())


def said(watcher: Client) -> tuple[str, str] | None:
    """The next state of an agent, with its session; None where it is cleared."""
    event = watcher.next(Message)
    assert isinstance(event, Message)
    state = codec.from_json(AgentState, event.payload) if event.payload else None
    return state and (state.state, state.session)


@pytest.mark.usefixtures("mosquitto")
def test_a_removed_member_is_cut_off_and_gives_up(group: BrokerDirectory) -> None:
    pi1, boss = let_in(group, "pi1"), let_in(group, "boss", "orchestrator")
    state = "legion/agents/pi1/state"
    threads = network_threads()
    with connected(boss.address()) as watcher:
        watcher.connection.subscribe([(state, 1)])
        with connected(pi1.address()) as removed:
            removed.connection.publish(state, codec.to_json(AgentState("online", "1")), retain=True)
            assert said(watcher) == ("online", "1")
            assert group.remove("pi1", now_utc())
            # The group hears of it, in the way it hears of any agent that came back and went.
            there, gone = said(watcher), said(watcher)
            assert (there[0], gone[0], there[1]) == ("online", "offline", gone[1])
            assert said(watcher) is None
            removed.next(Disconnected)
            last = removed.next(Refused)
            assert isinstance(last, Refused)
            assert isinstance(last.error, CertificateRevokedError)
            # It has been told once, and no thread is left that would ask again.
            deadline = time.monotonic() + PATIENCE
            while network_threads() > threads + 1:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            with pytest.raises(CertificateRevokedError):
                removed.connection.publish(state, b"here")
        watcher.connection.subscribe([("legion/agents/+/state", 1)])
        watcher.connection.publish("legion/agents/pi2/command", b"{}")
        assert watcher.connection.flush(PATIENCE)
        assert watcher.events.empty()


@pytest.mark.parametrize("kind", ["mosquitto", "embedded"])
def test_a_removed_member_is_cut_off_on_this_machine_too(group: BrokerDirectory, kind: str) -> None:
    if kind == "mosquitto":
        require_mosquitto()
    pi1, pi2 = let_in(group, "pi1"), let_in(group, "pi2")
    url = f"mqtt://127.0.0.1:{group.settings.local_port}"
    with serve(group, kind) as running, looked_after(running):  # type: ignore[arg-type]
        with connected(pi1.address(url)) as removed, connected(pi2.address(url)) as other:
            assert group.remove("pi1", now_utc())
            last = removed.next(Refused)
            assert isinstance(last, Refused)
            assert isinstance(last.error, PasswordRefusedError)
            other.connection.publish("legion/agents/pi2/state", b"x")
            assert other.connection.flush(PATIENCE)
            until_accepted(let_in(group, "pi3").address(url))
            other.connection.publish("legion/agents/pi2/state", b"x")
            assert other.connection.flush(PATIENCE)
        assert isinstance(refusal(pi1.address(url)), PasswordRefusedError)


@pytest.mark.usefixtures("mosquitto")
def test_nobody_takes_over_another_member_s_link(group: BrokerDirectory) -> None:
    """Mosquitto gives a client id to whoever names it last; so an id holds what only its owner knows."""
    with connected(let_in(group, "pi1").address(), "legion-pi1") as pi1:
        pi1.next(Connected)
        with connected(let_in(group, "pi2").address(), "legion-pi1"):
            pi1.connection.publish("legion/agents/pi1/state", b"x")
            assert pi1.connection.flush(PATIENCE)
            assert pi1.events.empty()


@contextmanager
def looked_after(running: Served) -> Iterator[None]:
    """Look after the broker as `legion broker run` does."""
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.05):
            running.check()

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(PATIENCE)


def until_accepted(address: BrokerAddress) -> None:
    """Brokers read their files again when they come round to it."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            with connected(address):
                return
        except PasswordRefusedError:
            assert time.monotonic() < deadline


def test_a_mosquitto_that_somebody_else_started_is_told(group: BrokerDirectory) -> None:
    """By the system's service, say; as root it becomes its own user, and its path may be written in other ways."""
    require_mosquitto()
    binary = find_mosquitto()
    assert binary is not None
    let_in(group, "pi1")
    pi2 = let_in(group, "pi2")
    command = [str(binary), "-c", f"../{group.path.name}/mosquitto.conf"]
    with subprocess.Popen(command, cwd=group.path, stderr=subprocess.PIPE) as process:
        try:
            assert process.stderr is not None
            while b" running" not in process.stderr.readline():
                assert process.poll() is None
            assert mosquitto_processes(group.config) == [process.pid]
            # A second one fails on the ports, and takes nothing of the first one's with it.
            assert subprocess.run(command, cwd=group.path, capture_output=True, timeout=60, check=False).returncode
            assert group.remove("pi1", now_utc())
            with connected(pi2.address()):
                pass
        finally:
            process.terminate()


def test_a_broker_that_does_not_notice_is_named(group: BrokerDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    pi1 = let_in(group, "pi1")
    url = f"mqtt://127.0.0.1:{group.settings.local_port}"
    monkeypatch.setattr(farewell, "_SECONDS", 0.3)
    with serve(group, "embedded"):  # which nobody looks after
        with pytest.raises(BrokerError, match="pi1 is removed, but the broker at"):
            group.remove("pi1", now_utc())
        with connected(pi1.address(url)):
            pass
    with serve(group, "embedded"):
        assert isinstance(refusal(pi1.address(url)), PasswordRefusedError)


def test_without_a_broker_a_member_is_removed_for_the_next_one(group: BrokerDirectory) -> None:
    let_in(group, "pi1")
    assert not group.remove("pi1", now_utc())
    assert group.passwords.read_text() == ""


# -- running -----------------------------------------------------------------------------------------------------------


def test_what_is_retained_lives_through_a_restart(group: BrokerDirectory) -> None:
    require_mosquitto()
    pi1, eye = let_in(group, "pi1"), let_in(group, "eye", "observer")
    with serve(group) as running:
        assert running.endpoints == (group.url, f"mqtt://127.0.0.1:{group.settings.local_port}")
        assert running.lacking == ()
        with connected(pi1.address()) as client:
            client.connection.publish("legion/agents/pi1/profile", b"minutes of work", retain=True)
            assert client.connection.flush(PATIENCE)
    with serve(group), connected(eye.address()) as client:
        client.connection.subscribe([("legion/agents/+/profile", 1)])
        event = client.next(Message)
        assert isinstance(event, Message)
        assert event.payload == b"minutes of work"


def test_the_embedded_broker_says_what_it_cannot(group: BrokerDirectory) -> None:
    with serve(group, "embedded") as running:
        assert running.endpoints == (f"mqtt://127.0.0.1:{group.settings.local_port}",)
        assert any("no TLS" in sentence for sentence in running.lacking)


@pytest.mark.parametrize("kind", ["mosquitto", "embedded"])
def test_a_port_that_is_taken_is_named(group: BrokerDirectory, kind: str) -> None:
    if kind == "mosquitto":
        require_mosquitto()
    with (
        socket.create_server(("127.0.0.1", group.settings.local_port)),
        pytest.raises(BrokerError, match=rf"(?s){group.settings.local_port}.*in use") as caught,
        serve(group, kind),  # type: ignore[arg-type]
    ):
        pass
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.usefixtures("mosquitto")
def test_an_end_of_mosquitto_is_noticed(group: BrokerDirectory, mosquitto: Served) -> None:
    mosquitto.check()
    (pid,) = mosquitto_processes(group.config)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(BrokerError, match="ended with code"):
        check_until_the_end(mosquitto)


def test_mosquitto_goes_on_where_nobody_reads_what_it_says(
    group: BrokerDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_mosquitto()

    def nobody(*_: object, **__: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("builtins.print", nobody)
    pi1 = let_in(group, "pi1")
    with serve(group, "mosquitto"), connected(pi1.address()):
        pass


def check_until_the_end(running: Served) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        running.check()
        time.sleep(0.05)


def over_websockets(bundle: Bundle, port: int) -> int:
    """The reason code of a browser's CONNECT, which shows no certificate."""
    codes: queue.SimpleQueue[int] = queue.SimpleQueue()
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, transport="websockets", protocol=paho.MQTTv5)
    client.username_pw_set(bundle.name, bundle.password)
    client.tls_set(str(bundle.path))
    client.on_connect = lambda _client, _data, _flags, reason, _properties: codes.put(reason.value)
    client.connect("localhost", port)
    client.loop_start()
    try:
        return codes.get(timeout=PATIENCE)
    finally:
        client.disconnect()
        client.loop_stop()


def test_browsers_get_in_where_mosquitto_can(place: Path) -> None:
    require_mosquitto()
    group = make_group(place, websockets=True)
    phone = let_in(group, "phone", "client")
    with serve(group, "mosquitto") as running:
        if running.lacking:
            assert "without websockets" in running.lacking[0]
            return
        assert over_websockets(phone, group.settings.websockets_port) == 0
        wrong = dataclasses.replace(phone, password="wrong")
        assert over_websockets(wrong, group.settings.websockets_port) == 0x87


def test_a_mosquitto_without_websockets_serves_the_rest(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stops at the line, in these words (mosquitto's src/conf.c)."""
    require_mosquitto()
    built_without = place / "mosquitto-without"
    built_without.write_text(
        "#!/bin/sh\nif grep -q '^protocol websockets' \"$2\"; then\n"
        "  echo 'Error: Websockets support not available.' >&2; exit 3\nfi\n"
        f'exec {find_mosquitto()} "$@"\n'
    )
    built_without.chmod(0o755)
    monkeypatch.setattr(serving, "find_mosquitto", lambda: built_without)
    group = make_group(place, websockets=True)
    pi1 = let_in(group, "pi1")
    with serve(group) as running:
        assert "without websockets" in running.lacking[0]
        with connected(pi1.address()):
            pass
