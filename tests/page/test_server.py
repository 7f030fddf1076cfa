"""What the page's server gives to whom: files with their headers, the way to the broker, and refusals."""

from __future__ import annotations

import errno
import re
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from legion_iot.cli import orchestrator_watchers
from legion_iot.configuration.programs import configured
from legion_iot.errors import UsageError
from legion_iot.page import relay, server
from legion_iot.page.live import LivePage
from legion_iot.transport.connection import BrokerAddress
from legion_iot.transport.listening import ListenAddress
from legion_iot_broker.embedded import EmbeddedBroker
from tests.broker.groups import free_ports, let_in, mosquitto_with_group, open_place
from tests.system.conftest import require_mosquitto

from .conftest import PATIENCE, STATIC, fetch, live_page

CONNECT = bytes.fromhex("101000044d5154540502000a00000374736b")  # as "tsk", clean, without a user
PING, PONG = b"\xc0\x00", b"\xd0\x00"


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker(port=0) as running:
        yield running


@pytest.fixture
def url(broker: EmbeddedBroker) -> Iterator[str]:
    with live_page(broker.address, "kitchen/test", ("Pi.Example.org",)) as url:
        yield url


def open_websocket(url: str, **options: object) -> ClientConnection:
    place = url.replace("http", "ws", 1) + "mqtt"
    return connect(place, **{"subprotocols": ["mqtt"], "open_timeout": PATIENCE, **options})  # type: ignore[arg-type]


def test_every_file_is_served_and_nothing_else(url: str) -> None:
    for file in STATIC.iterdir():
        status, headers, content = fetch(url, "/" if file.name == "index.html" else f"/{file.name}")
        assert (status, content) == (200, file.read_bytes())
        kind = {"html": "text/html", "css": "text/css", "mjs": "text/javascript", "svg": "image/svg+xml"}
        assert headers["content-type"].startswith(kind[file.suffix[1:]])
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in headers["content-security-policy"]
    status, _, content = fetch(url, "/settings.json")
    assert (status, content) == (200, b'{"schema": 1, "base_topic": "kitchen/test", "login": false}')
    for path in ("/index", "/../server.py", "/%2e%2e/server.py", "//etc/passwd", "/static/page.css"):
        assert fetch(url, path)[0] == 404


def test_the_page_holds_no_script_no_style_and_nothing_from_elsewhere() -> None:
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=", page) == []
    for file in STATIC.iterdir():
        addresses = re.findall(r"https?://[^\s\"')]+", file.read_text(encoding="utf-8"))
        assert set(addresses) <= {"http://www.w3.org/2000/svg"}  # a namespace
    assert set(re.findall(r'(?:src|href)="([^"]+)"', page)) <= {file.name for file in STATIC.iterdir()}


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:80", 200), ("localhost", 200), ("LOCALHOST:1", 200), ("[::1]:80", 200), ("10.1.2.3:8080", 200),
        ("pi.example.org", 200), ("pi.example.org:8443", 200), ("example.org", 403), ("evil.localhost.com", 403),
        ("127.0.0.1.example.org", 403), ("", 403), ("[", 403), ("127.0.0.1@example.org", 403),
    ],
)  # fmt: skip
def test_only_known_names_and_addresses_call_the_page(url: str, host: str, status: int) -> None:
    assert fetch(url, "/", Host=host)[0] == status


def test_a_websocket_is_a_way_to_the_broker_in_frames_of_any_size(url: str) -> None:
    with open_websocket(url, origin=url.rstrip("/")) as socket_:
        assert socket_.subprotocol == "mqtt"
        for byte in CONNECT:
            socket_.send(bytes([byte]))
        assert socket_.recv(PATIENCE)[0] == 0x20  # type: ignore[comparison-overlap]
        socket_.send(PING + PING)
        answer = b""
        while len(answer) < 4:
            answer += socket_.recv(PATIENCE)  # type: ignore[operator]
        assert answer == PONG + PONG


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"origin": "http://example.org"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1"}, 403),  # another port
        ({"subprotocols": ["mqttv3.1"]}, 400),
        ({"subprotocols": None}, 400),
        ({"additional_headers": {"Host": "example.org"}, "origin": "http://example.org"}, 403),
    ],
)
def test_others_get_no_way_to_the_broker(url: str, options: dict[str, object], status: int) -> None:
    with pytest.raises(InvalidStatus) as refused, open_websocket(url, **options):
        pass
    assert refused.value.response.status_code == status


def test_behind_a_proxy_with_tls_the_page_is_of_that_name(url: str) -> None:
    place = url.replace("127.0.0.1", "pi.example.org")
    port = int(url.rstrip("/").rpartition(":")[2])
    for origin, host in (("https://pi.example.org", "pi.example.org"), (place.rstrip("/"), f"pi.example.org:{port}")):
        raw = socket.create_connection(("127.0.0.1", port), PATIENCE)
        with connect(f"ws://{host}/mqtt", sock=raw, subprotocols=["mqtt"], origin=origin) as socket_:  # type: ignore[arg-type, list-item]
            socket_.send(CONNECT)
            assert socket_.recv(PATIENCE)[0] == 0x20  # type: ignore[comparison-overlap]


def closed(socket_: ClientConnection) -> int:
    """The code with which the server closes."""
    try:
        while True:
            socket_.recv(PATIENCE)
    except ConnectionClosed as ended:
        return ended.rcvd.code if ended.rcvd is not None else 0


def test_text_and_too_much_at_once_end_the_link(url: str) -> None:
    with open_websocket(url) as socket_:
        socket_.send("hello")
        assert closed(socket_) == relay.UNSUPPORTED_DATA
    with open_websocket(url) as socket_:
        socket_.send(bytes(server.MOST_MESSAGE + 1))
        assert closed(socket_) == 1009  # RFC 6455: too big


def test_the_link_ends_with_the_brokers(broker: EmbeddedBroker, url: str) -> None:
    with open_websocket(url) as socket_:
        socket_.send(CONNECT)
        assert socket_.recv(PATIENCE)[0] == 0x20  # type: ignore[comparison-overlap]
        broker.stop()
        assert closed(socket_) == relay.TRY_AGAIN_LATER
    with open_websocket(url) as socket_:
        socket_.send(CONNECT)
        assert closed(socket_) == relay.TRY_AGAIN_LATER


def test_a_broker_that_dies_is_told_as_one_that_ends() -> None:
    """It resets the link, so that reading and writing fail."""
    with socket.create_server(("127.0.0.1", 0)) as dying:
        address = BrokerAddress("127.0.0.1", dying.getsockname()[1])
        with live_page(address) as url, open_websocket(url) as socket_:
            socket_.send(CONNECT)
            accepted, _ = dying.accept()
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            accepted.close()
            assert closed(socket_) == relay.TRY_AGAIN_LATER


def test_a_broker_that_dies_before_its_link_is_set_up_is_told_too(
    broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(sock: object, keep_alive: int) -> None:
        raise OSError(errno.EBADF, "Bad file descriptor")  # as asyncio says of a link that was cut

    monkeypatch.setattr(relay, "tune", gone)
    with live_page(broker.address) as url, open_websocket(url) as socket_:
        socket_.send(CONNECT)
        assert closed(socket_) == relay.TRY_AGAIN_LATER


def test_who_says_nothing_is_not_waited_for(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "FIRST_SECONDS", 0.05)
    with open_websocket(url) as socket_:
        assert closed(socket_) == 1000


def test_no_more_browsers_than_the_limit(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MOST_BROWSERS", 1)
    with open_websocket(url) as first:
        first.send(CONNECT)
        first.recv(PATIENCE)
        with pytest.raises(InvalidStatus) as refused, open_websocket(url):
            pass
        assert refused.value.response.status_code == 503
        assert fetch(url, "/")[0] == 200


def test_a_broker_that_does_not_read_stops_the_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what a browser sends, only so much is taken as fits into buffers of fixed sizes."""
    monkeypatch.setattr(server, "CLOSE_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        address = BrokerAddress("127.0.0.1", deaf.getsockname()[1])
        with live_page(address) as url, open_websocket(url) as socket_:
            piece = bytes(server.MOST_MESSAGE)
            sent = 0
            stuck = threading.Event()

            def send() -> None:
                nonlocal sent
                try:
                    for _ in range(64):
                        socket_.send(piece)
                        sent += 1
                except ConnectionClosed:
                    stuck.set()

            sender = threading.Thread(target=send)
            sender.start()
            accepted, _ = deaf.accept()
            with accepted:
                assert accepted.recv(1) == b"\0"
                sender.join(0.5)  # all of it would be through within that time
                assert sender.is_alive()
                assert sent < 64
                accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            assert stuck.wait(PATIENCE)
            sender.join(PATIENCE)


def test_a_taken_port_and_an_address_of_nobody_are_a_users_mistake(broker: EmbeddedBroker) -> None:
    (port,) = free_ports(1)
    with socket.create_server(("127.0.0.1", port)):
        for listen in (ListenAddress("127.0.0.1", port), ListenAddress("192.0.2.1", 0)):
            page = LivePage(listen, (), broker.address, "legion", print)
            with pytest.raises(UsageError, match="--page"):
                page.start()
            page.close()


def test_where_others_can_reach_the_page_that_is_said(broker: EmbeddedBroker) -> None:
    said: list[str] = []
    page = LivePage(ListenAddress("0.0.0.0", 0), (), broker.address, "legion", said.append)
    page.start()
    page.close()
    page.close()
    assert len(said) == 2
    assert "not encrypted" in said[1]


def test_without_the_extra_it_is_said_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orchestrator_watchers, "find_spec", lambda name: None)
    told = {"page": "127.0.0.1:0", "state_dir": str(tmp_path)}
    settings, _ = configured("orchestrator", told, {}, Path("/dev/null"))
    with pytest.raises(UsageError, match=r"pip install 'legion-iot\[page\]'"):
        list(orchestrator_watchers.watchers(settings, BrokerAddress("127.0.0.1")))


def test_the_orchestrators_certificate_opens_the_door_but_is_nobodys_name() -> None:
    require_mosquitto()
    with open_place() as place, mosquitto_with_group(place) as group:
        hub = let_in(group, "orchestrator", "orchestrator")
        with live_page(hub.address(), group.settings.base_topic) as url:
            assert fetch(url, "/settings.json")[2].endswith(b'"login": true}')
            with open_websocket(url) as socket_:
                socket_.send(CONNECT)
                answer = socket_.recv(PATIENCE)
                assert (answer[0], answer[3]) == (0x20, 0x87)  # not authorised


def test_no_page_where_the_certificate_alone_would_be_enough(broker: EmbeddedBroker) -> None:
    """The broker takes any password here, as one does that takes a member's name from its certificate."""
    address = replace(broker.address, certificate=Path("hub.pem"))
    page = LivePage(ListenAddress("127.0.0.1", 0), (), address, "legion", print)
    with pytest.raises(UsageError, match="no password beside the certificate"):
        page.start()
    page.close()
