"""A TCP relay with the rate, the delay and the losses of a device's link, for many links in one thread.

Each link has ports to listen on, each with a place to connect to; all its connections share its two wires. What a wire
cannot take waits in the sender's own socket, so no queue here grows beyond what is under way. Opening a connection is
not delayed. `select` is used because its timeout has microseconds, where epoll's has whole milliseconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from legion_iot.errors import BrokerError
from legion_iot.lab.pacing import Wire, bytes_per_second
from legion_iot.lab.spec import Link

LONGEST_WAIT = 1.0  # seconds
CONNECT_TIMEOUT = 2.0
STOP_TIMEOUT = 5.0
MOST_LATENESS = 0.0005
OWN_DELAY = 0.0001  # seconds that relaying takes by itself, about, on a desktop machine
_BACKLOG = 16
_PR_SET_TIMERSLACK = 29
_CHANGED, _END = b"c", b"e"  # what wakes the thread

Endpoint = tuple[str, int]


@dataclass(slots=True, eq=False)
class _Flow:
    """One direction of one connection."""

    source: socket.socket
    sink: socket.socket
    wire: Wire
    queue: deque[tuple[float, memoryview]] = field(default_factory=deque)
    queued: int = 0
    arrived: float = -math.inf  # nothing may overtake what was sent before
    ended: bool = False  # the source says no more
    closed: bool = False  # and the sink has been told
    blocked: bool = False  # the sink takes no more for now

    def wants(self, now: float) -> bool:
        return not self.ended and self.queued < self.wire.held and self.wire.is_free(now)

    def due(self) -> float:
        return self.queue[0][0] if self.queue and not self.blocked and not self.wire.is_cut else math.inf

    def receive(self, now: float) -> None:
        """Put one piece onto the wire; raises OSError."""
        piece = self.wire.piece
        try:
            data = self.source.recv(piece)
        except BlockingIOError:
            return
        if data:
            arrival = self.wire.send(len(data), now) + self.wire.stall(len(data), last=len(data) < piece)
            self.queued += len(data)
        else:
            self.ended, arrival = True, now + self.wire.delay
        self.arrived = max(self.arrived, arrival)
        self.queue.append((self.arrived, memoryview(data)))

    def deliver(self, now: float) -> None:
        """Hand over what has arrived; raises OSError."""
        self.blocked = False
        while self.due() <= now:
            arrival, data = self.queue.popleft()
            if not data:
                self.closed = True
                self.sink.shutdown(socket.SHUT_WR)
                return
            try:
                sent = self.sink.send(data)
            except BlockingIOError:
                sent = 0
            self.queued -= sent
            if sent < len(data):
                self.queue.appendleft((arrival, data[sent:]))
                self.blocked = True
                return


@dataclass(slots=True, eq=False)
class _Listener:
    sock: socket.socket
    upstream: Endpoint
    up: Wire
    down: Wire
    port: int


class Proxy:
    """Relays for any number of links, which are added before it runs inside `with`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lateness = 0.0
        self._listeners: list[_Listener] = []
        self._flows: list[_Flow] = []  # in the order in which they may send next
        self._wake, self._waker = os.pipe()
        self._thread = threading.Thread(target=self._run, name="links", daemon=True)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.write(self._waker, _END)
        self._thread.join(STOP_TIMEOUT)
        for sock in [each.sock for each in self._listeners] + [flow.source for flow in self._flows]:
            sock.close()
        os.close(self._wake)
        os.close(self._waker)

    def add(self, link: Link, host: str, upstreams: Sequence[Endpoint], seed: int = 0) -> list[int]:
        """Listen for one device; the ports on `host`, one for each upstream. Raises BrokerError."""
        up, down = (
            Wire(bytes_per_second(mbit), max(0.0, link.delay_ms / 1e3 - OWN_DELAY), link.loss_percent / 1e2)
            for mbit in (link.up_mbit, link.down_mbit)
        )
        up.random.seed(2 * seed)
        down.random.seed(2 * seed + 1)
        ports = []
        for upstream in upstreams:
            try:
                sock = socket.create_server((host, 0), backlog=_BACKLOG)
            except OSError as error:
                raise BrokerError(f"no port on {host} for a device's link ({error.strerror}); end other labs") from None
            sock.setblocking(False)
            ports.append(int(sock.getsockname()[1]))
            self._listeners.append(_Listener(sock, upstream, up, down, ports[-1]))
        return ports

    def change(self, port: int, *, cut: bool | None = None, delay: float | None = None) -> None:
        """Cut or mend a device's link, or give it another delay (seconds one way); from any thread, while it runs.

        A link that is cut says nothing, like a cable that is pulled out: connections stay open, and what is under way
        waits, as what TCP sends again would.
        """
        for listener in self._listeners:
            if listener.port == port:
                for wire in (listener.up, listener.down):
                    wire.is_cut = wire.is_cut if cut is None else cut
                    wire.delay = wire.delay if delay is None else delay
        os.write(self._waker, _CHANGED)

    def _run(self) -> None:
        with contextlib.suppress(OSError, AttributeError):  # Linux lets a sleeper lie 50 µs longer; not this one
            ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
        while not self._turn():
            pass

    def _turn(self) -> bool:
        """Wait for something to do, and do it; whether it is time to end."""
        now = self._clock()
        wanting = {flow.source: flow for flow in self._flows if flow.wants(now)}
        blocked = {flow.sink: flow for flow in self._flows if flow.blocked}
        accepting = {each.sock: each for each in self._listeners}
        inputs: list[Any] = [*wanting, *accepting, self._wake]
        patience = self._patience(now)
        readable, writable, _ = select.select(inputs, [*blocked], [], patience)
        if not readable and not writable:
            # Woken by time alone, and always a little late: wake earlier by what it was up to now.
            late = self._clock() - (now + patience)
            self._lateness += (min(max(late, 0.0), MOST_LATENESS) - self._lateness) / 16
        now = self._clock()
        for flow in [flow for flow in self._flows if flow.due() <= now + self._lateness]:
            self._do(flow, flow.deliver, now + self._lateness)
        for sock in writable:
            self._do(blocked[sock], blocked[sock].deliver, now)
        for sock in readable:
            if sock in accepting:
                self._accept(accepting[sock])
            elif sock in wanting and wanting[sock].wants(now):
                self._do(wanting[sock], wanting[sock].receive, now)
        return self._wake in readable and _END in os.read(self._wake, 4096)

    def _patience(self, now: float) -> float:
        """Seconds until something arrives or a busy wire is free."""
        times = [flow.due() for flow in self._flows]
        times += [flow.wire.free_at for flow in self._flows if not flow.ended and flow.wire.free_at > now]
        return min(max(0.0, min(times, default=math.inf) - now - self._lateness), LONGEST_WAIT)

    def _do(self, flow: _Flow, step: Callable[[float], None], now: float) -> None:
        if flow not in self._flows:
            return  # the other direction has ended the connection
        try:
            step(now)
        except OSError:
            self._end(flow)
            return
        if flow.closed and all(each.closed for each in self._both(flow)):
            self._end(flow)
        else:  # whoever had a turn is last in the next one
            self._flows.remove(flow)
            self._flows.append(flow)

    def _both(self, flow: _Flow) -> list[_Flow]:
        return [each for each in self._flows if each is flow or each.source is flow.sink]

    def _end(self, flow: _Flow) -> None:
        self._flows = [each for each in self._flows if each is not flow and each.source is not flow.sink]
        flow.source.close()
        flow.sink.close()

    def _accept(self, listener: _Listener) -> None:
        try:
            device, _ = listener.sock.accept()
        except OSError:
            return
        try:
            broker = socket.create_connection(listener.upstream, CONNECT_TIMEOUT)
        except OSError:
            device.close()  # as a broker's host would that has no broker
            return
        for sock in (device, broker):
            sock.setblocking(False)
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._flows += [_Flow(device, broker, listener.up), _Flow(broker, device, listener.down)]
