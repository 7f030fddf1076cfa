"""What holds for every test."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Whether examples are drawn slowly, or take long, says how busy the machine is, not what is wrong with a test.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

# These run without sockets, processes and threads, and have no excuse.
PURE = ("model", "planning", "runtime", "tracing", "wire")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What runs real processes and sockets has a second try, which pytest's last lines name and count."""
    for item in items:
        if Path(item.path).relative_to(Path(__file__).parent).parts[0] not in PURE:
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.fixture(scope="session", autouse=True)
def signals_as_in_a_terminal() -> Iterator[None]:
    """Programs inherit ignored signals, as `nohup` and `&` in scripts have them; ours shall heed all of them."""
    numbers = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)
    ignored = [number for number in numbers if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
