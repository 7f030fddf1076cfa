"""Being told to end: others take over, and what has begun is finished; told twice, the process ends at once.

Theory. The group goes on without an agent as soon as it says `offline`; what it was computing until then is begun again
elsewhere. So an agent that is told to end says `draining` first, and goes on working: the orchestrator makes a plan
without it, lets requests change over to that one, and releases the agent. When it has nothing to do and all it sent
has arrived, it says `offline`. Where nobody releases it, it is enough that it has had nothing to do for a while.

Handlers of signals run between two instructions of Python, so they wait for a step that computes, for many seconds
perhaps. A thread that reads what the interpreter writes for each signal (`signal.set_wakeup_fd`) does not.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable

from legion_iot.errors import AgentError

DRAIN_SECONDS = 15.0  # for what has begun,
UNRELEASED_SECONDS = 3.0  # of them for being released
LAST_SECONDS = 18.0  # and for everything; then the connection is cut, and the broker says goodbye in our place


def heed_signals(drain: Callable[[], None]) -> None:
    """Call `drain`, in a thread, on the first SIGTERM or SIGINT; end the process at once on the second.

    When it has not ended by itself in `LAST_SECONDS`, it is ended too, with AgentError's code.
    """
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(sender.fileno())
    threading.Thread(target=_watch, args=(receiver, sender, drain), name="signals", daemon=True).start()


def _watch(receiver: socket.socket, sender: socket.socket, drain: Callable[[], None]) -> None:
    receiver.recv(1)
    drain()
    receiver.settimeout(LAST_SECONDS)
    try:
        (number,) = receiver.recv(1)
    except TimeoutError:
        print(f"legion-agent: what was under way did not end within {LAST_SECONDS:g} s", file=sys.stderr, flush=True)
        os._exit(AgentError.exit_code)
    os._exit(128 + number)
