"""Fixtures of the broker tests."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack

import pytest

from legion_iot_broker.launch import RunningBroker, local_broker
from legion_iot_broker.mosquitto import find_mosquitto


def require_mosquitto() -> None:
    """Skip without Mosquitto on a developer's machine; fail in CI, where it must be installed."""
    if find_mosquitto() is None:
        if os.environ.get("CI") == "true":
            pytest.fail("mosquitto is missing, and CI may not skip its tests")
        pytest.skip("mosquitto is not installed")


class Starter:
    """Starts one kind of broker with the rules a test wants, and stops it at the end."""

    def __init__(self, kind: str, stack: ExitStack) -> None:
        self.kind = kind
        self._stack = stack

    def __call__(self, users: Mapping[str, str] | None = None, acl: str | None = None) -> RunningBroker:
        return self._stack.enter_context(local_broker(self.kind, users=users, acl=acl))  # type: ignore[arg-type]


@pytest.fixture(params=["embedded", "mosquitto"])
def start_broker(request: pytest.FixtureRequest) -> Iterator[Starter]:
    if request.param == "mosquitto":
        require_mosquitto()
    with ExitStack() as stack:
        yield Starter(request.param, stack)
