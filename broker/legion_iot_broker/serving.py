"""Running the broker of a directory: Mosquitto as a child process, or the embedded one for this machine only."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Literal, Protocol

from legion_iot import __version__
from legion_iot.errors import BrokerError, InputError
from legion_iot.interruption import uninterrupted
from legion_iot_broker.access import Users
from legion_iot_broker.directory import BrokerDirectory
from legion_iot_broker.embedded import EmbeddedBroker
from legion_iot_broker.mosquitto import (
    START_SECONDS,
    STOP_SECONDS,
    child_prefix,
    end_child,
    find_mosquitto,
    mosquitto_version,
    unprivileged_account,
)

_POLL_SECONDS = 0.05
_LAST_LINES = 5
_NO_WEBSOCKETS = "websockets support not available"
LOOPBACK = "127.0.0.1"


class Served(Protocol):
    """A broker that runs on a directory."""

    @property
    def title(self) -> str:
        """What it is, with its version."""

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Where it can be reached, as URLs."""

    @property
    def lacking(self) -> tuple[str, ...]:
        """What the directory asks for and this broker does not do, in whole sentences."""

    def check(self) -> None:
        """To be called again and again; raises BrokerError when it has ended."""


@contextlib.contextmanager
def serve(directory: BrokerDirectory, prefer: Literal["auto", "mosquitto", "embedded"] = "auto") -> Iterator[Served]:
    """Run the directory's broker inside `with`: Mosquitto where its binary exists, else the embedded one.

    Raises `BrokerError` when the preferred kind is missing or does not start.
    """
    binary = find_mosquitto() if prefer != "embedded" else None
    if prefer == "mosquitto" and binary is None:
        raise BrokerError("mosquitto is not installed: apt install mosquitto, or use the embedded broker")
    if binary is None:
        with _embedded(directory) as embedded:
            yield embedded
        return
    with uninterrupted() as interruptible:
        mosquitto = _Mosquitto(directory, mosquitto_version(binary))
        try:
            with interruptible():
                mosquitto.start(str(binary))
                yield mosquitto
        finally:
            mosquitto.stop()


class _Mosquitto:
    """Mosquitto on a directory; what it says goes to our error output."""

    def __init__(self, directory: BrokerDirectory, version: str) -> None:
        self._directory = directory
        self._version = version
        self._child: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._running = threading.Event()
        self._said: deque[str] = deque(maxlen=_LAST_LINES)
        self.lacking: tuple[str, ...] = ()

    def start(self, binary: str) -> None:
        """Start it and wait until it accepts; raises `BrokerError` with its last words when it does not."""
        try:
            self._start(binary)
        except BrokerError as error:
            if _NO_WEBSOCKETS not in str(error).lower():
                raise
            self.stop()
            self._directory = self._directory.without_websockets()
            self.lacking = ("this Mosquitto was built without websockets: browsers cannot connect",)
            self._start(binary)

    def _start(self, binary: str) -> None:
        self._directory.refresh()
        with uninterrupted():
            self._child = subprocess.Popen(
                [*child_prefix(unprivileged_account()), binary, "-c", str(self._directory.config)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                # Ctrl-C in the terminal is for us: we stop it in order.
                start_new_session=True,
            )
        self._reader = threading.Thread(target=self._read, args=(self._child,), name="mosquitto-log", daemon=True)
        self._reader.start()
        deadline = time.monotonic() + START_SECONDS
        while not self._running.wait(_POLL_SECONDS):
            self.check()
            if time.monotonic() > deadline:
                raise BrokerError(f"mosquitto did not start within {START_SECONDS:g} s: {self._last_words()}")

    def stop(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        end_child(child)
        if self._reader is not None:
            self._reader.join(STOP_SECONDS)

    @property
    def title(self) -> str:
        return f"mosquitto {self._version}"

    @property
    def endpoints(self) -> tuple[str, ...]:
        settings = self._directory.settings
        return self._directory.url, f"mqtt://{LOOPBACK}:{settings.local_port}"

    def check(self) -> None:
        if self._child is not None and self._child.poll() is not None:
            if self._reader is not None:
                self._reader.join(STOP_SECONDS)
            raise BrokerError(f"mosquitto ended with code {self._child.returncode}: {self._last_words()}")

    def _read(self, child: subprocess.Popen[bytes]) -> None:
        assert child.stdout is not None
        for line in child.stdout:
            text = line.decode(errors="replace").rstrip()
            self._said.append(text)
            with contextlib.suppress(OSError):  # where nobody reads ours any more, its own would fill up and stop it
                print(text, file=sys.stderr, flush=True)
            if text.endswith(" running"):
                self._running.set()

    def _last_words(self) -> str:
        return " | ".join(self._said) or "it said nothing"


class _Embedded:
    """The embedded broker on a directory; it reads passwords and rules again when they have changed."""

    lacking = (
        "the embedded broker speaks no TLS: only programs on this machine can connect, with name and password",
        "it keeps nothing over a restart, and has no websockets",
    )

    def __init__(self, directory: BrokerDirectory) -> None:
        self._directory = directory
        self._read = self._texts()
        passwords, rules = self._read
        self.broker = EmbeddedBroker(LOOPBACK, directory.settings.local_port, users=Users(passwords), acl=rules)

    @property
    def title(self) -> str:
        return f"embedded {__version__}"

    @property
    def endpoints(self) -> tuple[str, ...]:
        return (str(self.broker.address),)

    def check(self) -> None:
        texts = self._texts()
        if texts != self._read:
            self._read = texts
            self.broker.reload(Users(texts[0]), texts[1])

    def _texts(self) -> tuple[str, str]:
        try:
            rules = self._directory.access_rules.read_text(encoding="utf-8")
            return self._directory.passwords.read_text(encoding="utf-8"), rules
        except OSError as error:
            raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from error


@contextlib.contextmanager
def _embedded(directory: BrokerDirectory) -> Iterator[_Embedded]:
    directory.refresh()
    served = _Embedded(directory)
    with served.broker:
        yield served
