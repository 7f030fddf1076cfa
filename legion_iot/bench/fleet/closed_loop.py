"""How fast requests are answered when each answer makes room for the next one: ours, and those of the peer alike.

`send` publishes a request. `answer` waits for the next answer, and says when it came, on the clock of
`time.perf_counter`.
"""

from __future__ import annotations

import time
from collections.abc import Callable


def latencies(send: Callable[[], None], answer: Callable[[], float], requests: int) -> list[float]:
    """Seconds from publish to answer of so many requests, one after the other."""
    found = []
    for _ in range(requests):
        start = time.perf_counter()
        send()
        found.append(answer() - start)
    return found


def answers_per_second(send: Callable[[], None], answer: Callable[[], float], window: int, requests: int) -> float:
    """While `window` requests are in flight all the time, over so many answers.

    The first `window` answers, while the group fills, and the last ones, while it empties, do not count.
    """
    for _ in range(window):
        send()
    times = []
    for number in range(requests + 2 * window):
        times.append(answer())
        if number < requests + window:
            send()
    return requests / (times[window - 1 + requests] - times[window - 1])
