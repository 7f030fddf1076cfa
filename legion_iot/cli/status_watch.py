"""`legion status --watch`: the group as it is now, until somebody has seen enough.

Theory. One thread draws. It waits for the connection, for keys, for signals and for time to pass, all by one `select`:
whoever else has news writes a byte into a pipe. So news that come together are drawn together, and nobody draws into
what another one draws. A signal may come to another thread than the one that waits, which would sleep on: Python writes
into the pipe whichever it is.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import queue
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.live import Live

from legion_iot.cli.status import is_for_people, json_line, plain
from legion_iot.cli.status_screen import Heading, screen
from legion_iot.orchestrator.following import Following, client_id, followed, look
from legion_iot.orchestrator.group_view import group_view
from legion_iot.transport.connection import BrokerAddress, TransportEvent
from legion_iot.transport.paho import PahoConnection
from legion_iot.transport.retained import OPEN_TIMEOUT
from legion_iot.wire.topics import Topics

TOGETHER = 0.05  # seconds in which news are gathered before they are shown
ENDING = (b"q", b"Q", b"\x04", b"")

_Show = Callable[[Following, float], None]


class _News:
    """What the connection and signals say, and a pipe that tells `select` of it."""

    def __init__(self) -> None:
        self.events: queue.SimpleQueue[TransportEvent] = queue.SimpleQueue()
        self.suspended = False
        self.pipe, self._writer = os.pipe()
        for end in (self.pipe, self._writer):
            fcntl.fcntl(end, fcntl.F_SETFL, os.O_NONBLOCK)
        self._wakened_before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)

    def put(self, event: TransportEvent) -> None:
        """For any thread."""
        self.events.put(event)
        self._wake()

    def suspend(self) -> None:
        """For signal handlers."""
        self.suspended = True
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full of reasons to wake up
            os.write(self._writer, b".")

    def clear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self.pipe, 1 << 16)

    def close(self) -> None:
        signal.set_wakeup_fd(self._wakened_before)
        os.close(self.pipe)
        os.close(self._writer)


def watch(address: BrokerAddress, base: str, as_json: bool) -> None:
    """Show the group until somebody presses q; raises BrokerError where the broker cannot be used at first."""
    topics = Topics(base)
    following = Following(look(address, topics))
    news = _News()
    connection = PahoConnection(address, client_id(), news.put)
    connection.open(OPEN_TIMEOUT)
    try:
        connection.subscribe([(each, 0) for each in followed(topics)])
        if as_json:
            _follow(following, news, _objects(str(address), base))
        elif is_for_people():
            _draw(following, news, str(address), base)
        else:
            _follow(following, news, _changes(str(address), base))
    finally:
        connection.abort()
        news.close()


def _draw(following: Following, news: _News, broker: str, base: str) -> None:
    """On a terminal, which others may use while we are suspended."""
    console = Console(highlight=False)
    with _signals(news):
        while True:
            with _keys() as keys, Live(console=console, screen=True, auto_refresh=False) as live:
                _follow(following, news, _drawing(console, live, broker, base, keys is not None), keys)
            if not news.suspended:
                return
            os.kill(os.getpid(), signal.SIGSTOP)
            news.suspended = False


def _follow(following: Following, news: _News, show: _Show, keys: int | None = None) -> None:
    """Show what comes, until we are suspended or one of `ENDING` is read from `keys`."""
    readable = [news.pipe] if keys is None else [news.pipe, keys]
    while True:
        news.clear()
        if news.suspended:
            return
        now = time.monotonic()
        while not news.events.empty():
            following.take(news.events.get(), now)
        following.tick(now)
        show(following, now)
        found, _, _ = select.select(readable, [], [], following.waits)
        if keys in found and os.read(keys, 1) in ENDING:
            return
        time.sleep(TOGETHER)


def _drawing(console: Console, live: Live, broker: str, base: str, has_keys: bool) -> _Show:
    def draw(following: Following, now: float) -> None:
        away = None if following.away_since is None else now - following.away_since
        heading = Heading(broker, base, away, following.settled_at is not None, "q ends" if has_keys else "")
        live.update(screen(group_view(following.observed), heading, *console.size), refresh=True)

    return draw


def _objects(broker: str, base: str) -> _Show:
    last = ""

    def say(following: Following, now: float) -> None:
        nonlocal last
        text = json_line(group_view(following.observed), broker, base, following.away_since is None)
        if text != last:
            last = text
            print(text, flush=True)

    return say


def _changes(broker: str, base: str) -> _Show:
    last: dict[tuple[str, str], str] = {}

    def say(following: Following, now: float) -> None:
        nonlocal last
        lines = plain(group_view(following.observed), broker, base, following.away_since is None)
        for kind, name in sorted(last.keys() - lines.keys()):
            print(kind, name, "state=gone")
        for key, text in lines.items():
            if text != last.get(key):
                print(text)
        last = lines
        sys.stdout.flush()

    return say


@contextlib.contextmanager
def _keys() -> Iterator[int | None]:
    """Standard input, each key at once and unseen; None where it is not ours to read."""
    try:
        keys = sys.stdin.fileno()
        is_ours = os.isatty(keys) and os.tcgetpgrp(keys) == os.getpgrp()
    except (OSError, ValueError):
        is_ours = False
    if not is_ours:
        yield None
        return
    before = termios.tcgetattr(keys)
    try:
        tty.setcbreak(keys)
        yield keys
    finally:
        termios.tcsetattr(keys, termios.TCSAFLUSH, before)


@contextlib.contextmanager
def _signals(news: _News) -> Iterator[None]:
    """A new size of the terminal is news, and Ctrl-Z leaves the terminal as it was."""
    before = {
        signal.SIGWINCH: signal.signal(signal.SIGWINCH, lambda number, frame: None),
        signal.SIGTSTP: signal.signal(signal.SIGTSTP, lambda number, frame: news.suspend()),
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
