"""Whatever a network does to parcels and receipts, each fragment comes once, or its sender is told that it does not."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Sequence

import pytest

from legion_iot.errors import ProtocolError
from legion_iot.wire import delivery
from legion_iot.wire.delivery import (
    CREDIT_PARCELS,
    CREDIT_SECONDS,
    FIRST_CREDIT,
    GIVE_UP,
    LEAST_CREDIT,
    LEAST_TIMEOUT,
    MOST_CREDIT,
    MOST_PARCEL,
    Accept,
    Answer,
    GiveUp,
    LinkUp,
    Offer,
    ParcelArrived,
    ReceiptArrived,
    State,
    Tick,
    Transmit,
    step,
)
from legion_iot.wire.messages import Fragment, Parcel, Receipt
from legion_iot.wire.tensors import Piece

SMALL, LARGE = 32 << 10, 400_000


def piece(number: int, size: int, request: str = "r", whole: bool = True) -> Piece:
    return Piece(
        Fragment(request, 1, 1, 0, number, (0, 1, 0, size), 1, "int8"), memoryview(bytes(size)), whole and size <= SMALL
    )


def transmitted(effects: Sequence[delivery.Effect]) -> list[Parcel]:
    return [effect.parcel for effect in effects if isinstance(effect, Transmit)]


def tensors(parcels: Sequence[Parcel]) -> list[int]:
    """The fragments of parcels, which these tests tell apart by their tensor."""
    return [header.tensor for parcel in parcels for header in parcel.fragments]


class Network:
    """Participants in virtual time; the messages between them are lost, doubled and delayed from a seed."""

    def __init__(self, seed: int, *, loss: float = 0.0, twice: float = 0.0, slowest: float = 0.05) -> None:
        self.now = 100.0
        self.random = random.Random(seed)
        self.loss, self.twice, self.slowest = loss, twice, slowest
        self.states: dict[str, State] = {}
        self.accepted: dict[str, Counter[int]] = {}
        self.given_up: list[GiveUp] = []
        self.messages = self.most_bytes = self.most_parcels = 0
        self._agenda: list[tuple[float, int, str, delivery.Event, State]] = []
        self._numbers = itertools.count()

    def start(self, name: str) -> None:
        """A participant, or the one of that name anew, without memory."""
        self.states[name] = State(self.random.getrandbits(48))
        self.accepted[name] = Counter()

    def step(self, name: str, event: delivery.Event) -> None:
        state = self.states[name]
        for effect in step(state, event, self.now):
            match effect:
                case Transmit(target=target, parcel=parcel):
                    self._carry(target, ParcelArrived(name, parcel))
                case Answer(target=target, receipt=receipt):
                    self._carry(target, ReceiptArrived(name, receipt))
                case Accept():
                    assert isinstance(event, ParcelArrived)
                    self.accepted[name].update(header.tensor for header in event.parcel.fragments)
                case GiveUp():
                    self.given_up.append(effect)
        for outgoing in state.outgoing.values():
            assert outgoing.bytes_under_way == sum(each.size for each in outgoing.under_way.values())
            self.most_bytes = max(self.most_bytes, outgoing.bytes_under_way)
            self.most_parcels = max(self.most_parcels, len(outgoing.under_way))

    def _carry(self, target: str, event: delivery.Event) -> None:
        if target not in self.states:
            return
        self.messages += 1
        for _ in range(2 if self.random.random() < self.twice else 1):
            if self.random.random() >= self.loss:
                at = self.now + self.random.uniform(0.001, self.slowest)
                heapq.heappush(self._agenda, (at, next(self._numbers), target, event, self.states[target]))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            due, name = min((state.due(), name) for name, state in self.states.items())
            arrives = self._agenda[0][0] if self._agenda else end
            if min(due, arrives) >= end:
                self.now = end
                return
            if due <= arrives:
                assert due >= self.now, "time that has passed is due for ever"
                self.now = due
                self.step(name, Tick())
            else:
                self.now, _, target, event, state = heapq.heappop(self._agenda)
                if self.states.get(target) is state:  # what is for an earlier run of it finds nobody
                    self.step(target, event)


SIZES = (1, 900, SMALL, SMALL + 1, LARGE, 2_000_000)


@pytest.mark.parametrize("seed", range(60))
def test_every_fragment_comes_once_whatever_happens_to_messages(seed: int) -> None:
    draw = random.Random(seed)
    network = Network(
        seed, loss=draw.choice([0, 0.05, 0.2]), twice=draw.choice([0, 0.3]), slowest=draw.choice([0.01, 2])
    )
    for name in ("ant", "bee"):
        network.start(name)
    offered: dict[str, list[int]] = {"ant": [], "bee": []}
    for number in range(draw.randrange(1, 150)):
        sender, target = draw.sample(["ant", "bee"], 2)
        offered[target].append(number)
        network.step(sender, Offer(target, [piece(number, draw.choice(SIZES))]))
        if draw.random() < 0.3:
            network.run(draw.uniform(0, 0.3))
    network.run(600)
    assert network.accepted == {name: Counter(numbers) for name, numbers in offered.items()}
    assert not network.given_up
    assert all(state.due() == float("inf") for state in network.states.values()), "somebody still waits"
    assert network.most_bytes <= MOST_CREDIT + max(SIZES) + CREDIT_PARCELS * MOST_PARCEL
    assert network.most_parcels <= CREDIT_PARCELS


def test_a_map_costs_few_receipts_and_nothing_is_sent_twice_without_need() -> None:
    network = Network(1)
    network.slowest = 0.001  # all delays alike, so that order is kept
    network.start("ant")
    network.start("bee")
    for number in range(33):
        network.step("ant", Offer("bee", [piece(number, LARGE)], follows=LARGE * (32 - number)))
    network.run(10)
    assert network.accepted["bee"] == Counter(range(33))
    assert network.states["ant"].resent == 0
    assert network.messages <= 33 + 33 * LARGE * delivery.ANSWERS // FIRST_CREDIT + 2


def test_a_parcel_says_how_many_bytes_follow_it_at_once() -> None:
    state = State(1)
    waiting = [piece(number, LARGE) for number in range(3)]
    first = [each.parcel.follows for each in step(state, Offer("bee", waiting, 7), 0.0) if isinstance(each, Transmit)]
    assert first == [2 * LARGE + 7, LARGE + 7, 7]
    rest = [piece(number, LARGE) for number in range(3, 3 + 2 * FIRST_CREDIT // LARGE)]
    held = [each.parcel for each in step(state, Offer("bee", rest, 7), 0.0) if isinstance(each, Transmit)]
    assert len(held) < len(rest)  # what has no credit does not follow at once
    assert [each.follows for each in held] == [LARGE * left for left in reversed(range(len(held)))]


def test_halos_that_nobody_waits_to_be_acknowledged_share_a_receipt() -> None:
    network = Network(1, slowest=0.001)
    network.start("ant")
    network.start("bee")
    for number in range(20):
        network.step("ant", Offer("bee", [piece(number, 1000)]))
        network.run(0.005)
    network.run(1)
    assert network.accepted["bee"] == Counter(range(20))
    assert network.messages <= 20 + 4


@pytest.mark.parametrize("size", [1000, 64 << 10])
def test_no_credit_waits_for_a_receipt_that_is_not_urgent(size: int) -> None:
    """Hundreds of small offers within the time of one such receipt, one after the other, as from step to step."""
    network = Network(1, slowest=0.0011)
    network.start("ant")
    network.start("bee")
    for number in range(300):
        network.step("ant", Offer("bee", [piece(number, size)]))
        assert not network.states["ant"].outgoing["bee"].large, "held up"
        assert not network.states["ant"].outgoing["bee"].small, "held up"
        network.run(0.0002)
    network.run(1)
    assert network.accepted["bee"] == Counter(range(300))


def test_a_receiver_that_starts_anew_takes_what_still_comes() -> None:
    network = Network(3, slowest=0.001)
    network.start("ant")
    network.start("bee")
    network.step("ant", Offer("bee", [piece(number, LARGE) for number in range(20)]))
    network.run(0.003)
    before = network.accepted["bee"]
    assert 0 < len(before) < 20
    network.start("bee")
    network.run(100)
    assert max(network.accepted["bee"].values()) == 1
    assert set(before) | set(network.accepted["bee"]) == set(range(20))
    assert not network.given_up


def test_a_sender_that_starts_anew_is_not_taken_for_its_predecessor() -> None:
    network = Network(4)
    network.start("ant")
    network.start("bee")
    network.step("ant", Offer("bee", [piece(number, LARGE) for number in range(5)]))
    network.run(0.01)
    network.start("ant")
    network.step("ant", Offer("bee", [piece(number, 100) for number in range(50, 60)]))
    network.run(100)
    assert {number: count for number, count in network.accepted["bee"].items() if number >= 50} == dict.fromkeys(
        range(50, 60), 1
    )


def test_nobody_is_waited_for_for_ever_and_what_is_given_up_is_named() -> None:
    network = Network(5)
    network.start("ant")
    network.step("ant", Offer("dog", [piece(number, LARGE, f"request-{number % 3}") for number in range(40)]))
    network.step("ant", Offer("dog", [piece(99, 10, "halo")]))
    network.run(GIVE_UP - 1)
    assert not network.given_up
    resent = network.states["ant"].resent
    assert 2 <= resent <= 10
    network.run(2)
    (given_up,) = network.given_up
    assert given_up.target == "dog"
    assert set(given_up.requests) == {(1, "request-0"), (1, "request-1"), (1, "request-2"), (1, "halo")}
    assert "dog has acknowledged nothing for 30 s" in given_up.reason
    assert network.states["ant"].due() == float("inf")
    network.start("dog")  # it is back, and what is offered from now on reaches it
    network.step("ant", Offer("dog", [piece(100, 10)]))
    network.run(1)
    assert network.accepted["dog"] == Counter([100])


def test_a_link_that_comes_back_sends_at_once_what_was_under_way() -> None:
    state = State(1)
    sent = transmitted(step(state, Offer("bee", [piece(number, LARGE) for number in range(3)]), 0.0))
    again = transmitted(step(state, LinkUp(), 0.1))
    assert [parcel.number for parcel in again] == [parcel.number for parcel in sent] == [0, 1, 2]
    assert [parcel.urgent for parcel in again] == [False, False, True]


def test_small_fragments_overtake_large_ones_and_share_a_message() -> None:
    state = State(1)
    first = transmitted(step(state, Offer("bee", [piece(number, LARGE) for number in range(20)]), 0.0))
    assert tensors(first) == list(range(FIRST_CREDIT // LARGE + 1))
    assert step(state, Offer("bee", [piece(90, LARGE)]), 0.0) == []
    halos = transmitted(step(state, Offer("bee", [piece(100 + number, 1000) for number in range(5)]), 0.0))
    assert [tensors([parcel]) for parcel in halos] == [[100, 101, 102, 103, 104]]
    late = transmitted(step(state, ReceiptArrived("bee", Receipt(1, 0, 2)), 0.0))
    assert tensors(late) == [11, 12]


def test_what_was_overtaken_is_sent_again_before_any_timeout() -> None:
    state = State(1)
    sent = transmitted(step(state, Offer("bee", [piece(number, LARGE) for number in range(4)]), 0.0))
    answer = sent[-1].answer
    assert answer
    again = transmitted(step(state, ReceiptArrived("bee", Receipt(1, answer, 1, (3,))), LEAST_TIMEOUT / 2))
    assert [parcel.number for parcel in again] == [1, 2]
    assert step(state, ReceiptArrived("bee", Receipt(1, answer, 1, (3,))), LEAST_TIMEOUT / 2) == [], "sent just now"


@pytest.mark.parametrize("megabytes_per_second", [1, 12.5, 50, 1000])
def test_credit_follows_what_the_receiver_takes(megabytes_per_second: float) -> None:
    """A link that carries one parcel after the other: it is kept busy, and little more than that is under way."""
    state, now, done = State(1), 0.0, 0.0
    effects = step(state, Offer("bee", [piece(number, 100_000) for number in range(600)]), now)
    on_the_way: list[tuple[float, Parcel]] = []
    idle = 0.0
    while True:
        for parcel in transmitted(effects):
            idle += max(0.0, now - done) if done else 0.0
            done = max(done, now) + 100_000 / (megabytes_per_second * 1e6)
            on_the_way.append((done, parcel))
        if not on_the_way:
            break
        now, parcel = on_the_way.pop(0)
        now += 0.0005
        asks = parcel.answer and parcel.urgent
        effects = step(state, ReceiptArrived("bee", Receipt(1, parcel.answer, parcel.number + 1)), now) if asks else []
        if not asks and not on_the_way:
            break  # the last one, whose receipt nobody waits for
    wanted = megabytes_per_second * 1e6 * CREDIT_SECONDS
    assert state.outgoing["bee"].credit == pytest.approx(min(MOST_CREDIT, max(LEAST_CREDIT, wanted)), rel=0.3)
    assert idle < 0.05 * now


def test_a_receipt_that_waited_says_nothing_about_the_rate() -> None:
    """Maps of 1 MB, one at a time, over a link of 1 GB/s: the last receipt of each comes 50 ms later."""
    state, now = State(1), 0.0
    for _ in range(20):
        parcels = transmitted(step(state, Offer("bee", [piece(0, 64 << 10, whole=False) for _ in range(15)]), now))
        for parcel in parcels:
            now += 65e-6
            if parcel.urgent:
                step(state, ReceiptArrived("bee", Receipt(1, parcel.answer, parcel.number + 1)), now)
        step(state, ReceiptArrived("bee", Receipt(1, parcels[-1].answer, parcels[-1].number + 1)), now + delivery.SOON)
        now += delivery.SOON
        assert state.outgoing["bee"].rate == 0 or state.outgoing["bee"].rate > 3e8


def test_patience_follows_round_trips() -> None:
    state, now = State(1), 0.0
    for number in range(40):
        (parcel,) = transmitted(step(state, Offer("bee", [piece(number, LARGE)]), now))
        now += 1.2
        step(state, ReceiptArrived("bee", Receipt(1, parcel.answer, number + 1)), now)
    step(state, Offer("bee", [piece(99, 10)]), now)
    assert 1.2 <= state.due() - now < 2.4


@pytest.mark.parametrize(
    "parcel",
    [
        Parcel(7, 5, 6, 0, False, ()),
        Parcel(7, -1, -1, 0, False, ()),
        Parcel(7, CREDIT_PARCELS, 0, 0, False, ()),
        Parcel(7, 2**62, 0, 0, False, ()),
    ],
)
def test_parcels_that_cannot_be_change_nothing(parcel: Parcel) -> None:
    state = State(1)
    with pytest.raises(ProtocolError):
        step(state, ParcelArrived("bee", parcel), 0.0)
    assert not state.incoming


def test_receipts_that_cannot_be_change_nothing() -> None:
    state = State(1)
    step(state, Offer("bee", [piece(0, 10)]), 0.0)
    for answer, below in ((1, -1), (1, 2), (1, 2**60), (2, 1), (2**60, 0)):
        with pytest.raises(ProtocolError):
            step(state, ReceiptArrived("bee", Receipt(1, answer, below)), 0.0)
    assert step(state, ReceiptArrived("bee", Receipt(2, 1, 1)), 0.0) == []  # of another stream
    assert step(state, ReceiptArrived("cat", Receipt(1, 1, 1)), 0.0) == []  # who was sent nothing
    assert len(state.outgoing["bee"].under_way) == 1


def test_memory_is_bounded_when_senders_make_up_streams() -> None:
    state = State(1)
    for stream in range(3 * delivery.MAX_STREAMS):
        step(state, ParcelArrived("bee", Parcel(stream, 63, 0, 0, False, ())), 0.0)
    assert len(state.incoming) == delivery.MAX_STREAMS
