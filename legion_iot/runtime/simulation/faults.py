"""Faults of a simulated group: which there are, when they come, and what they do.

They are drawn before the run, so that a seed has the same faults whatever the machines do about them.
"""

from __future__ import annotations

import functools
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from legion_iot.runtime.simulation.behaviour import Behaviour
from legion_iot.runtime.simulation.broker import Line
from legion_iot.runtime.simulation.group import Group

NOTICE = 15.0  # seconds after which a broker takes a silent client for gone: one and a half keep-alives
MOST_AT_ONCE = 3  # agents that one fault hits
BURST = 40  # requests at once: ten times the window


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens `at` a time for so many `seconds`, to these agents; `strength`, for some, is between 0 and 1.

    Times count from the moment the group first serves.
    """

    kind: str
    at: float
    seconds: float
    agents: tuple[str, ...]
    strength: float


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault: how it begins and ends, for one agent or (`for_all`) for everybody at once."""

    text: str
    begin: Callable[[Group, str, Fault], None]
    end: Callable[[Group, str, Fault], None]
    longest: float = 30.0  # seconds
    for_all: bool = False


def draw_faults(
    draw: random.Random, kinds: Sequence[str], agents: Sequence[str], count: int, span: float
) -> list[Fault]:
    """So many faults over `span` seconds, of each kind if they are enough; one in three hits several agents at once."""
    faults = []
    drawn = draw.sample(kinds, min(count, len(kinds))) + [draw.choice(kinds) for _ in range(count - len(kinds))]
    for kind in drawn:
        most = min(MOST_AT_ONCE, len(agents)) if draw.random() < 1 / 3 else 1
        hit = () if KINDS[kind].for_all else tuple(draw.sample(agents, draw.randint(1, most)))
        seconds = draw.uniform(0.1, 1.0) ** 2 * KINDS[kind].longest
        faults.append(Fault(kind, draw.uniform(0.0, span), seconds, hit, draw.random()))
    return sorted(faults, key=lambda fault: fault.at)


class Injector:
    """Carries faults out; `counts` says how many times each kind has happened to somebody."""

    def __init__(self, group: Group, faults: Sequence[Fault]) -> None:
        self.counts: Counter[str] = Counter()
        self._group, self._is_over = group, False
        self._speeds = {name: agent.behaviour.speed for name, agent in group.agents.items()}
        self._touched: dict[str, None] = {}
        for fault in faults:
            group.agenda.at(fault.at, functools.partial(self._begin, fault))

    def _begin(self, fault: Fault) -> None:
        kind = KINDS[fault.kind]
        for agent in fault.agents or ("",):
            self.counts[fault.kind] += 1
            self._touched[agent] = None
            self._group.agenda.tell(f"fault {fault.kind} {agent} for {fault.seconds:.1f} s")
            kind.begin(self._group, agent, fault)
            self._group.agenda.at(fault.seconds, functools.partial(self._end, fault, agent))

    def _end(self, fault: Fault, agent: str) -> None:
        if not self._is_over:
            KINDS[fault.kind].end(self._group, agent, fault)

    def mend(self) -> None:
        """What somebody does who has found out: all lines and devices are well, and who is gone or left out is back."""
        group, self._is_over = self._group, True
        group.agenda.tell("all faults are over")
        group.broker.start()
        group.start_orchestrator()
        for process in group.processes:
            process.thaw()
        for name, agent in group.agents.items():
            _well(agent.behaviour)
            agent.behaviour.speed = self._speeds[name]
            if name in self._touched:
                _reset_line(group, name)
            record = group.state.agents.get(name)
            if not agent.alive or (record is not None and record.excluded) or name in self._touched:
                agent.kill(will_after=0.0)
                group.start(name)
        _reset_line(group, group.orchestrator.name)


def _well(behaviour: Behaviour) -> None:
    behaviour.load_fails = behaviour.load_hangs = behaviour.profile_hangs = behaviour.wrong_model = False
    behaviour.failing_tiles, behaviour.lies, behaviour.corrupt = 0.0, None, ""


def _reset_line(group: Group, name: str) -> None:
    usual, line = group.usual, group.broker.line(name)
    line.latency, line.rate, line.losses, line.late = usual.latency, usual.rate, usual.losses, usual.late
    line.duplicates, line.cut = usual.duplicates, False


# --- what faults do ---


def _kill(group: Group, agent: str, fault: Fault) -> None:
    group.agents[agent].kill(will_after=fault.strength * NOTICE)


def _start(group: Group, agent: str, fault: Fault) -> None:
    if not group.agents[agent].alive:
        group.start(agent)


def _restart(group: Group, agent: str, fault: Fault) -> None:
    group.agents[agent].kill(will_after=fault.strength * NOTICE)
    group.start(agent)


def _leave(group: Group, agent: str, fault: Fault) -> None:
    if group.agents[agent].alive:
        group.agents[agent].leave()


def _freeze(group: Group, agent: str, fault: Fault) -> None:
    process = group.agents[agent]
    if not process.alive or process.frozen:
        return
    process.freeze()
    if fault.seconds > NOTICE:
        group.agenda.at(NOTICE, lambda: process.drop_link() if process.frozen else None)


def _thaw(group: Group, agent: str, fault: Fault) -> None:
    for process in group.processes:
        if process.name == agent:
            process.thaw()


def _cut(group: Group, agent: str, fault: Fault) -> None:
    if group.agents[agent].alive:
        group.agents[agent].break_link(will_after=min(fault.seconds, fault.strength * NOTICE))


def _mend_link(group: Group, agent: str, fault: Fault) -> None:
    group.agents[agent].mend_link()


def _twin(group: Group, agent: str, fault: Fault) -> None:
    group.start(agent)


def _slow(group: Group, agent: str, fault: Fault) -> None:
    group.agents[agent].behaviour.speed /= 2 + 10 * fault.strength


def _fast(group: Group, agent: str, fault: Fault) -> None:
    group.agents[agent].behaviour.speed *= 2 + 10 * fault.strength


def _of_line(change: Callable[[Line, Fault], None]) -> Callable[[Group, str, Fault], None]:
    def begin(group: Group, agent: str, fault: Fault) -> None:
        change(group.broker.line(agent), fault)

    return begin


def _usual_line(group: Group, agent: str, fault: Fault) -> None:
    cut = group.broker.line(agent).cut
    _reset_line(group, agent)
    group.broker.line(agent).cut = cut


def _delay(line: Line, fault: Fault) -> None:
    line.latency = 0.5


def _narrow(line: Line, fault: Fault) -> None:
    line.rate = 5e3 + 5e4 * fault.strength


def _lossy(line: Line, fault: Fault) -> None:
    line.losses = 0.3 * fault.strength


def _twice(line: Line, fault: Fault) -> None:
    line.duplicates = 0.5


def _late(line: Line, fault: Fault) -> None:
    line.late = 0.3


def _of_device(change: Callable[[Behaviour, Fault], None]) -> Callable[[Group, str, Fault], None]:
    def begin(group: Group, agent: str, fault: Fault) -> None:
        change(group.agents[agent].behaviour, fault)

    return begin


def _well_again(group: Group, agent: str, fault: Fault) -> None:
    _well(group.agents[agent].behaviour)


def _tiles_fail(behaviour: Behaviour, fault: Fault) -> None:
    behaviour.failing_tiles = 0.5 * fault.strength


def _lie(behaviour: Behaviour, fault: Fault) -> None:
    behaviour.lies = (-1.0, 0.0, 1e-9, 1e9)[int(4 * fault.strength)]


def _nan(behaviour: Behaviour, fault: Fault) -> None:
    behaviour.corrupt = "nan"


def _wrong_form(behaviour: Behaviour, fault: Fault) -> None:
    behaviour.corrupt = "form"


def _no_memory(behaviour: Behaviour, fault: Fault) -> None:
    behaviour.load_fails = True


def _stuck(behaviour: Behaviour, fault: Fault) -> None:
    behaviour.load_hangs = True


def _restart_well(group: Group, agent: str, fault: Fault) -> None:
    _well(group.agents[agent].behaviour)
    _restart(group, agent, fault)


def _stop_broker(group: Group, agent: str, fault: Fault) -> None:
    group.broker.stop(keeps=True)


def _stop_forgetful_broker(group: Group, agent: str, fault: Fault) -> None:
    group.broker.stop(keeps=False)


def _start_broker(group: Group, agent: str, fault: Fault) -> None:
    group.broker.start()


def _stop_orchestrator(group: Group, agent: str, fault: Fault) -> None:
    group.stop_orchestrator()


def _start_orchestrator(group: Group, agent: str, fault: Fault) -> None:
    group.start_orchestrator()


def _burst(group: Group, agent: str, fault: Fault) -> None:
    for _ in range(BURST):
        group.ask()


def _replan(group: Group, agent: str, fault: Fault) -> None:
    group.replan()


def _measure_again(group: Group, agent: str, fault: Fault) -> None:
    group.replan(agent, own_link=fault.strength > 0.5)


def _nothing(group: Group, agent: str, fault: Fault) -> None:
    """What has happened is over."""


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "crash": Kind("an agent is killed, and started later; the broker notices after a while", _kill, _start),
        "restart": Kind("an agent is killed and started at once; its will comes late", _restart, _nothing),
        "twin": Kind("another agent starts under the name of one that runs", _twin, _nothing),
        "leave": Kind("an agent says goodbye, and comes back later", _leave, _start),
        "hang": Kind("an agent is stopped, and goes on later", _freeze, _thaw, 60.0),
        "slow": Kind("an agent computes 2 to 12 times slower for a while", _slow, _fast, 120.0),
        "cut": Kind("an agent's link breaks, and is whole again later", _cut, _mend_link),
        "delay": Kind("an agent's messages take 500 ms longer each way", _of_line(_delay), _usual_line),
        "narrow": Kind("an agent's link carries 5 to 55 kB/s", _of_line(_narrow), _usual_line),
        "loss": Kind("up to 30 % of an agent's messages at QoS 0 are lost", _of_line(_lossy), _usual_line),
        "twice": Kind("half of an agent's messages at QoS 1 come twice", _of_line(_twice), _usual_line),
        "late": Kind("30 % of an agent's messages at QoS 0 come again up to 40 s later", _of_line(_late), _usual_line),
        "tile": Kind("up to half of an agent's tiles fail", _of_device(_tiles_fail), _well_again),
        "load": Kind("an agent cannot load what it is assigned, until it is restarted", _of_device(_no_memory),
                     _restart_well),
        "stuck": Kind("an agent never ends loading, until it is restarted", _of_device(_stuck), _restart_well),
        "nan": Kind("an agent makes nothing but NaN", _of_device(_nan), _well_again),
        "form": Kind("an agent sends maps with a channel too many", _of_device(_wrong_form), _well_again),
        "lie": Kind("an agent reports times that cannot be", _of_device(_lie), _well_again),
        "broker": Kind("the broker dies, and comes back with what it retained", _stop_broker, _start_broker,
                       for_all=True),
        "amnesia": Kind("the broker dies, and comes back empty", _stop_forgetful_broker, _start_broker, for_all=True),
        "orchestrator": Kind("the orchestrator is killed, and started again", _stop_orchestrator, _start_orchestrator,
                             for_all=True),
        "burst": Kind("ten times the load", _burst, _nothing, for_all=True),
        "replan": Kind("somebody wants the plan to be found anew", _replan, _nothing, for_all=True),
        "again": Kind("somebody wants an agent to be measured anew", _measure_again, _nothing),
    }
)  # fmt: skip
