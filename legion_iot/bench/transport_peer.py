"""The other processes of the transport bench: the peer that answers, and the relay that stands where a broker would.

Both end when the process that started them closes its pipe, or is gone.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import resource
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from legion_iot.bench.transport_ends import ANSWER, End, MqttEnd, OurEnd, PlainEnd, TcpEnd
from legion_iot.errors import BrokerError
from legion_iot.lab.proxy import Proxy
from legion_iot.lab.spec import Link
from legion_iot.transport.connection import BrokerAddress

START_TIMEOUT = 30.0  # seconds
POLL = 0.5
RELAY_BUFFER = 256 << 10

Spent = tuple[float, float, float]  # CPU seconds: user and system of the whole process, and what decoding took


@dataclass(slots=True)
class Child:
    """A process of ours and the pipe to it; `first` is the first thing it said."""

    process: Any
    pipe: Connection
    first: Any

    def ask(self, question: str) -> Any:
        """Its answer; raises BrokerError where it is silent or gone."""
        try:
            self.pipe.send(question)
            return _hear(self.pipe)
        except OSError:
            raise BrokerError("a process of the bench ended early; run the bench again") from None


@contextlib.contextmanager
def child(target: Callable[..., None], *arguments: Any) -> Iterator[Child]:
    """Run `target(pipe, *arguments)` in a process of its own, which has said its first word; ended on leaving."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs, *arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        yield Child(process, ours, _hear(ours))
    finally:
        ours.close()
        process.join(2.0)
        process.kill()
        process.join()


def _hear(pipe: Connection) -> Any:
    try:
        if pipe.poll(START_TIMEOUT):
            return pipe.recv()
    except EOFError:
        pass
    raise BrokerError("a process of the bench does not answer; run the bench again")


def relay(pipe: Connection, host: str, target: tuple[str, int]) -> None:
    """Pass on bytes between one client, who comes to `host` on the port it says, and `target`, both ways."""
    with socket.create_server((host, 0)) as listener:
        pipe.send(listener.getsockname()[1])
        near, _ = listener.accept()
    far = socket.create_connection(target)
    for source, sink in ((near, far), (far, near)):
        source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_pass_on, args=(source, sink), daemon=True).start()
    with contextlib.suppress(EOFError, OSError):
        pipe.recv()


def emulated_link(pipe: Connection, host: str, mbit: float, upstreams: Sequence[tuple[str, int]]) -> None:
    """A device's link without root: says the ports on `host` at which the upstreams can be reached at that rate."""
    proxy = Proxy()
    ports = proxy.add(Link(mbit, mbit), host, upstreams)
    with proxy:
        pipe.send(ports)
        with contextlib.suppress(EOFError, OSError):
            pipe.recv()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    buffer = memoryview(bytearray(RELAY_BUFFER))
    with contextlib.suppress(OSError):
        while size := source.recv_into(buffer):
            sink.sendall(buffer[:size])


def peer(
    pipe: Connection, listener: socket.socket, brokers: dict[str, BrokerAddress], kinds: Sequence[type[MqttEnd]]
) -> None:
    """Answer what comes on every way, each in a thread of its own; says what it spent when asked."""
    ends = [
        kind(address, "b", "a")
        for address in brokers.values()
        for kind in kinds
        if kind is not PlainEnd or not address.tls
    ]
    ours = [end for end in ends if type(end) is OurEnd]
    stop = threading.Event()
    for end in ends:
        threading.Thread(target=_serve, args=(end, stop), daemon=True).start()
    threading.Thread(target=_serve_tcp, args=(listener, stop), daemon=True).start()
    pipe.send("ready")
    with contextlib.suppress(EOFError, OSError):
        while pipe.recv():
            pipe.send(spent(sum(end.decoding for end in ours)))
    stop.set()


def spent(coding: float) -> Spent:
    """What this process has used so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime, used.ru_stime, coding


def _serve_tcp(listener: socket.socket, stop: threading.Event) -> None:
    sock, _ = listener.accept()
    _serve(TcpEnd(sock), stop)


def _serve(end: End, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            arrived = end.receive(POLL)
        except (BrokerError, OSError):
            return  # the one who measures has left
        if arrived is None or arrived.wish == "none":
            continue
        end.send(arrived.index if arrived.wish == "echo" else ANSWER, "none", arrived.qos)
