"""The models that an orchestrator serves side by side, and which of them something concerns."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from legion_iot.orchestrator.options import OrchestratorOptions
from legion_iot.orchestrator.serving import LoadedModel, ServedModel, Surroundings
from legion_iot.runtime import orchestrator as machine
from legion_iot.runtime.orchestrator_state import MOST_AGENTS
from legion_iot.wire.messages import AgentInfo, AgentState, Command, Failed, Ready, TileTiming
from legion_iot.wire.trace import RequestTrace

IDLE = "idle"  # the phase where no model is served
_REMOVED = 64  # models, of which agents that come later are told that they were removed
_PHASES = ("", "gathering", "profiling", "assigning", "serving")  # in the order of a model's life


class ServedModels:
    """Models by name; what agents say of themselves is known to those that are added later, too.

    `dropped` counts messages that concern none of them.
    """

    def __init__(self, options: OrchestratorOptions, surroundings: Surroundings) -> None:
        self._options, self._around = options, surroundings
        self.dropped = 0
        self._models: dict[str, ServedModel] = {}
        self._said: dict[tuple[str, type[machine.Event]], machine.Event] = {}
        self._removed: dict[str, Command] = {}  # what agents are told that were not there then

    @property
    def by_name(self) -> Mapping[str, ServedModel]:
        return self._models

    def add(self, loaded: LoadedModel) -> None:
        """Serve a model, in the place of another one of that name."""
        name = loaded.reference.name
        self.remove(name)
        self._models[name] = added = ServedModel(loaded, self._options, self._around)
        for kind in (machine.AgentInfoArrived, machine.ProfileArrived, machine.AgentStateArrived):
            for (_, of), event in self._said.items():
                if of is kind:
                    added.step(event)

    def remove(self, name: str) -> None:
        """Serve the model of that name no more."""
        if (model := self._models.pop(name, None)) is not None:
            model.withdraw()
            self._removed.pop(name, None)
            if len(self._removed) >= _REMOVED:
                del self._removed[next(iter(self._removed))]
            self._removed[name] = Command("release", model.reference, epoch=next(self._around.shared.epochs))

    def content(self, sha256: str) -> memoryview | None:
        """The file with that SHA-256."""
        return next((model.content for model in self._models.values() if model.reference.sha256 == sha256), None)

    @property
    def phase(self) -> tuple[str, str]:
        """The phase of all of them together, which is that of the model that has got least far, and the detail."""
        states = {name: model.state for name, model in sorted(self._models.items())}
        if not states:
            return IDLE, "no model is served; add one: legion model add"
        if len({(state.phase, state.detail) for state in states.values()}) == 1:
            state = next(iter(states.values()))
            return state.phase, state.detail
        phase = min((state.phase for state in states.values()), key=_PHASES.index)
        return phase, "; ".join(f"{name} {state.phase}: {state.detail}" for name, state in states.items())

    def replan(self, name: str, forgotten: Collection[str]) -> None:
        """Have the plan of the model of that name found anew, or of all models where there is no name.

        What was measured on the `forgotten` agents, and on others of their classes of board, is measured once more.
        """
        infos = self.infos
        boards = {info.board_class for agent, info in infos.items() if agent in forgotten}
        told = frozenset(agent for agent in self.online if agent in infos and infos[agent].board_class in boards)
        for agent in sorted(told):
            self._said.pop((agent, machine.ProfileArrived), None)
            self._around.command(agent, Command("forget", number=next(self._around.shared.numbers)))
        asked = machine.ReplanAsked(told, bool(told) and told == set(self.online))
        for model in [self._models[name]] if name else self._all():
            model.step(asked)

    @property
    def states(self) -> dict[str, AgentState]:
        """What agents last said of their state."""
        said = (event for event in self._said.values() if isinstance(event, machine.AgentStateArrived))
        return {event.agent: event.state for event in said}

    def trace(self, request: str) -> Callable[[], RequestTrace] | None:
        """What makes the trace of a request, or without a name, of the one that ended last; None where none is kept."""
        kept = [model.traces for model in self._all() if model.traces.names]
        if not request and kept:
            newest = max(kept, key=lambda traces: traces.ended_at(traces.names[-1]))
            return newest.of(newest.names[-1])
        return next((make for traces in kept if (make := traces.of(request)) is not None), None)

    @property
    def infos(self) -> dict[str, AgentInfo]:
        """What agents last said that they are."""
        said = (event for event in self._said.values() if isinstance(event, machine.AgentInfoArrived))
        return {event.agent: event.info for event in said}

    @property
    def online(self) -> tuple[str, ...]:
        """The agents that are there, by name."""
        return tuple(sorted(agent for agent, state in self.states.items() if state.is_present))

    # --- events ---

    def tell(self, event: machine.Event) -> None:
        """Give an event to whom it concerns. What agents say, and answers by number, are for all to look at."""
        match event:
            case machine.AgentStateArrived() | machine.AgentInfoArrived() | machine.ProfileArrived():
                key = event.agent, type(event)
                if key in self._said or len(self._said) < 3 * MOST_AGENTS:
                    self._said[key] = event
                self._release_removed(event)
                concerned = self._all()
            case machine.ReportArrived(report=Ready() | TileTiming() as report):
                concerned = self._of_epoch(report.epoch)
            case machine.ReportArrived(report=Failed(epoch=0, model=sha256)) if sha256:  # of a command
                concerned = [model for model in self._all() if model.reference.sha256 == sha256]
            case machine.ReportArrived(report=Failed(epoch=epoch)) if epoch:
                concerned = self._of_epoch(epoch)
            case machine.FragmentArrived(header=header):
                concerned = self._of_epoch(header.epoch)
            case _:
                concerned = self._all()
        self.dropped += not concerned
        for model in concerned:
            model.step(event)

    def _release_removed(self, event: machine.Event) -> None:
        """Have an agent that is back free what it may still hold of models that were removed meanwhile."""
        if isinstance(event, machine.AgentStateArrived) and event.state.is_present:
            for command in self._removed.values():
                self._around.command(event.agent, command)

    def take_plans(self) -> None:
        """Take in what planners have answered."""
        for model in self._all():
            model.take_plans()

    def _all(self) -> list[ServedModel]:
        return list(self._models.values())

    def _of_epoch(self, epoch: int) -> list[ServedModel]:
        return [model for model in self._models.values() if model.owns(epoch)]
