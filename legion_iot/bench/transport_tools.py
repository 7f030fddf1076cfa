"""Mosquitto's own command-line clients as a way to send: `mosquitto_pub` once per payload, `mosquitto_sub` reading."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

from legion_iot.bench.transport_ends import ANSWER, REGIONS, Arrived, Wish, make_payloads, payload_bytes
from legion_iot.errors import BrokerError
from legion_iot.interruption import temporary_directory, uninterrupted
from legion_iot.transport.connection import BrokerAddress

TOOLS = ("mosquitto_pub", "mosquitto_sub")
SUBSCRIBE_SECONDS = 10.0


def tools_installed() -> bool:
    """Whether both programs are on the path."""
    return all(shutil.which(tool) for tool in TOOLS)


class ToolEnd:
    """Both ends at once: a payload counts as answered when the subscriber's output has all its bytes."""

    def __init__(self, address: BrokerAddress) -> None:
        self._at = ["-h", address.host, "-p", str(address.port)]
        self._payloads = make_payloads()
        self._waiting: tuple[int, int] | None = None
        self._publishers: list[subprocess.Popen[bytes]] = []
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as opening:
            self._directory = opening.enter_context(temporary_directory("legion-bench-"))
            for index in range(len(REGIONS)):
                self._file(index).write_bytes(self._payloads[index].data)
            self._subscribers = [self._subscribe(qos, opening) for qos in (0, 1)]
            self._stack = opening.pop_all()

    def _file(self, index: int) -> Path:
        return self._directory / str(index)

    def _subscribe(self, qos: int, stack: contextlib.ExitStack) -> int:
        """Start a subscriber and return its output, once a retained byte shows that it listens."""
        publish = ["mosquitto_pub", *self._at, "-t", f"tools/{qos}", "-r"]
        subprocess.run([*publish, "-m", "x"], check=True, timeout=SUBSCRIBE_SECONDS)
        command = ["mosquitto_sub", *self._at, "-t", f"tools/{qos}", "-q", str(qos), "-N"]
        with uninterrupted():
            process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
            stack.callback(process.kill)
        assert process.stdout is not None
        _read(process.stdout.fileno(), 1, SUBSCRIBE_SECONDS)
        subprocess.run([*publish, "-n"], check=True, timeout=SUBSCRIBE_SECONDS)
        return process.stdout.fileno()

    def send(self, index: int, wish: Wish, qos: int) -> None:
        """See `End.send`; one payload at a time."""
        command = ["mosquitto_pub", *self._at, "-t", f"tools/{qos}", "-q", str(qos), "-f", str(self._file(index))]
        self._publishers.append(subprocess.Popen(command))
        self._waiting = index, qos

    def receive(self, timeout: float) -> Arrived | None:
        """See `End.receive`."""
        if self._waiting is None:
            return None
        index, qos = self._waiting
        _read(self._subscribers[qos], payload_bytes(index), timeout)
        while self._publishers:
            self._publishers.pop().wait(timeout)
        self._waiting = None
        return Arrived(ANSWER, "none", qos, self._payloads[ANSWER])

    def close(self) -> None:
        """See `End.close`."""
        self._stack.close()


def _read(source: int, size: int, timeout: float) -> None:
    """Read and forget `size` bytes; raises BrokerError where they do not come."""
    deadline = time.monotonic() + timeout
    while size > 0:
        ready, _, _ = select.select([source], [], [], max(0.0, deadline - time.monotonic()))
        piece = os.read(source, min(size, 1 << 20)) if ready else b""
        if not piece:
            raise BrokerError("mosquitto_sub did not get what mosquitto_pub sent; run the bench again")
        size -= len(piece)
