"""The peer from outside beside the agents of a lab: one worker process on each of some devices, and its client.

A worker runs in its device's network and processor quota, which comes into force once it has loaded the network, as it
does for agents.
"""

from __future__ import annotations

import contextlib
import io
import queue
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from legion_iot.bench.fleet import closed_loop
from legion_iot.bench.fleet.session import REQUEST_TIMEOUT
from legion_iot.bench.fleet.subject import Subject
from legion_iot.errors import AgentError, RequestError
from legion_iot.interruption import uninterrupted
from legion_iot.lab import cgroups, namespaces
from legion_iot.lab.state import DeviceState, LabState
from legion_iot.transport.connection import BrokerAddress, Message, TransportEvent
from legion_iot.transport.paho import PahoConnection

START_TIMEOUT = 90.0  # seconds
_WORKER = Path(__file__).with_name("offload_worker.py")


class Offload:
    """Frames for the workers, and what comes back; `exact` counts answers that are the whole model's to the bit."""

    def __init__(self, broker: BrokerAddress, subject: Subject) -> None:
        self.requests = self.exact = 0
        self._answers: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
        self._frame = np.load(io.BytesIO(subject.payload)).tobytes()
        self._wanted = b"".join(output.tobytes() for output in subject.outputs)
        self._sent = 0
        self._client = PahoConnection(broker, "offload-client", self._on_event)

    def open(self) -> None:
        """Raises BrokerError."""
        self._client.open(15.0)
        self._client.subscribe([("offload/answers/+", 1)])

    def close(self) -> None:
        """Leave the broker."""
        self._client.close()

    def ask(self, requests: int) -> list[float]:
        """Seconds from publish to answer of so many frames, one after the other; raises RequestError."""
        return closed_loop.latencies(self._send, self._answer, requests)

    def answers_per_second(self, window: int, requests: int) -> float:
        """As `closed_loop.answers_per_second`."""
        return closed_loop.answers_per_second(self._send, self._answer, window, requests)

    def _send(self) -> None:
        self._sent += 1
        self._client.publish(f"offload/frames/{self._sent}", self._frame)

    def _answer(self) -> float:
        try:
            stop, content = self._answers.get(timeout=REQUEST_TIMEOUT)
        except queue.Empty:
            raise RequestError(f"the offload worker did not answer within {REQUEST_TIMEOUT:g} s") from None
        self.requests, self.exact = self.requests + 1, self.exact + (content == self._wanted)
        return stop

    def _on_event(self, event: TransportEvent) -> None:
        if isinstance(event, Message):
            self._answers.put((time.perf_counter(), bytes(event.payload)))


@contextlib.contextmanager
def offloading(lab: LabState, subject: Subject, devices: Sequence[DeviceState]) -> Iterator[Offload]:
    """Workers on these devices inside `with`; raises AgentError where one does not start."""
    offload = Offload(BrokerAddress.parse(lab.broker), subject)
    workers: list[subprocess.Popen[bytes]] = []
    with uninterrupted() as interruptible:
        try:
            workers += [_start(device, subject.path) for device in devices]
            with interruptible():
                for device, worker in zip(devices, workers, strict=True):
                    _wait_ready(device, worker)
                    cgroups.place(device.cgroups[:1], worker.pid)
                offload.open()
                yield offload
        finally:
            offload.close()
            for worker in workers:
                worker.kill()
            for worker in workers:
                worker.wait()


def _start(device: DeviceState, model: Path) -> subprocess.Popen[bytes]:
    broker = BrokerAddress.parse(device.broker)
    command = [*namespaces.inside(device.namespace), sys.executable, str(_WORKER), broker.host, str(broker.port)]
    return subprocess.Popen(
        [*command, str(model)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )


def _wait_ready(device: DeviceState, worker: subprocess.Popen[bytes]) -> None:
    output: IO[bytes] | None = worker.stdout
    assert output is not None
    readable, _, _ = select.select([output], [], [], START_TIMEOUT)
    if not readable or not output.readline().startswith(b"ready"):
        raise AgentError(f"the offload worker on {device.device.name} did not start; is paho-mqtt installed?")
