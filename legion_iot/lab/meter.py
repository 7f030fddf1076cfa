"""What the self-test runs: a server at the broker's place, and clients on each device for its link and processor.

    python -m legion_iot.lab.meter serve HOST PORT
    python -m legion_iot.lab.meter link HOST PORT
    python -m legion_iot.lab.meter compute MODEL THREADS XNNPACK [SHARE]

Clients take one order a line on standard input, answer it with one line of JSON, and end when there is no more. `serve`
says `{}` once it listens, and ends with its standard input.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE = 30.0  # seconds that any single read or write may take
_CHUNK = 1 << 16
_HEAD = struct.Struct("!cQ")
_SECONDS = struct.Struct("!d")


def _exactly(sock: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        piece = sock.recv(count - len(data))
        if not piece:
            raise ConnectionError
        data += piece
    return bytes(data)


def _take(sock: socket.socket, count: int) -> float:
    """Bytes per second at which so many arrive; the clock starts when the first have."""
    buffer = memoryview(bytearray(_CHUNK))
    first = sock.recv_into(buffer)
    start, left = time.perf_counter(), count - first
    while left > 0:
        taken = sock.recv_into(buffer)
        if not taken:
            raise ConnectionError
        left -= taken
    return (count - first) / max(time.perf_counter() - start, 1e-9)


def _give(sock: socket.socket, count: int) -> None:
    chunk = memoryview(bytes(_CHUNK))
    while count > 0:
        count -= sock.send(chunk[:count])


# --- the server ---


def _serve(host: str, port: int) -> None:
    try:
        server = socket.create_server((host, port), backlog=64)
    except OSError as error:
        _say({"error": f"{host}:{port} cannot be listened on ({error.strerror})"})
        return
    threading.Thread(target=_accept, args=(server,), daemon=True).start()
    _say({})
    while os.read(0, 4096):
        pass


def _accept(server: socket.socket) -> None:
    while True:
        sock, _ = server.accept()
        threading.Thread(target=_answer, args=(sock,), daemon=True).start()


def _answer(sock: socket.socket) -> None:
    with sock:
        try:
            _tune(sock)
            while True:
                sock.settimeout(None)  # the other devices have their turns before the next order
                order, count = _HEAD.unpack(_exactly(sock, _HEAD.size))
                sock.settimeout(PATIENCE)
                if order == b"u":
                    sock.sendall(_SECONDS.pack(_take(sock, count)))
                elif order == b"d":
                    _give(sock, count)
                else:
                    sock.sendall(b"e")
        except OSError:
            return  # the client has done what it wanted


# --- the link ---


def _link(host: str, port: int) -> None:
    """Orders: `up BYTES`, `down BYTES`, `delay TIMES`."""
    with socket.create_connection((host, port), timeout=PATIENCE) as sock:
        _tune(sock)
        does: dict[str, Callable[[int], float]] = {
            "up": lambda count: _up(sock, count),
            "down": lambda count: _down(sock, count),
            "delay": lambda times: statistics.median(_round_trip(sock) for _ in range(times)) / 2,
        }
        _round_trip(sock)
        _say({})
        for line in sys.stdin:
            what, count = line.split()
            _say({"value": does[what](int(count))})


def _up(sock: socket.socket, count: int) -> float:
    sock.sendall(_HEAD.pack(b"u", count))
    _give(sock, count)
    (rate,) = _SECONDS.unpack(_exactly(sock, _SECONDS.size))
    return float(rate)


def _down(sock: socket.socket, count: int) -> float:
    sock.sendall(_HEAD.pack(b"d", count))
    return _take(sock, count)


def _round_trip(sock: socket.socket) -> float:
    start = time.perf_counter()
    sock.sendall(_HEAD.pack(b"e", 0))
    _exactly(sock, 1)
    seconds = time.perf_counter() - start
    time.sleep(0.002)  # else the next one meets the echo's own tail
    return seconds


def _tune(sock: socket.socket) -> None:
    sock.settimeout(PATIENCE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


# --- the processor ---


def _compute(model: Path, threads: int, xnnpack: bool, share: float | None) -> None:
    """Orders: `free RUNS` or `least RUNS` (one thread, not slowed by us), `held SECONDS` (as the device computes)."""
    # Imported here: the other clients need none of it.
    from legion_iot.model import tflite  # noqa: PLC0415
    from legion_iot_agent.executor import seeded_inputs  # noqa: PLC0415
    from legion_iot_agent.interpreter import Interpreter  # noqa: PLC0415
    from legion_iot_agent.throttle import Throttle  # noqa: PLC0415

    inputs = seeded_inputs(tflite.open_file(model))
    free, held = Interpreter(model, 1, xnnpack), Interpreter(model, threads, xnnpack)
    for each in (free, held):
        each.run(inputs)
    work = None if share is None else Throttle(share, threads).learn(lambda: held.run(inputs))

    def run_free() -> None:
        free.run(inputs)

    def run_held() -> None:
        if work is None:
            held.run(inputs)
        else:
            work.stretch(lambda: held.run(inputs))

    _say({})
    for line in sys.stdin:
        what, amount = line.split()
        if what in ("free", "least"):
            times = [_processor_time(run_free) for _ in range(int(amount))]
            _say({"value": min(times) if what == "least" else statistics.median(times)})
        else:
            _say(_pace(run_held, float(amount)))


def _processor_time(run: Callable[[], None]) -> float:
    start = time.thread_time()
    run()
    return time.thread_time() - start


def _pace(run: Callable[[], None], seconds: float) -> dict[str, float]:
    """Seconds of one run, by as many as fit into that time, three at least; and the processor's among them."""
    runs, start, used = 0, time.perf_counter(), time.process_time()
    while runs < 3 or time.perf_counter() - start < seconds:
        run()
        runs += 1
    return {"value": (time.perf_counter() - start) / runs, "processor": (time.process_time() - used) / runs}


def _say(answer: dict[str, float] | dict[str, str]) -> None:
    print(json.dumps(answer), flush=True)


def main() -> None:
    """Do what the arguments say."""
    match sys.argv[1:]:
        case ["serve", host, port]:
            _serve(host, int(port))
        case ["link", host, port]:
            _link(host, int(port))
        case ["compute", model, threads, xnnpack, *share]:
            _compute(Path(model), int(threads), xnnpack == "True", float(share[0]) if share else None)


if __name__ == "__main__":
    main()
