"""A group in virtual time, and beside each message that comes to a participant, mutated copies of it.

A message that cannot be is refused and counted. One that could have been sent (another session, another number) is
acted upon, so agents may leave and requests may end with a reason; but no answer is ever wrong, no step is computed on
anything but its planned regions of one request, and nothing grows without bounds: the group's invariants see to that.
Left out are mutations that make a planned fragment with other values: that is a lie, which nobody can see.

`LEGION_FUZZ` is how many mutated messages there are; 100,000 take some minutes.
"""

from __future__ import annotations

import json
import os
import random
import struct
import tracemalloc
from collections import Counter
from typing import Any

import msgpack
import numpy as np
import pytest

from legion_iot.errors import ProtocolError
from legion_iot.runtime import arrivals, attempts, ready
from legion_iot.runtime.simulation.broker import Broker, Line, Lost, Publication, Take
from legion_iot.runtime.simulation.group import Group
from legion_iot.runtime.simulation.participant import TOPICS
from legion_iot.wire import codec, delivery
from legion_iot.wire.messages import Fragment, Parcel
from legion_iot.wire.tensors import INBOX, open_parcel, read_fragment, region_of
from legion_iot.wire.topics import InboxTopic
from tests.runtime.group import at_least
from tests.runtime.networks import NETWORKS
from tests.wire.test_codec import mutated

MESSAGES = int(os.environ.get("LEGION_FUZZ", "3000"))
AGENTS = ("ant", "bee", "cat")
COPIES = 3  # of each message
MOST_BYTES = 64 << 20  # that the whole group may take


class Mutations:
    """Delivers mutated copies of what comes."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.group: Group | None = None

    def beside(self, take: Take) -> Take:
        def taken(topic: str, payload: bytes, retained: bool) -> None:
            for _ in range(COPIES):
                if self.group is not None and self.counts["sent"] < MESSAGES:
                    take(*self.one(topic, payload), retained)
            take(topic, payload, retained)

        return taken

    def one(self, topic: str, payload: bytes) -> tuple[str, bytes]:
        while True:
            how = self.random.choice(("topic", "bytes", "bytes", "field", "field")) if payload else "topic"
            match how:
                case "topic":
                    other = mutated(topic.encode(), self.random).decode("utf-8", "replace"), payload
                case "bytes":
                    other = topic, mutated(payload, self.random)
                case _:
                    other = topic, self.with_another_field(payload)
            if not self.is_lie(*other):
                break
            self.counts["lies"] += 1
        self.counts["sent"] += 1
        self.counts[how] += 1
        return other

    def with_another_field(self, payload: bytes) -> bytes:
        """The message with another value in one place, which is of the right type more often than not."""
        if payload.startswith(b"{"):
            return json.dumps(self.changed(json.loads(payload))).encode()
        (length,) = struct.unpack_from("<I", payload)
        header = msgpack.packb(self.changed(msgpack.unpackb(payload[4 : 4 + length])))
        return struct.pack("<I", len(header)) + header + payload[4 + length :]

    def changed(self, value: Any) -> Any:
        draw = self.random
        match value:
            case dict() if value:
                key = draw.choice([key for key in value if key not in ("schema", "kind")] or list(value))
                return {**value, key: self.changed(value[key])}
            case list() if value and draw.random() < 0.8:
                at = draw.randrange(len(value))
                return [*value[:at], self.changed(value[at]), *value[at + 1 :]]
            case list():
                return draw.choice([[], value + value, value[1:], value[::-1], None])
            case bool():
                return not value
            case int():
                return draw.choice([value + 1, value - 1, 0, -value, 1 << 40, (1 << 63) - 1, str(value), float(value)])
            case float():
                return draw.choice([-value, 0.0, value * 1e6, 1e300, int(value), None])
            case str():
                return draw.choice(["", value[1:], value + "x", "orchestrator", *AGENTS, "offline", 7, "\u20ac" * 80])
        return draw.choice([None, 1, "x", [], {}])

    def is_lie(self, topic: str, payload: bytes) -> bool:
        """Whether it carries a sound fragment with values that are not those of the noise."""
        try:
            if not isinstance(TOPICS.parse(topic), InboxTopic):
                return False
            message, body = codec.unpack(INBOX, payload)
            opened = open_parcel(message, body) if isinstance(message, Parcel) else []
        except ProtocolError:
            return False
        return any(self.is_false(header, elements) for header, elements in opened)

    def is_false(self, header: Fragment, elements: memoryview) -> bool:
        assert self.group is not None
        noise = self.group.noise
        try:
            values, region = read_fragment(header, elements), region_of(header.region)
        except ProtocolError:
            return False
        if header.tensor not in noise.forms or header.attempt < 1 or not 0 < header.epoch <= self.group.state.epoch:
            return False
        whole = noise.tensor(header.request, header.tensor, (header.epoch, header.attempt))
        truth = whole[region.rows.start : region.rows.stop, region.columns.start : region.columns.stop]
        return truth.shape == values.shape and not np.array_equal(truth, values)


def check_bounds(group: Group) -> None:
    """What each participant holds."""
    for process in (*group.processes, group.orchestrator):
        assert len(process.fragments.state.incoming) <= delivery.MAX_STREAMS
    for process in group.processes:
        state = process.state
        assert len(state.attempts) <= attempts.REMEMBERED
        assert len(state.arrivals) <= arrivals.MAX_STEPS
        assert len(state.ready) <= ready.MOST_ATTEMPTS * 8
        assert len(state.measured) <= 64


@pytest.mark.timeout(900)
def test_mutated_messages_are_refused_and_make_no_wrong_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    mutations = Mutations(1)
    connect = Broker.connect

    def fuzzed(broker: Broker, client: str, take: Take, lost: Lost, will: Publication | None = None) -> bool:
        return connect(broker, client, mutations.beside(take), lost, will)

    monkeypatch.setattr(Broker, "connect", fuzzed)
    group = Group(NETWORKS["residual"], seed=1, line=Line(duplicates=0.1), make_plan=at_least(2), least_agents=2)
    for name in AGENTS:
        group.start(name)
    group.run_until("serving")
    mutations.group = group
    refused, answered = 0, 0
    tracemalloc.start()
    while mutations.counts["sent"] < MESSAGES:
        group.ask()
        group.run(0.5)
        check_bounds(group)
        for name in AGENTS:
            if not group.agents[name].alive or mutations.random.random() < 0.02:
                group.agents[name].kill(will_after=0.1)
                refused += group.agents[name].dropped + group.agents[name].state.dropped
                group.start(name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    refused += sum(p.dropped + p.state.dropped for p in (*group.agents.values(), group.orchestrator))
    mutations.group = None
    for name in AGENTS:  # whoever was led astray begins anew
        group.agents[name].leave()
        group.start(name)
    group.run(1.0)
    group.run_until("serving", limit=400.0)
    request = group.ask()
    group.run(30.0)
    group.check_answer(request)
    answered = sum(1 for ended in group.ended.values() if not ended.error)
    print(dict(mutations.counts), "refused", refused, "answered", answered, "of", len(group.ended), "peak", peak)
    assert peak < MOST_BYTES
    assert refused > 0.5 * MESSAGES, "too few were refused: the fuzz shows little"
    assert answered > 20, "too few were answered: the group hardly worked"
