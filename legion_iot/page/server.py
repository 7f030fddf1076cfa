"""The page's server: its files by HTTP, and MQTT over websockets on `/mqtt`, relayed to the group's broker.

It gives nobody any right: what a browser may see or do is between it and the broker. What is refused here is what a
browser would do for somebody else: a page of another origin that connects (`Origin`), and a name that was made to
point to this machine (DNS rebinding, `Host`).
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import ipaddress
import logging
import os
import socket
import ssl
import threading
from dataclasses import replace
from urllib.parse import urlsplit

from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from legion_iot.errors import UsageError
from legion_iot.page.files import HEADERS, File
from legion_iot.page.relay import relay
from legion_iot.transport.connection import BrokerAddress
from legion_iot.transport.listening import ListenAddress

log = logging.getLogger("legion-page")

MQTT_PATH = "/mqtt"
MOST_BROWSERS = 64  # with a connection to the broker
MOST_MESSAGE = 1 << 20  # bytes of one websocket message; pictures come in several
MOST_WAITING = (4, 2)  # messages of one browser that wait for the broker, and when more are read
MOST_UNSENT = 256 << 10  # bytes for one browser that wait for it
OPEN_SECONDS = 10.0  # for a browser to say what it wants
PING_SECONDS = 20.0  # a browser that does not answer for that long is gone
CLOSE_SECONDS = 2.0


class PageServer:
    """Serves the page from `start` to `close`, on a thread of its own; `names` are hosts by which it may be called."""

    def __init__(
        self,
        listen: ListenAddress,
        names: tuple[str, ...],
        broker: BrokerAddress,
        tls: ssl.SSLContext | None,
        content: dict[str, File],
    ) -> None:
        self._listen = listen
        self._names = {"localhost", *(name.lower() for name in names)}
        self._broker, self._tls, self._content = broker, tls, content
        self._browsers = 0
        self._ending = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> str:
        """Begin to listen; the page's URL. Raises UsageError where nobody can listen there."""
        family = socket.AF_INET6 if ":" in self._listen.host else socket.AF_INET
        try:
            listening = socket.create_server((self._listen.host, self._listen.port), family=family)
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else error  # its own text repeats the address
            raise UsageError(f"the page cannot be at {self._listen} ({why}); give another address (--page)") from None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(self._loop, listening), name="page", daemon=True)
        self._thread.start()
        return f"http://{replace(self._listen, port=listening.getsockname()[1])}/"

    def close(self) -> None:
        """Say goodbye to the browsers and end; idempotent."""
        if self._loop is not None and self._thread is not None and self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # it has just ended
                self._loop.call_soon_threadsafe(self._ending.set)
            self._thread.join(2 * CLOSE_SECONDS)

    def _run(self, loop: asyncio.AbstractEventLoop, listening: socket.socket) -> None:
        try:
            loop.run_until_complete(self._serve(listening))
        finally:
            loop.close()

    async def _serve(self, listening: socket.socket) -> None:
        async with serve(
            self._relay,
            sock=listening,
            subprotocols=["mqtt"],  # type: ignore[list-item]  # a NewType of str
            process_request=self._answer,
            compression=None,
            server_header=None,
            open_timeout=OPEN_SECONDS,
            ping_interval=PING_SECONDS,
            ping_timeout=PING_SECONDS,
            close_timeout=CLOSE_SECONDS,
            max_size=MOST_MESSAGE,
            max_queue=MOST_WAITING,
            write_limit=MOST_UNSENT,
        ):
            await self._ending.wait()

    async def _relay(self, browser: ServerConnection) -> None:
        self._browsers += 1
        try:
            await relay(browser, self._broker, self._tls)
        finally:
            self._browsers -= 1

    def _answer(self, connection: ServerConnection, request: Request) -> Response | None:
        """A file, a refusal, or None where a websocket may be opened."""
        host = _only(request.headers, "Host").lower()
        if not self._may_be_called(host):
            return _text(403, "This page is not for that host; if it shall be, name it in page_names.\n")
        path = request.path.partition("?")[0]
        if path != MQTT_PATH:
            found = self._content.get(path)
            return _response(200, found) if found else _text(404, "There is no such file.\n")
        if "mqtt" not in [each.strip() for each in _only(request.headers, "Sec-WebSocket-Protocol").split(",")]:
            return _text(400, "This is MQTT over websockets.\n")
        # What is no browser names no origin, and could name any. A proxy in front may have added TLS.
        if "Origin" in request.headers and _only(request.headers, "Origin").lower() not in (
            f"http://{host}",
            f"https://{host}",
        ):
            return _text(403, "Only the page that is served here may connect.\n")
        if self._browsers >= MOST_BROWSERS:
            return _text(503, "Too many pages are open.\n")
        return None

    def _may_be_called(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self._names:
            return True
        try:
            ipaddress.ip_address(name)  # nobody can make an address point elsewhere
        except ValueError:
            return False
        return True


def _only(headers: Headers, name: str) -> str:
    """The header's value, empty where it is missing or there are several."""
    values = headers.get_all(name)
    return values[0] if len(values) == 1 else ""


def _text(status: int, text: str) -> Response:
    return _response(status, File("text/plain; charset=utf-8", text.encode()))


def _response(status: int, file: File) -> Response:
    headers = Headers([
        ("Content-Type", file.content_type), ("Content-Length", str(len(file.content))), ("Connection", "close"),
        *HEADERS,
    ])  # fmt: skip
    return Response(status, http.HTTPStatus(status).phrase, headers, file.content)
