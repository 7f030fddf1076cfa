"""Who packs maps for whom: what the formula of seconds says, and nobody of whom too little is known."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion_iot.planning.links import Link
from legion_iot.planning.planners.balanced import balanced
from legion_iot.planning.routing import ORCHESTRATOR, route
from legion_iot.runtime.assignment import assignments_of
from legion_iot.runtime.packing import MARGIN, Party, pays, receivers_to_pack_for
from legion_iot.wire.messages import AgentInfo, CodecSpeed, ModelReference
from legion_iot.wire.zeros import CODEC, LEAST_RATIO

from .networks import NETWORKS

NETWORK = NETWORKS["residual"]
RATES = st.floats(1e3, 1e11)
FULL_CORE = CodecSpeed(CODEC, 300e6, 300e6)  # elements per second, of this machine's order
MBIT = 1e6 / 8
NAMES = ("ant", "bee", "cow")


def party(mbit: float | None, share: float = 0.0, codecs: tuple[CodecSpeed, ...] = (FULL_CORE,)) -> Party:
    info = AgentInfo("b", 1, 1, 1, "r", "1", "k", "1", (), share, codecs)
    return Party(info, None if mbit is None else Link(0.001, mbit * MBIT, mbit * MBIT))


@given(RATES, st.floats(1.01, 30), RATES, RATES)
def test_it_pays_when_a_megabyte_arrives_sooner_by_what_it_costs(
    rate: float, ratio: float, packs: float, unpacks: float
) -> None:
    size = 1e6
    saved = size / rate - size / ratio / rate
    cost = size / packs + size / unpacks
    assert pays(rate, ratio, packs, unpacks) == (saved > MARGIN * cost) or saved == pytest.approx(MARGIN * cost)


@given(RATES, RATES, RATES, st.floats(1, 100))
def test_a_slower_link_and_faster_processors_never_speak_against_it(
    rate: float, packs: float, unpacks: float, times: float
) -> None:
    if pays(rate, LEAST_RATIO, packs, unpacks):
        assert pays(rate / times, LEAST_RATIO, packs, unpacks)
        assert pays(rate, LEAST_RATIO, packs * times, unpacks * times)


def test_nothing_is_known_of_speeds_that_cannot_be() -> None:
    assert not any(pays(*values) for values in ((0, 2, 1e9, 1e9), (1e6, 2, 0, 1e9), (1e6, 2, 1e9, -1)))


def packs(known: dict[str, Party], wire: str = "float32") -> dict[str, tuple[str, ...]]:
    plan = balanced(NETWORK, dict.fromkeys(NAMES, 1.0), 3)
    return receivers_to_pack_for(NETWORK, route(NETWORK, plan), wire, known)


def test_on_at_ten_megabits_and_off_on_loopback() -> None:
    slow = packs(dict.fromkeys(NAMES, party(10)))
    assert set(slow) == set(NAMES)
    assert all(ORCHESTRATOR not in targets and sender not in targets for sender, targets in slow.items())
    assert packs(dict.fromkeys(NAMES, party(8000))) == {}
    assert packs(dict.fromkeys(NAMES, party(10)), "int8").keys() == slow.keys()


def test_the_slower_of_two_links_counts_and_every_pair_decides_for_itself() -> None:
    found = packs({"ant": party(10), "bee": party(8000), "cow": party(8000)})
    assert found
    for sender, targets in found.items():
        assert sender == "ant" or targets == ("ant",)


def test_a_weak_processor_packs_on_slower_links_only() -> None:
    assert packs(dict.fromkeys(NAMES, party(100)))
    assert packs(dict.fromkeys(NAMES, party(100, share=0.02))) == {}
    assert packs(dict.fromkeys(NAMES, party(2, share=0.02)))


@pytest.mark.parametrize("unknown", [party(None), party(10, codecs=()), party(10, codecs=(CodecSpeed("zip", 1, 1),))])
def test_nobody_packs_for_one_of_whom_too_little_is_known(unknown: Party) -> None:
    assert packs({"ant": unknown, "bee": party(10), "cow": party(10)}).keys() <= {"bee", "cow"}
    assert packs(dict.fromkeys(NAMES, unknown)) == {}
    assert packs({}) == {}


def test_an_assignment_says_for_whom() -> None:
    model = ModelReference("net", "0" * 64, 10)
    routing = route(NETWORK, balanced(NETWORK, dict.fromkeys(NAMES, 1.0), 3))
    plain = assignments_of(1, model, routing)
    packed = assignments_of(1, model, routing, packs={"ant": ("bee",)})
    assert all((each.codec, each.pack_for) == ("", ()) for each in plain.values())
    assert packed["ant"] == dataclasses.replace(plain["ant"], codec=CODEC, pack_for=("bee",))
    assert [packed[name] for name in NAMES[1:]] == [plain[name] for name in NAMES[1:]]
