"""A broker that can be killed and comes back on the same port: Mosquitto, or the embedded one as a process."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol

from legion_iot.errors import BrokerError
from legion_iot.interruption import uninterrupted
from legion_iot.transport.connection import BrokerAddress
from legion_iot_broker.mosquitto import MosquittoProcess, child_prefix, find_mosquitto, mosquitto_version

START_TIMEOUT = 20.0  # seconds


class Broker(AbstractContextManager["Broker"], Protocol):
    """Alive inside `with`, but between `kill` and the next `start`."""

    @property
    def address(self) -> BrokerAddress: ...

    @property
    def pid(self) -> int: ...

    def start(self) -> object: ...

    def kill(self) -> None: ...


def broker_here(persistent: bool) -> tuple[Broker, str]:
    """Mosquitto where it is installed, and what to call it; the embedded one keeps nothing."""
    binary = find_mosquitto()
    if binary is None:
        return EmbeddedProcess(), "embedded"
    kept = " with persistence" if persistent else ""
    return MosquittoProcess(binary, persistent=persistent), f"mosquitto {mosquitto_version(binary)}{kept}"


class EmbeddedProcess:
    """The embedded broker in a process of its own."""

    def __init__(self) -> None:
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> BrokerAddress:
        return BrokerAddress("127.0.0.1", self._port)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Raises BrokerError."""
        with uninterrupted():
            self._process = subprocess.Popen(
                [*child_prefix(None), sys.executable, "-m", "legion_iot_broker.embedded", "--port", str(self._port)],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
                env={**os.environ, "PYTHONSAFEPATH": "1"}, start_new_session=True,
            )  # fmt: skip
        assert self._process.stdout is not None
        deadline = time.monotonic() + START_TIMEOUT
        said = b""
        while not said.endswith(b"\n"):
            left = deadline - time.monotonic()
            ready = left > 0 and select.select([self._process.stdout], [], [], left)[0]
            piece = self._process.stdout.read(4096) if ready else b""
            if not piece:
                self.kill()
                raise BrokerError("the embedded broker did not start; run the bench again")
            said += piece
        found = re.search(rb":(\d+)\s*$", said)
        assert found is not None
        self._port = int(found[1])

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()

    def __enter__(self) -> EmbeddedProcess:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
