"""Telling systemd how a service is: sd_notify(3) and its watchdog; without systemd, nothing happens.

Theory. The watchdog is fed by the loop that does the work, so that whoever no longer works is ended and started anew.
One long step must not look like that: before a piece of work that nobody knows yet, or that took long before, the
interval is set to what it may take (`WATCHDOG_USEC=`), and back afterwards.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Hashable, Iterator, Mapping

UNKNOWN_SECONDS = 600.0  # what work may take that was never done before
PATIENCE = 10.0  # times the longest that it took before
_FEEDS = 4  # in an interval
_MOST_KNOWN = 4096


class Notifier:
    """The service manager of the process whose `environment` this is; every call is quick and raises nothing."""

    def __init__(self, environment: Mapping[str, str], clock: Callable[[], float] = time.monotonic) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the zero byte of an abstract address.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._interval = _watchdog_seconds(environment) if address else 0.0
        self._clock = clock
        self._fed = clock()
        self._longest: dict[Hashable, float] = {}

    def ready(self, status: str) -> None:
        """The service does what it is there for."""
        self._send("READY=1", status)

    def status(self, status: str) -> None:
        """One line for whoever asks how it is."""
        self._send(status=status)

    def stopping(self) -> None:
        """The service is ending, and may take a while."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """To be called by the loop that does the work, as often as it goes round."""
        if self._interval and (now := self._clock()) - self._fed >= self._interval / _FEEDS:
            self._fed = now
            self._send("WATCHDOG=1")

    @contextlib.contextmanager
    def working(self, work: Hashable = None) -> Iterator[None]:
        """Around one long piece of work; the same `work` is expected to take about as long as before."""
        if not self._interval:
            yield
            return
        longest = self._longest.get(work)
        allowed = UNKNOWN_SECONDS if longest is None else max(self._interval, PATIENCE * longest)
        begun = self._clock()
        self._allow(allowed)
        try:
            yield
        finally:
            self._allow(self._interval, was=allowed)
            if work is not None:
                if len(self._longest) >= _MOST_KNOWN:
                    self._longest.clear()
                self._longest[work] = max(longest or 0.0, self._clock() - begun)

    def _allow(self, seconds: float, was: float | None = None) -> None:
        """Feed, with another interval where it is not the one in force."""
        if seconds == (self._interval if was is None else was):
            self.alive()
            return
        self._fed = self._clock()
        self._send(f"WATCHDOG_USEC={seconds * 1e6:.0f}", "", "WATCHDOG=1")

    def _send(self, state: str = "", status: str = "", more: str = "") -> None:
        if not self._address:
            return
        said = " ".join(status.split())
        lines = [line for line in (state, f"STATUS={said}" if said else "", more) if line]
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(1.0)
            sender.sendto("\n".join(lines).encode(), self._address)


def _watchdog_seconds(environment: Mapping[str, str]) -> float:
    """The interval that systemd watches this process with; 0 when it does not."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    try:
        return int(environment.get("WATCHDOG_USEC", "0")) / 1e6
    except ValueError:
        return 0.0
