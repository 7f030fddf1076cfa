"""The link estimator on links whose latency and rates are known: the formula of the theory, with noise and pauses."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion_iot.planning.links import (
    LEAST_LATENCY,
    LEAST_RATE,
    MOST_BYTE,
    MOST_LATENCY,
    MOST_MESSAGE,
    MOST_RATE,
    Link,
    bounded,
)
from legion_iot.planning.traffic import LEAST_PIECE
from legion_iot.transport.link import (
    BUDGET,
    FIRST,
    GROWTH,
    LONG,
    MOST,
    ROUNDS,
    SHOT_TIMEOUT,
    LinkProber,
    Probing,
    Shot,
    handling,
    probing,
)

RATES = st.floats(1e4, 1e8)
LATENCIES = st.floats(1e-5, 0.1)


def on_the_wire(link: Link, shot: Shot) -> float:
    """Store and forward: up, and for an echo down as well, with the latency there and back."""
    down = shot.size / link.down if shot.echo else 0.0
    return 2 * link.latency + shot.size / link.up + down


def on_the_processor(message: float, byte: float, shot: Shot) -> float:
    """Each fragment of a region is sent and received."""
    return 2 * (message * max(1, shot.size // LEAST_PIECE) + byte * shot.size)


def measure(
    probing_: Probing,
    seconds: list[float] | None,
    link: Link,
    disturb: random.Random | None = None,
    processor: Callable[[Shot], float] | None = None,
) -> Link:
    shot = next(probing_)
    while True:
        taken = on_the_wire(link, shot) if processor is None else processor(shot)
        if disturb is not None:
            taken += disturb.uniform(0.0, 0.0003) + (0.02 if disturb.random() < 0.05 else 0.0)
        if seconds is not None:
            seconds.append(taken)
        try:
            shot = probing_.send(taken)
        except StopIteration as end:
            result: Link = end.value
            return result


@given(LATENCIES, RATES, RATES)
def test_every_link_is_found(latency: float, up: float, down: float) -> None:
    link = Link(latency, up, down)
    found = measure(probing(), None, link)
    assert found.up == pytest.approx(up, rel=1e-3)
    assert found.down == pytest.approx(down, rel=1e-3)
    small = 16 / up + 16 / down  # an echo has a few bytes itself
    assert found.latency == pytest.approx(latency + small / 2, rel=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_pauses_of_a_busy_device_do_not_pass_for_a_slow_link(seed: int) -> None:
    link = Link(0.0005, 11.95e6, 11.95e6)
    found = measure(probing(), None, link, random.Random(seed))
    assert found.up == pytest.approx(link.up, rel=0.25)
    assert found.down == pytest.approx(link.down, rel=0.35)
    assert found.latency == pytest.approx(link.latency, rel=0.3)


@given(LATENCIES, RATES, RATES)
def test_a_probe_takes_seconds_at_most(latency: float, up: float, down: float) -> None:
    seconds: list[float] = []
    measure(probing(), seconds, Link(latency, up, down))
    # Beyond the budgets: what tells the size (each less than LONG, but for the last), and the repeat that exceeds it.
    longest = max(2 * LONG, on_the_wire(Link(latency, up, down), Shot(True, FIRST))) * GROWTH
    assert sum(seconds) < 2 * (BUDGET + ROUNDS * latency + 4 * longest)


def test_a_link_too_fast_to_tell_is_bounded() -> None:
    found = measure(probing(), None, Link(0.0, math.inf, math.inf))
    assert found == Link(LEAST_LATENCY, MOST_RATE, MOST_RATE)


@given(st.floats(0, 0.1), st.floats(0, 1e-6), RATES)
def test_what_messages_cost_is_found_on_every_link(message: float, byte: float, rate: float) -> None:
    link = Link(0.001, rate, 2 * rate)
    found = measure(handling(link), None, link, processor=lambda shot: on_the_processor(message, byte, shot))
    small = byte * 1024  # a small region has some bytes itself
    assert found.message_seconds == pytest.approx(message + small, abs=1e-12)
    assert found.byte_seconds == pytest.approx(byte, rel=1e-6, abs=1e-15)
    assert (found.latency, found.up, found.down) == (link.latency, link.up, link.down)


@given(*[st.floats(allow_nan=True, allow_infinity=True)] * 5)
def test_whatever_is_measured_is_a_link(latency: float, up: float, down: float, message: float, byte: float) -> None:
    found = bounded(Link(latency, up, down, message, byte))
    assert 0 <= found.message_seconds <= MOST_MESSAGE
    assert 0 <= found.byte_seconds <= MOST_BYTE
    assert LEAST_LATENCY <= found.latency <= MOST_LATENCY
    assert LEAST_RATE <= found.up <= MOST_RATE
    assert LEAST_RATE <= found.down <= MOST_RATE


class Wire:
    """Carries shots in virtual time; echoes are under way until `deliver`."""

    def __init__(self, link: Link) -> None:
        self.link, self.now = link, 50.0
        self.echo: tuple[int, float] | None = None
        self.acknowledges = True
        self.largest = 0
        self.worked = 9.0
        self.regions = 0  # bytes of the one under way

    def send(self, shot: Shot, number: int) -> bool:
        self.largest = max(self.largest, shot.size)
        self.regions = shot.size if shot.region else 0
        self.worked += on_the_processor(0.003, 2e-9, shot) if shot.region else 0.5
        if shot.echo:
            self.echo = number, on_the_wire(self.link, shot)
        else:
            self.now += on_the_wire(self.link, shot) if self.acknowledges else SHOT_TIMEOUT
        return self.acknowledges

    def deliver(self, prober: LinkProber) -> None:
        assert self.echo is not None
        number, seconds = self.echo
        self.now += seconds
        prober.returned(number - 1)  # a late one
        if self.regions:
            prober.returned(number, self.regions // 2)
            assert prober.waits
        prober.returned(number, self.regions - self.regions // 2)
        prober.returned(number)


def test_a_prober_carries_out_the_probing() -> None:
    wire = Wire(Link(0.002, 2e6, 5e6))
    prober = LinkProber(wire.send, lambda: wire.now)
    while not prober.ended:
        prober.turn()
        if prober.waits:
            prober.turn()
            wire.deliver(prober)
    assert prober.result is not None
    assert prober.result.up == pytest.approx(2e6, rel=1e-6)
    assert prober.result.down == pytest.approx(5e6, rel=1e-6)
    assert wire.largest <= MOST


def test_an_echo_that_never_comes_back_ends_the_probe() -> None:
    wire = Wire(Link(0.002, 2e6, 5e6))
    prober = LinkProber(wire.send, lambda: wire.now)
    prober.turn()
    assert prober.waits
    wire.now += SHOT_TIMEOUT + 1
    prober.turn()
    assert prober.ended
    assert prober.result is None
    prober.returned(1)
    assert prober.result is None


def test_a_dead_end_that_is_not_acknowledged_ends_the_probe() -> None:
    wire = Wire(Link(0.002, 2e6, 5e6))
    wire.acknowledges = False
    prober = LinkProber(wire.send, lambda: wire.now)
    while not prober.ended:
        prober.turn()
        if prober.waits:
            wire.deliver(prober)
    assert prober.result is None


def test_a_prober_with_a_processor_finds_what_messages_cost_it() -> None:
    wire = Wire(Link(0.002, 2e6, 5e6))
    prober = LinkProber(wire.send, lambda: wire.now, lambda: wire.worked)
    while not prober.ended:
        announced = prober.sends_region
        prober.turn()
        assert announced == (wire.regions > 0)
        if prober.waits:
            assert not prober.sends_region
            wire.deliver(prober)
    assert prober.result is not None
    assert prober.result.up == pytest.approx(2e6, rel=1e-6)
    assert prober.result.message_seconds == pytest.approx(0.003, rel=1e-2)
    assert prober.result.byte_seconds == pytest.approx(2e-9, rel=1e-6)


def test_regions_that_never_come_back_leave_what_was_found_before() -> None:
    wire = Wire(Link(0.002, 2e6, 5e6))
    prober = LinkProber(wire.send, lambda: wire.now, lambda: wire.worked)
    while not prober.ended:
        prober.turn()
        if prober.waits and not wire.regions:
            wire.deliver(prober)
        elif prober.waits:
            wire.now += SHOT_TIMEOUT + 1
    assert prober.result is not None
    assert prober.result.up == pytest.approx(2e6, rel=1e-6)
    assert prober.result.message_seconds == 0
