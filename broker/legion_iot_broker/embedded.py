"""An MQTT 3.1.1 and 5 broker of the standard library's, for one machine and a handful of clients.

It steps in where Mosquitto is missing (docs/embedded-broker.md says what it leaves out). One thread, one selector,
no queue without a limit. A payload is received into the buffer it is sent from, so fan-out copies nothing.

Run it in this process with `EmbeddedBroker`, or as one of its own: `python -m legion_iot_broker.embedded --port 1883`.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from types import TracebackType

from legion_iot.errors import BrokerError, InputError, LegionError, UsageError
from legion_iot.transport.connection import BrokerAddress, is_loopback
from legion_iot_broker.access import AccessList, Users, password_file
from legion_iot_broker.framing import Framer
from legion_iot_broker.hub import Counters, Hub, Session
from legion_iot_broker.limits import DEFAULT_LIMITS, BrokerLimits
from legion_iot_broker.packets import KEEP_ALIVE_TIMEOUT, SERVER_BUSY, SERVER_SHUTTING_DOWN, V5, connack
from legion_iot_broker.protocol import Conversation, Ended
from legion_iot_broker.wire_format import PacketError

logger = logging.getLogger(__name__)

_SCRATCH_BYTES = 128 << 10
# One client's turn: after so many bytes the others are looked at.
_TURN_BYTES = 1 << 20
_BUFFERS_AT_ONCE = 64
_TICK_SECONDS = 0.5
_STOP_SECONDS = 5.0
_PAUSE_SECONDS = 0.05
_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class _Link:
    """One accepted socket."""

    __slots__ = ("conversation", "framer", "heard", "mask", "sock")

    def __init__(self, sock: socket.socket, conversation: Conversation, framer: Framer, now: float) -> None:
        self.sock = sock
        self.conversation = conversation
        self.framer = framer
        self.heard = now
        self.mask = _READ


class EmbeddedBroker:
    """A broker in a thread of its own; `users` are clear passwords by name, `acl` is the text of an ACL file.

    Anonymous clients are accepted on loopback only, unless `anonymous` says so (an isolated network of a lab).
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        users: Users | Mapping[str, str] | None = None,
        acl: str | None = None,
        limits: BrokerLimits = DEFAULT_LIMITS,
        anonymous: bool | None = None,
    ) -> None:
        self._anonymous = users is None if anonymous is None else anonymous
        if self._anonymous and anonymous is None and not is_loopback(host):
            raise UsageError(f"a broker on {host} can be reached from outside: give it users and passwords")
        self._host = host
        self._port = port
        self._users = users if isinstance(users, Users) or users is None else Users(password_file(users))
        self._acl = None if acl is None else AccessList.parse(acl)
        self._limits = limits
        self._hub = Hub(limits, self._acl)
        self._reloaded: tuple[Users, AccessList] | None = None
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._links: dict[Session, _Link] = {}
        self._open: set[_Link] = set()
        self._scratch = memoryview(bytearray(_SCRATCH_BYTES))

    @property
    def address(self) -> BrokerAddress:
        """Where it listens; the port is known after the start."""
        return BrokerAddress(self._host, self._port)

    @property
    def counters(self) -> Counters:
        """What went wrong or was left out since the start."""
        return self._hub.counters

    def start(self) -> int:
        """Listen and serve; returns the port. Raises `BrokerError` when the port cannot be had."""
        if self._thread is not None:
            raise BrokerError("the embedded broker is running already: stop it first")
        try:
            self._listener = socket.create_server(
                (self._host, self._port), family=socket.AF_INET6 if ":" in self._host else socket.AF_INET, backlog=256
            )
        except OSError as error:
            raise BrokerError(f"cannot listen on {self.address.endpoint}: {error.strerror or error}") from error
        self._port = self._listener.getsockname()[1]
        self._listener.setblocking(False)
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, _READ)
        self._selector.register(self._wake_in, _READ)
        self._hub = Hub(self._limits, self._acl)
        self._stopping = False
        self._thread = threading.Thread(target=self._serve, name=f"mqtt-broker-{self._port}", daemon=True)
        self._thread.start()
        return self._port

    def reload(self, users: Users, acl: str) -> None:
        """Take other users and another access list, soon; who is no longer let in is cut off. Raises `UsageError`."""
        self._reloaded = users, AccessList.parse(acl)
        with contextlib.suppress(OSError):
            self._wake_out.send(b"\0")

    def stop(self) -> None:
        """Close every link, without publishing wills, and end the thread. Idempotent."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._stopping = True
        with contextlib.suppress(OSError):
            self._wake_out.send(b"\0")
        thread.join(_STOP_SECONDS)

    def __enter__(self) -> EmbeddedBroker:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # -- the thread ------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        next_tick = time.monotonic()
        try:
            while not self._stopping:
                for key, mask in self._selector.select(_TICK_SECONDS):
                    link = key.data
                    if link is None:
                        if key.fileobj is self._listener:
                            self._accept()
                        else:
                            self._wake_up()
                        continue
                    if mask & _READ and link in self._open:
                        self._guarded_read(link)
                    if mask & _WRITE and link in self._open and link.conversation.session is not None:
                        self._hub.dirty.add(link.conversation.session)
                self._settle()
                if (now := time.monotonic()) >= next_tick:
                    self._end_silent(now)
                    self._settle()
                    next_tick = now + _TICK_SECONDS
        finally:
            self._release_everything()

    def _wake_up(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake_in.recv(_BUFFERS_AT_ONCE)
        if self._reloaded is None:
            return
        before = self._users
        (self._users, self._acl), self._reloaded = self._reloaded, None
        users = self._users
        self._hub.adopt(self._acl, lambda user: user is None or before is None or not users.keeps(user, before))
        for link in list(self._open):  # they hold the users of before
            if link.conversation.session is None:
                self._end(link, b"", with_will=False)

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError as error:  # no file descriptors left: the client stays in the backlog
            logger.warning("cannot accept a client: %s", error)
            time.sleep(_PAUSE_SECONDS)
            return
        try:
            sock.setblocking(False)
            # Small answers must not wait for the acknowledgement of earlier ones.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:  # some systems say only now that the client has gone already
            sock.close()
            return
        if len(self._open) >= self._limits.clients:
            logger.warning("refusing a client: %d are connected", len(self._open))
            with contextlib.suppress(OSError):
                sock.send(connack(V5, SERVER_BUSY))
            sock.close()
            return
        conversation = Conversation(self._hub, self._users, anonymous=self._anonymous)
        link = _Link(sock, conversation, Framer(self._limits.connect_bytes), time.monotonic())
        self._open.add(link)
        self._selector.register(sock, _READ, link)

    def _guarded_read(self, link: _Link) -> None:
        """Read one client's turn; whatever is wrong with what it sent ends that client only."""
        try:
            self._read(link)
        except PacketError as error:
            self._hub.counters.malformed += 1
            logger.warning("cutting off %s: %s", link.conversation.name, error)
            self._end(link, link.conversation.farewell(error.reason), with_will=True)
        except Ended as ended:
            self._end(link, ended.farewell, with_will=ended.with_will)
        except OSError:
            self._end(link, b"", with_will=True)
        except Exception:
            self._hub.counters.defects += 1
            logger.exception("serving %s failed; this is a defect", link.conversation.name)
            self._end(link, b"", with_will=True)

    def _read(self, link: _Link) -> None:
        turn = _TURN_BYTES
        while turn > 0 and link in self._open:
            space = link.framer.space()
            target = self._scratch if space is None else space[:_TURN_BYTES]
            try:
                size = link.sock.recv_into(target)
            except (BlockingIOError, InterruptedError):
                return
            if size == 0:
                raise Ended(with_will=True)
            link.heard = time.monotonic()
            turn -= size
            if space is not None:
                if (packet := link.framer.filled(size)) is not None:
                    self._handle(link, *packet)
                continue
            for first, body in link.framer.feed(target[:size]):
                self._handle(link, first, body)
            if size < len(target):
                return

    def _handle(self, link: _Link, first: int, body: memoryview) -> None:
        conversation = link.conversation
        fresh = conversation.session is None
        conversation.handle(first, body)
        if fresh and conversation.session is not None:
            self._links[conversation.session] = link
            link.framer.limit = self._limits.packet_bytes
        if conversation.session in self._hub.doomed:
            raise Ended(conversation.farewell(self._hub.doomed[conversation.session]), with_will=True)

    def _settle(self) -> None:
        """Write what is due and cut whom the hub gave up, until neither causes more of the other."""
        while self._hub.dirty or self._hub.doomed:
            doomed, self._hub.doomed = self._hub.doomed, {}
            for session, reason in doomed.items():
                if (link := self._links.get(session)) is not None:
                    self._end(link, link.conversation.farewell(reason), with_will=True)
            dirty, self._hub.dirty = self._hub.dirty, set()
            for session in dirty:
                if (link := self._links.get(session)) is not None:
                    self._write(link, session)

    def _write(self, link: _Link, session: Session) -> None:
        try:
            while session.outgoing:
                session.written(link.sock.sendmsg(list(islice(session.outgoing, _BUFFERS_AT_ONCE))))
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self._end(link, b"", with_will=True)
            return
        mask = _READ | (_WRITE if session.outgoing else 0)
        if mask != link.mask:
            self._selector.modify(link.sock, mask, link)
            link.mask = mask

    def _end(self, link: _Link, farewell: bytes, *, with_will: bool) -> None:
        if link not in self._open:
            return
        self._open.discard(link)
        session = link.conversation.session
        self._selector.unregister(link.sock)
        with contextlib.suppress(OSError):
            # A last word in the middle of a packet would only confuse.
            if session is not None and session.outgoing:
                session.written(link.sock.sendmsg(list(islice(session.outgoing, _BUFFERS_AT_ONCE))))
            if farewell and (session is None or not session.outgoing):
                link.sock.send(farewell)
            link.sock.shutdown(socket.SHUT_WR)
        link.sock.close()
        if session is not None:
            del self._links[session]
            self._hub.detach(session, with_will=with_will)
            self._hub.doomed.pop(session, None)

    def _end_silent(self, now: float) -> None:
        """Cut the links that said nothing for 1.5 × their keep-alive (MQTT-3.1.2-22), or never said who they are."""
        for link in list(self._open):
            if link.conversation.session is None:
                if now - link.heard > self._limits.connect_seconds:
                    self._end(link, b"", with_will=False)
            elif (keep_alive := link.conversation.keep_alive) and now - link.heard > 1.5 * keep_alive:
                logger.warning("cutting off %s: silent for 1.5 keep-alives", link.conversation.name)
                self._end(link, link.conversation.farewell(KEEP_ALIVE_TIMEOUT), with_will=True)

    def _release_everything(self) -> None:
        for link in list(self._open):
            self._end(link, link.conversation.farewell(SERVER_SHUTTING_DOWN), with_will=False)
        self._hub.dirty.clear()
        self._selector.close()
        for sock in (self._listener, self._wake_in, self._wake_out):
            sock.close()


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM; prints `listening on HOST:PORT` when ready."""
    parser = argparse.ArgumentParser(prog="python -m legion_iot_broker.embedded", description="An MQTT broker.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=1883, help="0 takes a free one")
    parser.add_argument("--password-file", type=Path, help="as mosquitto_passwd writes it")
    parser.add_argument("--acl-file", type=Path, help="in Mosquitto's format; what it does not allow is denied")
    parser.add_argument("--anonymous", action="store_true", help="accept clients without a user, on any address")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    done = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: done.set())
    try:
        users = None if options.password_file is None else Users(_text(options.password_file))
        acl = None if options.acl_file is None else _text(options.acl_file)
        broker = EmbeddedBroker(
            options.host, options.port, users=users, acl=acl, anonymous=True if options.anonymous else None
        )
        broker.start()
    except LegionError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(f"listening on {broker.address.endpoint}", flush=True)
    done.wait()
    broker.stop()
    return 0


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
