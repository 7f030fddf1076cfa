"""The orchestrator's machine under any order of events, sensible or not: what must hold after each of them.

A group is played here, agents, planner and clients: it does as it is told, at once, later, badly or not at all. The
network is noise that is another one in each epoch and attempt, so that an answer put together of two of them is seen.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable
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

from legion_iot.planning.links import Link
from legion_iot.planning.planners.balanced import balanced
from legion_iot.planning.routing import ORCHESTRATOR
from legion_iot.runtime import orchestrator as machine
from legion_iot.runtime.exchange import MAX_REQUESTS, Exchange
from legion_iot.runtime.held import HeldEpochs
from legion_iot.runtime.requests import QUEUE, Request
from legion_iot.runtime.shared import Shared
from legion_iot.runtime.simulation.oracle import Noise
from legion_iot.runtime.trial import PREFIX, RUNS
from legion_iot.wire.messages import (
    AgentInfo,
    AgentState,
    Command,
    Failed,
    Fragment,
    Measured,
    Metrics,
    ModelReference,
    PartTime,
    Profile,
    Ready,
    TileTiming,
)
from legion_iot.wire.tensors import Array, as_map, bounds
from tests.planning.plans import random_plan
from tests.runtime.networks import NETWORKS

NETWORK = NETWORKS["mixed"]  # outputs of the trunk and of the tail
MODEL = ModelReference("small", "ab" * 32, 1000)
INFO = AgentInfo("board", 4, 1, 1 << 30, "runtime", "1", "xnnpack", "1", (MODEL.sha256,))
LINK = Link(0.001, 1e7, 1e7)
AGENTS = ("ant", "bee", "cat", "dog", "elk")  # of which random plans are made
NAMES = st.sampled_from(AGENTS)
HOW = ("balanced", "balanced", "random", "nobody", "why not", "number")  # a planner answers
PHASES = {"", "gathering", "profiling", "assigning", "serving"}


class OrchestratorRules(RuleBasedStateMachine):
    @initialize(least=st.integers(1, 2), agents=st.sets(NAMES, min_size=1))
    def start(self, least: int, agents: set[str]) -> None:
        self.now = 100.0
        self.state = machine.State(NETWORK, MODEL, least_agents=least, shared=Shared(100))
        self.noise = Noise(NETWORK)
        self.numbers = itertools.count()
        self.sessions = dict.fromkeys(AGENTS, 0)
        self.asked: set[str] = set()
        self.ended: dict[str, machine.RequestEnded] = {}
        self.held: dict[str, HeldEpochs] = {name: HeldEpochs() for name in AGENTS}
        self.loading: list[tuple[str, int]] = []
        self.commands: list[tuple[str, Command]] = []
        self.consults: list[machine.Consult] = []
        self.probes: list[int] = []
        self.newest = 100
        for name in sorted(agents):
            self.come(name, True)
        self.settle()

    # --- what the machine does ---

    def tell(self, event: machine.Event) -> None:
        self.now += 0.001
        assigned = []
        for effect in machine.step(self.state, event, self.now):
            if isinstance(effect, machine.Assign):
                assigned.append(effect)
            self.carry_out(effect)
        epochs = {effect.assignment.epoch for effect in assigned}
        assert len({effect.agent for effect in assigned}) == len(assigned) or len(epochs) > 1
        if epochs:
            assert min(epochs) > self.newest, "an epoch number is used again"
            self.newest = max(epochs)

    def carry_out(self, effect: machine.Effect) -> None:
        match effect:
            case machine.Assign(agent=name, assignment=told):
                self.check_online(name)
                assert self.state.agents[name].is_member
                self.held[name].add(told)
                self.loading = [each for each in self.loading if each[0] != name]
                self.loading.append((name, told.epoch))
            case machine.ClearAssignment(agent=name):
                self.held[name].drop(lambda each: True)
            case machine.SendCommand(agent=name, command=command):
                self.check_online(name)
                if command.operation == "release":
                    self.held[name].drop(lambda each: each.assignment.epoch < command.epoch)
                else:
                    self.commands.append((name, command))
            case machine.SendRegion(target=target, header=header, values=values):
                self.check_online(target)
                force = self.state.epochs.force
                assert header.attempt >= 1
                assert force is None or header.epoch <= force.number
                expected = self.noise.tensor(header.request, header.tensor, (header.epoch, header.attempt))
                np.testing.assert_array_equal(values, expected)
            case machine.RequestEnded():
                self.end(effect)
            case machine.Consult():
                self.consults.append(effect)
            case machine.ProbeOwnLink(number=number):
                self.probes.append(number)
            case machine.PublishState(state=phase):
                assert phase in PHASES

    def check_online(self, name: str) -> None:
        record = self.state.agents[name]
        assert record.online, f"work for {name}, which is offline"

    def end(self, ended: machine.RequestEnded) -> None:
        assert ended.request in self.asked, "nobody has asked for it"
        assert ended.request not in self.ended, "it has ended before"
        assert bool(ended.error) == bool(ended.reason) != bool(ended.outputs)
        self.ended[ended.request] = ended
        if ended.outputs:
            for tensor, values in zip(NETWORK.graph.outputs, ended.outputs, strict=True):
                expected = self.noise.tensor(ended.request, tensor, (ended.epoch, ended.attempts))
                np.testing.assert_array_equal(as_map(values), expected)

    # --- agents ---

    @rule(name=NAMES, knows=st.booleans())
    def come(self, name: str, knows: bool) -> None:
        """A new process of an agent, which has no epochs loaded."""
        self.sessions[name] += 1
        self.held[name] = HeldEpochs()
        self.loading = [each for each in self.loading if each[0] != name]
        info = INFO if knows else replace(INFO, models=())
        self.tell(machine.AgentInfoArrived(name, info))
        if knows:
            self.tell(machine.ProfileArrived(name, Profile(info.board_class, LINK, ())))
        self.tell(machine.AgentStateArrived(name, AgentState("online", f"s{self.sessions[name]}")))

    @rule(
        name=NAMES, state=st.sampled_from(["online", "degraded", "draining", "offline", "nonsense"]), old=st.booleans()
    )
    def says(self, name: str, state: str, old: bool) -> None:
        session = self.sessions[name] - old
        if old and state != "offline":
            return  # only a will comes late
        self.tell(machine.AgentStateArrived(name, AgentState(state, f"s{session}")))

    @rule(
        name=NAMES,
        models=st.sampled_from([(), (MODEL.sha256,), ("0" * 64,)]),
        memory=st.sampled_from([1 << 30, 0, 9000]),
    )
    def informs(self, name: str, models: tuple[str, ...], memory: int) -> None:
        self.tell(machine.AgentInfoArrived(name, replace(INFO, models=models, memory_bytes=memory)))

    @precondition(lambda self: self.loading)
    @rule(which=st.integers(0, 9), well=st.sampled_from([True, True, True, False]))
    def load(self, which: int, well: bool) -> None:
        name, epoch = self.loading.pop(which % len(self.loading))
        found = self.held[name].get(epoch)
        if found is None:
            return
        if not well:
            self.tell(machine.ReportArrived(name, Failed(epoch, "", "no memory")))
            return
        found.exchange = Exchange(epoch, {}, [], {})
        self.tell(machine.ReportArrived(name, Ready(epoch)))

    @precondition(lambda self: self.commands)
    @rule(which=st.integers(0, 9), well=st.sampled_from([True, True, True, False]))
    def obey(self, which: int, well: bool) -> None:
        name, command = self.commands.pop(which % len(self.commands))
        match command.operation:
            case "fetch" if well:
                self.tell(machine.AgentInfoArrived(name, INFO))
            case "fetch":
                self.tell(machine.ReportArrived(name, Failed(0, "", "the disk is full", model=MODEL.sha256)))
            case "probe" if well:
                self.tell(machine.ReportArrived(name, Measured(command.number, (), LINK)))
            case "profile" if well:
                times = tuple(PartTime(0.1, 0.0, 3) for _ in command.parts)
                self.tell(machine.ReportArrived(name, Measured(command.number, times)))
            case _:
                self.tell(machine.ReportArrived(name, Measured(command.number, reason="it cannot")))

    @rule(name=NAMES, number=st.integers(99_990, 100_010), seconds=st.sampled_from([0.0, -1.0, 0.1, 1e9]))
    def answers_what_nobody_asked(self, name: str, number: int, seconds: float) -> None:
        self.tell(machine.ReportArrived(name, Measured(number, (PartTime(seconds, 0.0, 3),), LINK)))
        self.tell(machine.ReportRefused(name, "nonsense"))

    @rule(name=NAMES, epoch=st.integers(0, 130), request=st.booleans())
    def reports_of_other_times(self, name: str, epoch: int, request: bool) -> None:
        self.tell(machine.ReportArrived(name, Ready(epoch)))
        self.tell(machine.ReportArrived(name, TileTiming(epoch, "r0", 0, 0.1, 5)))
        if epoch:
            self.tell(machine.ReportArrived(name, Failed(epoch, "r0" if request else "", "it burns")))

    @rule(name=NAMES)
    def beats(self, name: str) -> None:
        self.tell(machine.MetricsArrived(name, Metrics("s1", 1.0, 0.5, None, False, 1, 2, 0, 0.0, 0, 0, 0)))

    @rule(names=st.frozensets(NAMES), own_link=st.booleans())
    def wants_another_plan(self, names: frozenset[str], own_link: bool) -> None:
        self.tell(machine.ReplanAsked(names, own_link))

    # --- the planner, and the orchestrator's own link ---

    @precondition(lambda self: self.consults)
    @rule(which=st.integers(0, 9), how=st.sampled_from(HOW), seed=st.integers(0, 99))
    def plan(self, which: int, how: str, seed: int) -> None:
        consult = self.consults.pop(which % len(self.consults))
        names = consult.problem.group.names
        draw = random.Random(seed)
        answers: dict[str, Callable[[], Any]] = {
            "balanced": lambda: balanced(NETWORK, dict.fromkeys(names, 1.0)),
            "random": lambda: random_plan(NETWORK, draw, [*names, *names] if len(names) < 2 else names),
            "nobody": lambda: random_plan(NETWORK, draw),
            "why not": lambda: "there is no plan",
            "number": lambda: balanced(NETWORK, dict.fromkeys(names, 1.0)),
        }
        if how == "random" and len(names) < 3:
            how = "balanced"
        self.tell(machine.PlannerAnswered(consult.number + (how == "number"), answers[how]()))

    @precondition(lambda self: self.probes)
    @rule(well=st.booleans())
    def probe(self, well: bool) -> None:
        self.tell(machine.OwnLinkProbed(self.probes.pop(0), LINK if well else None, "" if well else "no echo"))

    @rule()
    def settle(self) -> None:
        """Everybody does as told, until nothing is left to do."""
        for _ in range(60):
            if self.loading:
                self.load(0, True)
            elif self.commands:
                self.obey(0, True)
            elif self.probes:
                self.probe(True)
            elif self.consults:
                self.plan(0, "balanced", 0)
            else:
                break

    # --- requests ---

    @rule(count=st.sampled_from([1, 1, 1, 2, 2, 5, QUEUE + 3]))
    def ask(self, count: int) -> None:
        for _ in range(count):
            request = f"r{next(self.numbers)}"
            self.asked.add(request)
            self.tell(machine.RequestArrived(request, self.noise.input_arrays(request)))

    @precondition(lambda self: self.state.requests.under_way)
    @rule(which=st.integers(0, 9), twice=st.booleans(), part=st.sampled_from([False, False, True]))
    def answer(self, which: int, twice: bool, part: bool) -> None:
        """The outputs of a request come, all of them or a part, once or twice."""
        fragments = self.output_fragments(which)
        if part:
            fragments = fragments[: len(fragments) // 2]
        for sender, header, values in fragments * (2 if twice else 1):
            self.tell(machine.FragmentArrived(sender, header, memoryview(values.tobytes())))

    @precondition(lambda self: self.state.epochs.force is not None)
    @rule(count=st.integers(1, 6))
    def serve(self, count: int) -> None:
        """All goes well for a while: everything that waits is answered, in as many turns as the window makes of it."""
        self.ask(count)
        for _ in range(10 * QUEUE):
            self.settle()
            if not self.state.requests.under_way:
                break
            self.answer(0, False, False)
        if self.state.epochs.force is not None and self.state.epochs.building is None:
            assert not [each for each in self.state.requests.waiting if not each.request.startswith(PREFIX)]

    def output_fragments(self, which: int) -> list[tuple[str, Fragment, Array]]:
        request = self.chosen(which)
        epoch = request.epoch
        assert epoch is not None
        way = epoch.number, request.attempt
        fragments = []
        for transfer in epoch.routing.transfers:
            if (
                transfer.target != ORCHESTRATOR
                or transfer.replica != request.replica
                or transfer.source == ORCHESTRATOR
            ):
                continue
            whole, region = self.noise.tensor(request.request, transfer.tensor, way), transfer.region
            values = whole[region.rows.start : region.rows.stop, region.columns.start : region.columns.stop]
            header = Fragment(
                request.request, request.attempt, epoch.number, transfer.step, transfer.tensor, bounds(region),
                values.shape[2], str(values.dtype),
            )  # fmt: skip
            fragments.append((transfer.source, header, values))
        return fragments

    def chosen(self, which: int) -> Request:
        under_way = list(self.state.requests.under_way.values())
        return under_way[which % len(under_way)]

    @precondition(lambda self: self.state.requests.under_way)
    @rule(
        which=st.integers(0, 9),
        change=st.sampled_from([
            {"epoch": -1}, {"epoch": 1}, {"attempt": 1}, {"attempt": -1}, {"step": 1}, {"tensor": 1}, {"channels": 1},
            {"sender": "cat"}, {"sender": "orchestrator"}, {"sender": "fox"}, {"body": b""}, {"nan": True},
            {"request": "r0"}, {"request": "nobody"},
        ]),
    )  # fmt: skip
    def answer_wrongly(self, which: int, change: dict[str, Any]) -> None:
        fragments = self.output_fragments(which)
        if not fragments:
            return
        sender, header, values = fragments[0]
        for name in ("epoch", "attempt", "step", "tensor", "channels"):
            header = replace(header, **{name: getattr(header, name) + change.get(name, 0)})
        header = replace(header, request=change.get("request", header.request))
        if "nan" in change:
            values = np.full_like(values, np.nan)
        elif header.request != fragments[0][1].request:
            values = values + 1
        body = change.get("body", values.tobytes())
        self.tell(machine.FragmentArrived(change.get("sender", sender), header, memoryview(body)))

    @precondition(lambda self: self.state.requests.under_way)
    @rule(which=st.integers(0, 9), name=NAMES, culprit=st.sampled_from(["", *AGENTS, "orchestrator", "fox"]),
          attempt=st.integers(0, 2), nan=st.booleans())  # fmt: skip
    def tile_fails(self, which: int, name: str, culprit: str, attempt: int, nan: bool) -> None:
        request = self.chosen(which)
        assert request.epoch is not None
        failed = Failed(request.epoch.number, request.request, "it burns", culprit, attempt=attempt, nan=nan)
        self.tell(machine.ReportArrived(name, failed))

    @precondition(lambda self: self.state.requests.under_way)
    @rule(which=st.integers(0, 9), pick=st.integers(0, 99), seconds=st.sampled_from([0.01, 0.0, -1.0, 1e9]))
    def computes(self, which: int, pick: int, seconds: float) -> None:
        request = self.chosen(which)
        assert request.epoch is not None
        works = request.epoch.routing.works
        work = works[pick % len(works)]
        timing = TileTiming(request.epoch.number, request.request, work.step, seconds, 100, attempt=request.attempt)
        self.tell(machine.ReportArrived(work.agent, timing))

    # --- time ---

    @rule(seconds=st.sampled_from([0.01, 0.5, 0.9, 5.0, 50.0, 200.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.tell(machine.Tick())
        self.tell(machine.Tick())

    @rule(lost=st.booleans())
    def link(self, lost: bool) -> None:
        self.tell(machine.LinkLost() if lost else machine.LinkFound())

    # --- what must hold ---

    @invariant()
    def every_request_is_there_or_has_ended(self) -> None:
        requests = self.state.requests
        waiting = [each.request for each in requests.waiting]
        alive = {*waiting, *requests.under_way}
        assert len(alive) == len(waiting) + len(requests.under_way)
        trials = {request for request in alive if request.startswith(PREFIX)}
        assert len(trials) <= RUNS + 1
        assert (alive - trials) | set(self.ended) == self.asked
        assert not alive & set(self.ended)

    @invariant()
    def everything_is_bounded(self) -> None:
        state = self.state
        assert len(state.requests.under_way) <= state.requests.window
        assert len(state.requests.waiting) <= QUEUE + state.requests.window + RUNS
        for epoch in (state.epochs.force, state.epochs.building):
            if epoch is not None:
                assert len(epoch.exchange) <= MAX_REQUESTS * len(epoch.replicas)
                assert len(epoch.exchange) <= len(state.requests.under_way)

    @invariant()
    def requests_run_by_epochs_that_their_agents_hold(self) -> None:
        for request in self.state.requests.under_way.values():
            assert request.epoch is not None
            for name in AGENTS:
                if request.epoch.needs(name, request.replica) and self.state.agents[name].online:
                    assert self.held[name].get(request.epoch.number) is not None, f"{name} has freed it"

    @invariant()
    def a_plan_is_in_force_only_with_all_of_its_agents(self) -> None:
        force = self.state.epochs.force
        if force is not None:
            assert not force.loading
            for name in force.agents:
                record = self.state.agents[name]
                assert record.online
                assert not record.excluded
                assert not record.suspected


def test_an_orchestrator_keeps_its_invariants_whatever_happens() -> None:
    run_state_machine_as_test(
        OrchestratorRules,
        settings=settings(
            max_examples=int(os.environ.get("LEGION_FUZZ", "0")) // 100 or 40,
            stateful_step_count=50,
            deadline=None,
            phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking takes longer than a test may
            suppress_health_check=list(HealthCheck),
        ),
    )
