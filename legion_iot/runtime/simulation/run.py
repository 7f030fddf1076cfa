"""One run: a group from a seed, requests and faults for some minutes of virtual time; then it has to be well again."""

from __future__ import annotations

import dataclasses
import functools
import random
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from legion_iot.runtime import agent, orchestrator
from legion_iot.runtime.requests import REQUEST_TIMEOUT
from legion_iot.runtime.simulation.agenda import BEGIN
from legion_iot.runtime.simulation.agent_process import AgentStep
from legion_iot.runtime.simulation.behaviour import LINK, Behaviour
from legion_iot.runtime.simulation.broker import Line
from legion_iot.runtime.simulation.faults import Injector, draw_faults
from legion_iot.runtime.simulation.group import Group
from legion_iot.runtime.simulation.invariants import SLACK, BrokenInvariant, hold
from legion_iot.runtime.simulation.orchestrator_process import OrchestratorStep
from legion_iot.runtime.simulation.scenery import Teams

SPAN = 120.0  # seconds in which requests and faults come; a third of them where faults are few
FAULTS_OF_A_RUN = 12  # or one of each kind, where that is more,
AGENT_FAULTS = 2000  # and this divided by the number of agents, where that is less: for each, all are planned for
WILLS = 16.0  # seconds after which the last will has come
RECOVERY = REQUEST_TIMEOUT + 60.0  # seconds from the last fault until the group serves
LAST_REQUESTS = 3  # asked when all is well again
CONTENT = bytes(300_000)  # of the model: two chunks


@dataclass(frozen=True, slots=True)
class Setting:
    """What all runs have in common: how many agents, how many requests, and which kinds of faults."""

    agents: int
    requests: int
    kinds: tuple[str, ...]


@dataclass(slots=True)
class Outcome:
    """What has come of one seed. `broken` is the invariant that did not hold, with details, and ended the run."""

    seed: int
    requests: int = 0
    answered: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    broken: str = ""
    detail: str = ""
    faults: dict[str, int] = field(default_factory=dict)
    computed: int = 0
    epochs: int = 0
    seconds: float = 0.0
    events: int = 0
    digest: int = 0

    @property
    def lost(self) -> int:
        """Requests that never ended."""
        return self.requests - self.answered - sum(self.failed.values()) if self.broken.startswith("ends") else 0

    @property
    def wrong(self) -> int:
        """Answers that were not what the network makes of the input."""
        return int(self.broken == "right-answer")


def simulate(
    seed: int,
    setting: Setting,
    *,
    trace: Callable[[str], None] | None = None,
    orchestrator_step: OrchestratorStep = orchestrator.step,
    agent_step: AgentStep = agent.step,
) -> Outcome:
    """Run one seed; what goes wrong stands in the outcome. `trace` takes a line for everything that happens."""
    draw = random.Random(seed)
    group = drawn_group(draw, setting, orchestrator_step, agent_step)
    group.agenda.trace = trace
    outcome = Outcome(seed)
    injector: list[Injector] = []
    try:
        _play(group, draw, setting, injector)
    except BrokenInvariant as broken:
        outcome.broken, outcome.detail = broken.name, broken.detail
    except Exception as error:  # whatever a machine raises is what a simulation is to find
        place = traceback.extract_tb(error.__traceback__)[-1]
        outcome.broken = "no-exception"
        outcome.detail = f"{type(error).__name__}: {error} ({place.filename.rpartition('/')[2]}:{place.lineno})"
    if outcome.broken:
        group.agenda.tell(f"broken: {outcome.broken}: {outcome.detail}")
    ended = group.ended.values()
    outcome.requests, outcome.answered = len(group.requests.asked), sum(not each.error for each in ended)
    outcome.failed = dict(sorted(Counter(each.error for each in ended if each.error).items()))
    outcome.faults = dict(injector[0].counts) if injector else {}
    outcome.computed, outcome.epochs = group.kept.computed.total, len(group.said.epochs)
    outcome.seconds, outcome.events = round(group.agenda.now - BEGIN, 3), group.agenda.events
    outcome.digest = group.agenda.digest
    return outcome


def faults_of_a_run(setting: Setting) -> int:
    """How many faults each seed has."""
    if not setting.kinds:
        return 0
    return min(max(FAULTS_OF_A_RUN, len(setting.kinds)), AGENT_FAULTS // setting.agents)


def span_of(setting: Setting) -> float:
    """For how many seconds requests and faults come."""
    return SPAN if not setting.kinds or faults_of_a_run(setting) >= FAULTS_OF_A_RUN else SPAN / 3


def drawn_group(
    draw: random.Random, setting: Setting, orchestrator_step: OrchestratorStep, agent_step: AgentStep
) -> Group:
    """A group whose devices, lines and plans are drawn, with its agents started."""
    teams = Teams.drawn(draw, setting.agents)
    line = Line(draw.uniform(0.0005, 0.02), draw.uniform(0.0, 0.05), 10 ** draw.uniform(6.0, 8.0), 0.001, 0.01)
    group = Group(
        teams.network, seed=draw.getrandbits(64), content=CONTENT, line=line, least_agents=max(1, setting.agents - 1),
        make_plan=teams.make_plan, orchestrator_step=orchestrator_step, agent_step=agent_step,
    )  # fmt: skip
    few = min(0.3, 3 / setting.agents)  # of a large group: links are probed one after the other
    for number in range(setting.agents):
        behaviour = Behaviour(
            speed=draw.uniform(0.3, 4.0),
            holds_model=draw.random() >= few,
            board=draw.choice(("pi4", "pi5", "pc")),
            link=None if draw.random() < few else dataclasses.replace(LINK),
        )
        name = f"agent-{number}"
        group.agenda.at(draw.uniform(0.0, 2.0), functools.partial(group.start, name, behaviour))
    return group


def _play(group: Group, draw: random.Random, setting: Setting, injector: list[Injector]) -> None:
    span = span_of(setting)
    for _ in range(setting.requests):
        group.agenda.at(draw.uniform(0.0, span), group.ask)
    names: Sequence[str] = [f"agent-{number}" for number in range(setting.agents)]
    faults = draw_faults(draw, setting.kinds, names, faults_of_a_run(setting), span)
    group.run(3.0)
    group.run_until("serving", RECOVERY)
    injector.append(Injector(group, faults))
    group.run(span)
    injector[0].mend()
    group.run(WILLS)
    group.run_while(lambda: group.state.phase != "serving" or len(group.state.members()) < setting.agents, RECOVERY)
    last = [group.ask() for _ in range(LAST_REQUESTS)]
    group.run_while(lambda: bool(group.requests.open), REQUEST_TIMEOUT + SLACK)
    for request in last:
        ended = group.ended[request]
        hold(not ended.error, "serves-again", f"{request} fails when all is well: {ended.error} ({ended.reason})")
    _leave_for_good(group, draw, setting)
    group.check_settled()


def _leave_for_good(group: Group, draw: random.Random, setting: Setting) -> None:
    """One agent goes, half of the time while there is no orchestrator; the others serve without it."""
    if setting.agents == 1:
        return
    leaving = f"agent-{draw.randrange(setting.agents)}"
    if setting.kinds and draw.random() < 0.5:
        group.stop_orchestrator()
    for process in group.processes:
        if process.name == leaving:
            process.leave()
    group.start_orchestrator()

    def unsettled() -> bool:
        plan = group.state.plan
        return group.state.phase != "serving" or plan is None or leaving in plan.agents

    group.run_while(unsettled, RECOVERY)
    group.run(WILLS)
