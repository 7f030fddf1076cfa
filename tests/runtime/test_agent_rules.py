"""The agent's machine under any order of events, sensible or not: what must hold after each of them.

A network of noise: tensor t of request r is known to everybody, so that a value that is wrong, misplaced or of another
request is seen where it arrives. The process around the machine is played here: it loads, fetches and computes as it
is told, at once or later, well or not.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from legion_iot.runtime import agent as machine
from legion_iot.runtime import arrivals, attempts, exchange, ready
from legion_iot.runtime.exchange import TensorForm
from legion_iot.runtime.fetch import CHUNK, CHUNKS_IN_FLIGHT
from legion_iot.wire.messages import (
    AssignedStep,
    Assignment,
    Chunk,
    Command,
    Failed,
    Fragment,
    ModelReference,
    PeerRegion,
    ProfilePart,
    Ready,
    RegionBounds,
    TensorRegion,
)
from legion_iot.wire.tensors import Array

MODELS = (ModelReference("first", "a" * 64, 3 * CHUNK + 5), ModelReference("second", "b" * 64, 9))
FORMS = {tensor: TensorForm(2, "float32") for tensor in range(4)}
WHOLE: RegionBounds = (0, 4, 0, 3)
UPPER: RegionBounds = (0, 2, 0, 3)
LOWER: RegionBounds = (2, 4, 0, 3)
REQUESTS = [f"r{number}" for number in range(80)]
BACK = st.integers(-1, 5)  # from the newest epoch
CHANNELS = 2


def noise(request: str, tensor: int, region: RegionBounds) -> Array:
    """Those rows and columns of a tensor."""
    whole = np.random.default_rng([tensor, *request.encode()]).standard_normal((4, 3, CHANNELS)).astype(np.float32)
    top, bottom, left, right = region
    return whole[top:bottom, left:right]


def steps(number: int) -> tuple[AssignedStep, ...]:
    """Of a plan with one replica, or with two that are alike."""
    one = (
        AssignedStep(0, (0, 0), (TensorRegion(0, WHOLE),), (TensorRegion(1, UPPER),)),
        AssignedStep(1, (1, 1), (TensorRegion(1, WHOLE),), (TensorRegion(2, WHOLE),)),
    )
    two = tuple(AssignedStep(s.step + 2, s.units, s.inputs, s.outputs, False, 1) for s in one)
    return (*one, *two)[: 2 * number]


def assignment(epoch: int, model: ModelReference, replicas: int, alone: bool) -> Assignment:
    """The first step makes the upper half of tensor 1, bee the lower; the second needs both, and makes the output."""
    receives, sends = [], []
    for first in range(0, 2 * replicas, 2):
        receives += [PeerRegion(first, 0, WHOLE, "orchestrator"), PeerRegion(first + 1, 1, LOWER, "bee")]
        sends += [
            PeerRegion(first + 1, 1, UPPER, "ant"),
            PeerRegion(first + 1, 1, UPPER, "bee"),
            PeerRegion(9, 2, WHOLE, "orchestrator"),
        ]
    return Assignment(epoch, model, steps(replicas), tuple(receives), tuple(dict.fromkeys(sends)), alone=alone)


class AgentRules(RuleBasedStateMachine):
    @initialize(held=st.sets(st.sampled_from([model.sha256 for model in MODELS])), replicas=st.integers(1, 2))
    def start(self, held: set[str], replicas: int) -> None:
        self.state = machine.State("ant", set(held))
        self.now = 100.0
        self.loaded: dict[int, Assignment] = {}
        self.answers: list[machine.Event] = []  # of the process, which come when they come
        self.asked: list[machine.AskChunk] = []
        self.next_load = "well"
        self.newest = 0
        self.computed: set[tuple[int, str, int, int]] = set()
        self.assign(MODELS[0], replicas, False, 0)
        while self.answers or self.asked:
            self.all_chunks()
            self.answer(0, "well")

    def tell(self, event: machine.Event) -> list[machine.Effect]:
        self.now += 0.001
        effects = machine.step(self.state, event, self.now)
        for effect in effects:
            self.carry_out(effect)
        return effects

    def carry_out(self, effect: machine.Effect) -> None:
        held = {each.assignment.epoch: each for each in self.state.epochs}
        match effect:
            case machine.Load(assignment=told):
                assert told.steps, "there is nothing to load"
                assert held[told.epoch].assignment == told, "it is not held"
                assert told.model.sha256 in self.state.models, "its model is not there"
                self.load(told)
            case machine.Unload(epoch=epoch):
                self.loaded.pop(epoch, None)
                self.computed = {run for run in self.computed if run[0] != epoch}
            case machine.MakeRoom(model=model, needed=needed):
                assert needed == {e.assignment.model.sha256 for e in held.values() if e.assignment.steps}
                self.answers.append(machine.RoomMade(model.sha256))
            case machine.AskChunk(request=request):
                assert self.state.fetch is not None
                assert request.sha256 == self.state.fetch.model.sha256
                assert 0 < request.size <= CHUNK
                assert 0 <= request.offset <= self.state.fetch.model.size - request.size
                self.asked.append(effect)
            case machine.FinishModel(model=model):
                self.answers.append(machine.ModelStored(model.sha256))
            case machine.SendRegion(header=header, values=values, target=target):
                assert target in ("bee", "orchestrator")
                assert header.epoch in self.loaded
                np.testing.assert_array_equal(values, noise(header.request, header.tensor, header.region))
            case machine.Report(message=Ready(epoch=epoch)):
                assert epoch in held, "it is ready for what it does not hold"

    def load(self, told: Assignment) -> None:
        outcome, self.next_load = self.next_load, "well"
        if outcome == "well":
            self.loaded[told.epoch] = told
            self.answers.append(machine.Loaded(told.epoch, FORMS))
            return
        self.loaded.pop(told.epoch, None)
        badly = machine.Loaded(told.epoch, {}, "it cannot be loaded")
        self.answers.append(badly if outcome == "badly" else machine.ModelLost(told.model))

    @rule(outcome=st.sampled_from(["badly", "lost"]))
    def the_next_load_fails(self, outcome: str) -> None:
        self.next_load = outcome

    # --- what the orchestrator says ---

    @rule(
        model=st.sampled_from(MODELS),
        replicas=st.integers(0, 2),
        alone=st.sampled_from([False, False, False, True]),
        back=st.integers(0, 4),
    )
    def assign(self, model: ModelReference, replicas: int, alone: bool, back: int) -> None:
        """A new plan, with a number that no other one has had; perhaps it says which older one is in force."""
        self.newest += 1
        told = replace(assignment(self.newest, model, replicas, alone), beside=self.newest - back if back else 0)
        self.tell(machine.AssignmentArrived(told))
        assert self.tell(machine.AssignmentArrived(told)) == [], "it is retained, and comes again"

    @precondition(lambda self: len(self.state.epochs) > 1)
    @rule(model=st.sampled_from(MODELS))
    def clear(self, model: ModelReference) -> None:
        self.tell(machine.AssignmentCleared(model.name))
        assert not any(held.assignment.model.name == model.name for held in self.state.epochs)

    @rule(
        operation=st.sampled_from(["fetch", "profile", "probe", "release", "nonsense"]),
        model=st.sampled_from([*MODELS, None]),
        number=st.integers(0, 200),
        back=BACK,
    )
    def command(self, operation: str, model: ModelReference | None, number: int, back: int) -> None:
        self.tell(machine.CommandArrived(Command(operation, model, number, (ProfilePart(),), 1.0, self.newest - back)))

    # --- what the process answers ---

    @precondition(lambda self: self.answers)
    @rule(which=st.integers(0, 5), outcome=st.sampled_from(["well", "well", "well", "badly", "twice"]))
    def answer(self, which: int, outcome: str) -> None:
        if not self.answers:
            return
        event = self.answers.pop(which % len(self.answers))
        match event:
            case machine.RoomMade(sha256=sha256) if outcome == "badly":
                event = machine.ModelStored(sha256, "there is no room")
            case machine.RoomMade(sha256=sha256) if outcome == "twice":
                event = machine.RoomMade(sha256, 5)
            case machine.ModelStored(sha256=sha256) if outcome == "badly":
                event = machine.ModelStored(sha256, "it does not match")
        self.tell(event)

    @precondition(lambda self: self.asked)
    @rule(which=st.integers(0, 9), change=st.sampled_from(["", "", "", "size", "offset", "model"]))
    def chunk(self, which: int, change: str) -> None:
        wanted = self.asked[which % len(self.asked)].request
        sha256 = "c" * 64 if change == "model" else wanted.sha256
        offset = wanted.offset + 1 if change == "offset" else wanted.offset
        body = bytes(wanted.size - (change == "size"))
        self.tell(machine.ChunkArrived(Chunk(sha256, offset), memoryview(body)))

    @precondition(lambda self: self.asked)
    @rule()
    def all_chunks(self) -> None:
        while self.asked:
            wanted = self.asked.pop(0).request
            chunk = Chunk(wanted.sha256, wanted.offset)
            self.tell(machine.ChunkArrived(chunk, memoryview(bytes(wanted.size))))

    # --- feature maps ---

    @precondition(lambda self: any(told.receives for told in self.loaded.values()))
    @rule(
        pick=st.integers(0, 99),
        request=st.sampled_from(REQUESTS),
        attempt=st.integers(1, 3),
        rows=st.sampled_from([(0, 4), (0, 1), (1, 4), (2, 4)]),
        wrong=st.sampled_from(
            ["", "", "", "", "", "", "epoch", "sender", "step", "tensor", "rows", "channels", "dtype", "wire", "body"]
        ),
    )
    def fragment(self, pick: int, request: str, attempt: int, rows: tuple[int, int], wrong: str) -> None:
        told = [each for each in self.loaded.values() if each.receives]
        chosen = told[pick % len(told)]
        part = chosen.receives[pick % len(chosen.receives)]
        top, bottom, left, right = part.region
        region = max(top, rows[0]), min(bottom, rows[1]), left, right
        if region[0] >= region[1]:
            return
        values = noise(request, part.tensor, region)
        fields: dict[str, Any] = {
            "epoch": chosen.epoch, "step": part.step, "tensor": part.tensor, "region": region, "channels": CHANNELS,
            "dtype": "float32", "wire": "",
        }  # fmt: skip
        sender, body = part.peer, values.tobytes()
        match wrong:
            case "epoch":
                fields["epoch"] = max(held.assignment.epoch for held in self.state.epochs) + 1
            case "sender":
                sender = "cat"
            case "step":
                fields["step"] = 7
            case "tensor":
                fields["tensor"] = 3
            case "rows":
                fields["region"] = (top, bottom + 1, left, right)
            case "channels":
                fields["channels"] = 1
            case "dtype":
                fields["dtype"] = "complex64"
            case "wire":
                fields["wire"] = "int8"
            case "body":
                body = body[:-1]
        header = Fragment(request, attempt, **fields)
        effects = self.tell(machine.FragmentArrived(sender, header, memoryview(body)))
        for effect in effects:  # nothing comes of it but that it is refused, or its sender to blame
            assert isinstance(effect, machine.Report)
            assert isinstance(effect.message, Failed)
            assert (effect.message.epoch, effect.message.request) == (chosen.epoch, request)
            if "wait to be computed" not in effect.message.reason:
                assert effect.message.culprit == sender
                assert wrong not in ("", "epoch")

    @precondition(lambda self: any(told.receives for told in self.loaded.values()))
    @rule(
        pick=st.integers(0, 99),
        first=st.integers(0, len(REQUESTS) - 1),
        count=st.sampled_from([1, 1, 2, len(REQUESTS)]),
        attempt=st.integers(1, 3),
        order=st.permutations(range(2)),
    )
    def whole_inputs(self, pick: int, first: int, count: int, attempt: int, order: list[int]) -> None:
        """All that some requests need, as it comes when nothing is lost."""
        told = [each for each in self.loaded.values() if each.receives]
        chosen = told[pick % len(told)]
        replica = pick % (len(chosen.receives) // 2)
        for request in [*REQUESTS[first:], *REQUESTS[:first]][:count]:
            for which in order:
                part = chosen.receives[2 * replica + which]
                values = noise(request, part.tensor, part.region)
                header = Fragment(
                    request, attempt, chosen.epoch, part.step, part.tensor, part.region, CHANNELS, "float32"
                )
                self.tell(machine.FragmentArrived(part.peer, header, memoryview(values.tobytes())))

    @precondition(lambda self: len(self.state.ready))
    @rule(well=st.booleans())
    def idle(self, well: bool) -> None:
        effects = self.tell(machine.Idle())
        for work in effects:
            assert isinstance(work, machine.Compute)
            self.compute(work, well)

    @precondition(lambda self: len(self.state.ready))
    @rule()
    def work_off(self) -> None:
        for _ in range(1000):
            effects = machine.step(self.state, machine.Idle(), self.now)
            if not effects:
                return
            (work,) = effects
            assert isinstance(work, machine.Compute)
            self.compute(work, True)
        raise AssertionError("the work never ends")

    def compute(self, work: machine.Compute, well: bool) -> None:
        run = work.epoch, work.request, work.attempt, work.step
        assert work.epoch in self.loaded, "its sub-model is not there"
        assert run not in self.computed, "it has been computed"
        self.computed.add(run)
        (step,) = (s for s in self.loaded[work.epoch].steps if s.step == work.step)
        assert set(work.inputs) == {part.tensor for part in step.inputs}
        for part in step.inputs:
            np.testing.assert_array_equal(work.inputs[part.tensor], noise(work.request, part.tensor, part.region))
        if not well:
            self.tell(machine.StepFailed(work.epoch, work.request, "it failed", work.attempt))
            return
        outputs = {part.tensor: noise(work.request, part.tensor, part.region) for part in step.outputs}
        self.tell(machine.StepDone(work.epoch, work.request, work.attempt, work.step, outputs, 0.01, self.now))

    @rule(back=BACK, request=st.sampled_from(REQUESTS), attempt=st.integers(0, 3))
    def undelivered(self, back: int, request: str, attempt: int) -> None:
        self.tell(machine.StepFailed(self.newest - back, request, "bee is silent", attempt))

    @rule(seconds=st.sampled_from([0.5, 6.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.tell(machine.Tick())
        self.tell(machine.Tick())

    # --- what must hold ---

    @invariant()
    def at_most_two_epochs_of_a_model_are_held_and_nothing_else_is_loaded(self) -> None:
        names = [held.assignment.model.name for held in self.state.epochs]
        assert all(names.count(name) <= 2 for name in names)
        held = {each.assignment.epoch for each in self.state.epochs}
        assert set(self.loaded) <= held
        for each in self.state.epochs:
            if each.exchange is not None:
                assert each.assignment.epoch in self.loaded

    @invariant()
    def everything_is_bounded(self) -> None:
        state = self.state
        for held in state.epochs:
            if held.exchange is not None:
                assert len(held.exchange) <= exchange.MAX_REQUESTS * len({s.replica for s in held.assignment.steps})
        assert len({(work.request, work.attempt) for work in self.waiting()}) <= ready.MOST_ATTEMPTS
        assert len(state.attempts) <= attempts.REMEMBERED
        assert len(state.arrivals) <= arrivals.MAX_STEPS
        assert state.fetch is None or len(state.fetch.in_flight) <= CHUNKS_IN_FLIGHT

    @invariant()
    def nothing_waits_for_an_epoch_that_is_not_held(self) -> None:
        held = {each.assignment.epoch for each in self.state.epochs}
        assert {work.epoch for work in self.waiting()} <= held

    def waiting(self) -> Iterable[machine.Compute]:
        return [entry[-1] for entry in self.state.ready._steps]

    @invariant()
    def nobody_measures_while_a_model_is_fetched(self) -> None:
        assert self.state.fetch is None or not machine.may_measure(self.state, self.now + 1e6)


def test_an_agent_keeps_its_invariants_whatever_happens() -> None:
    run_state_machine_as_test(
        AgentRules,
        settings=settings(
            max_examples=int(os.environ.get("LEGION_FUZZ", "0")) // 100 or 40,
            stateful_step_count=50,
            deadline=None,
            phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking takes longer than a test may
            suppress_health_check=list(HealthCheck),
        ),
    )
