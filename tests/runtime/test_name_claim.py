"""Several agents of one name on a broker of the test's own: whatever happens between them, exactly one is left."""

from __future__ import annotations

import random
from collections import deque

import pytest

from legion_iot.runtime.name_claim import NameClaim, Next
from legion_iot.wire.messages import AgentState


class Topic:
    """One topic of a broker: what is retained there, and who listens."""

    def __init__(self) -> None:
        self.retained: AgentState | None = None
        self.said: list[AgentState] = []
        self.listeners: list[Twin] = []

    def publish(self, state: AgentState) -> None:
        self.retained = state
        self.said.append(state)
        for twin in self.listeners:
            twin.inbox.append(("message", state, False))


class Twin:
    """An agent with a link: what it sends and what it is sent stays under way until a turn of its own."""

    def __init__(self, topic: Topic, session: str) -> None:
        self.topic, self.claim = topic, NameClaim(session)
        self.outbox: deque[AgentState] = deque()
        self.inbox: deque[tuple[str, AgentState | None, bool]] = deque()
        self.ended = self.linked = False

    def link(self) -> None:
        self.linked = True
        self.topic.listeners.append(self)
        self.inbox.append(("connected", None, False))
        self._subscribe()

    def cut(self) -> None:
        """The broker publishes the will, and whatever was under way is lost."""
        self.linked = False
        self.topic.listeners.remove(self)
        self.outbox.clear()
        self.inbox.clear()
        self.inbox.append(("disconnected", None, False))
        self.topic.publish(AgentState("offline", self.claim.session))

    def end(self) -> None:
        """In order: no will."""
        self.ended, self.linked = True, False
        self.topic.listeners.remove(self)

    def sends(self) -> None:
        if self.outbox:
            self.topic.publish(self.outbox.popleft())

    def takes(self) -> None:
        if not self.inbox:
            return
        kind, state, retained = self.inbox.popleft()
        match kind:
            case "connected":
                self._do(self.claim.connected())
            case "disconnected":
                self.claim.disconnected()
            case _:
                assert state is not None
                self._do(self.claim.seen(state.session, state.is_present, retained))

    def announce(self) -> None:
        if self.claim.held and not self.ended:
            self.outbox.append(AgentState("online", self.claim.session))
            self.claim.announced()

    def _subscribe(self) -> None:
        if self.topic.retained is not None:
            self.inbox.append(("message", self.topic.retained, True))

    def _do(self, what: Next) -> None:
        match what:
            case Next.ANNOUNCE:
                self.announce()
            case Next.GIVE_UP:
                self.end()


def settle(twins: list[Twin], draw: random.Random) -> None:
    for _ in range(10_000):
        busy = [t for t in twins if not t.ended and (t.inbox or t.outbox)]
        if not busy:
            return
        twin = draw.choice(busy)
        draw.choice([twin.sends, twin.takes])()
    raise AssertionError("they never come to rest")


@pytest.mark.parametrize("seed", range(300))
def test_exactly_one_is_left_and_it_is_the_one_that_is_retained(seed: int) -> None:
    draw = random.Random(seed)
    topic = Topic()
    twins = [Twin(topic, f"session-{number}") for number in range(draw.randrange(1, 5))]
    for _ in range(draw.randrange(100)):
        twin = draw.choice(twins)
        if twin.ended:
            continue
        if not twin.linked:
            draw.choice([twin.link, twin.takes])() if not twin.inbox else twin.takes()
        else:
            draw.choice([twin.sends, twin.takes, twin.takes, twin.sends, twin.announce, twin.cut])()
        if draw.random() < 0.03:
            # A broker comes back, with nothing or with what it had retained long ago; what it cut links again.
            for each in [t for t in twins if t.linked]:
                each.cut()
            topic.retained = draw.choice([None, *topic.said])
    for twin in twins:
        while not twin.ended and not twin.linked and twin.inbox:
            twin.takes()
        if not twin.ended and not twin.linked:
            twin.link()
    settle(twins, draw)
    (left,) = [twin for twin in twins if not twin.ended]
    assert left.claim.held
    assert topic.retained == AgentState("online", left.claim.session)


def test_the_newest_wins_and_is_not_disturbed() -> None:
    topic, draw = Topic(), random.Random(0)
    first, second = Twin(topic, "first"), Twin(topic, "second")
    first.link()
    settle([first], draw)
    second.link()
    settle([first, second], draw)
    assert (first.ended, second.ended) == (True, False)
    assert not second.outbox


def test_a_broker_that_retains_a_process_of_long_ago_ends_nobody() -> None:
    topic, draw = Topic(), random.Random(0)
    only = Twin(topic, "only")
    only.link()
    settle([only], draw)
    only.cut()
    only.takes()
    topic.retained = AgentState("online", "long gone")
    only.link()
    settle([only], draw)
    assert not only.ended
    assert topic.retained == AgentState("online", "only")


def test_the_late_will_of_a_killed_process_does_not_stay() -> None:
    topic, draw = Topic(), random.Random(0)
    killed, again = Twin(topic, "killed"), Twin(topic, "again")
    killed.link()
    settle([killed], draw)
    again.link()  # at once: the broker has not missed the other yet
    settle([again], draw)
    killed.cut()
    settle([again], draw)
    assert topic.retained == AgentState("online", "again")
    assert again.claim.held
