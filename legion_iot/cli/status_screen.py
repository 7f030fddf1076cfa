"""How `legion status` shows a group on a terminal: as many columns as it is wide, as many rows as it is high."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.styled import Styled
from rich.text import Text

from legion_iot.cli.columns import Cell, Column, table
from legion_iot.cli.figures import (
    UNKNOWN,
    bytes_text,
    count_text,
    printable,
    rate_text,
    seconds_text,
    span_text,
)
from legion_iot.orchestrator.group_view import AgentView, DeviceView, GroupView, LinkView, ModelView, OrchestratorView

LEAST_ROWS = 3  # of agents, however low the terminal is
NAMED = 6  # agents of a plan; of more, only how many they are
GOOD = ("online", "serving")
BAD = ("offline", "not served", "unknown")
WARM, HOT = 70.0, 80.0  # °C


@dataclass(frozen=True, slots=True)
class Heading:
    """Where we look, and whether we see anything: `away` are seconds without a broker, `settling` that it is back.

    `hint` is what else there is to know.
    """

    broker: str
    base_topic: str
    away: float | None = None
    settling: bool = False
    hint: str = ""


def screen(view: GroupView, heading: Heading, width: int, height: int | None = None) -> RenderableType:
    """All of it; where it would be higher than the terminal, as many agents as fit."""
    where, *counts = _heading(view, heading)
    parts: list[RenderableType] = [*counts]
    models: list[RenderableType] = []
    if view.models:
        models = [Text(), table(_MODELS, view.models, width, is_gone), *_model_notes(view.models)]
    agents = list(view.agents)
    if height is not None:
        # A table has a line for each model and its title; a note may take two lines.
        rest = 1 + len(parts) + 3 + (2 + len(view.models) + 2 * (len(models) - 2) if models else 0)
        agents = _fitting(agents, max(LEAST_ROWS, height - rest))
    if view.agents:
        parts += [Text(), table(_AGENTS, agents, width, is_gone)]
        if len(agents) < len(view.agents):
            parts.append(Text(f"and {len(view.agents) - len(agents)} more", style="dim"))
        parts += _agent_notes(agents)
    is_old = heading.away is not None or heading.settling
    return Group(where, Styled(Group(*parts, *models), "dim" if is_old else ""))


def _fitting(agents: list[AgentView], rows: int) -> list[AgentView]:
    """As many as there are rows for, with their notes; first those that have problems, all in their order."""
    kept: set[str] = set()
    for agent in sorted(agents, key=lambda each: (not each.problems, each.name)):
        rows -= 1 + len(agent.problems)
        if rows < 0:
            break
        kept.add(agent.name)
    return [agent for agent in agents if agent.name in kept]


# --- above the tables ---


def _heading(view: GroupView, heading: Heading) -> Iterator[Text]:
    first = Text.assemble((heading.base_topic, "bold"), f" at {heading.broker}")
    if heading.away is not None:
        first.append("   ")
        first.append(f"broker away since {span_text(heading.away)}", "bold red")
    elif heading.settling:
        first.append("   ")
        first.append("broker is back, waiting for the group", "yellow")
    if heading.hint:
        first.append(f"   {heading.hint}", "dim")
    yield _line(first)
    yield _line(Text.assemble(("orchestrator  ", "dim"), _orchestrator(view.orchestrator)))
    if (requests := view.requests) is not None:
        text = Text.assemble(("requests      ", "dim"), f"{rate_text(requests.per_second)}/s")
        text.append(
            f", {requests.under_way:,} in flight, {requests.waiting:,} waiting; {requests.answered:,} answered, "
        )
        yield _line(text.append(f"{requests.failed:,} failed", "red" if requests.failed else ""))
    states = Counter(agent.state for agent in view.agents)
    counts = (f"{count} {printable(state)}" for state, count in sorted(states.items(), key=_good_first))
    yield _line(Text.assemble(("agents        ", "dim"), ", ".join(counts) or "none"))


def _orchestrator(orchestrator: OrchestratorView) -> Text:
    if not orchestrator.present:
        return Text("none is online", "red")
    text = Text(printable(orchestrator.state), state_style(orchestrator.state))
    if orchestrator.detail and orchestrator.state not in GOOD:
        text.append(f" ({printable(orchestrator.detail)})")
    if orchestrator.uptime_s is not None:
        text.append(f", up {span_text(orchestrator.uptime_s)}")
    if orchestrator.dropped:
        text.append(f", {count_text(orchestrator.dropped, 'message')} dropped")
    return text


def _good_first(entry: tuple[str, int]) -> tuple[bool, str]:
    return entry[0] not in GOOD, entry[0]


def _line(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


# --- the tables ---


def is_gone(row: AgentView | ModelView | DeviceView) -> bool:
    """Whether it is not there, or does nothing."""
    return row.state in BAD


def state_style(state: str) -> str:
    """How the state of an agent or a model is written."""
    return "green" if state in GOOD else "red" if state in BAD else "yellow"


def _state(row: AgentView | ModelView) -> Text:
    style = "yellow" if row.problems and row.state in GOOD else state_style(row.state)
    return Text(printable(row.state), style)


def _name(row: AgentView | ModelView) -> Text:
    return Text(row.name, "yellow" if row.problems else "")


def _known(value: float | None, text: Callable[[float], str]) -> str:
    return UNKNOWN if value is None else text(value)


def _milliseconds(value: float | None) -> str:
    return _known(value, lambda ms: seconds_text(ms / 1e3))


def _temperature(agent: AgentView) -> Cell:
    degrees = agent.temperature_c
    if degrees is None:
        return UNKNOWN
    return Text(f"{degrees:.0f} °C", "red" if degrees >= HOT else "yellow" if degrees >= WARM else "")


def _load(agent: AgentView) -> Cell:
    if agent.load is None:
        return UNKNOWN
    return Text(f"{agent.load:.2f}", "yellow" if agent.cores and agent.load > 1.5 * agent.cores else "")


def _share(agent: AgentView) -> str:
    return _known(agent.share, lambda share: f"{100 * share:.0f} %")


def _share_bar(agent: AgentView) -> Cell:
    if agent.share is None:
        return ""
    return ProgressBar(1.0, agent.share, 12, complete_style="cyan", finished_style="cyan", style="dim")


def _memory(agent: AgentView) -> str:
    if agent.memory_bytes is None:
        return UNKNOWN
    if agent.resident_bytes is None:
        return bytes_text(agent.memory_bytes)
    return f"{100 * agent.resident_bytes / agent.memory_bytes:.0f} % of {bytes_text(agent.memory_bytes)}"


def link_rates(link: LinkView | None) -> str:
    """Up and down in Mbit/s, once where they are nearly the same."""
    if link is None:
        return UNKNOWN
    up, down = rate_text(link.up_mbit_s), rate_text(link.down_mbit_s)
    return up if abs(link.up_mbit_s - link.down_mbit_s) < 0.05 * link.down_mbit_s else f"{up}/{down}"


def _in_flight(model: ModelView) -> str:
    if model.under_way is None:
        return UNKNOWN
    return f"{model.under_way} +{model.waiting}" if model.waiting else str(model.under_way)


def _failed(model: ModelView) -> Cell:
    if model.answered is None:
        return UNKNOWN
    count = sum(each.count for each in model.failed)
    return Text(f"{count:,}", "red" if count else "")


_AGENTS: tuple[Column[AgentView], ...] = (
    Column("AGENT", _name, is_text=True, least=10),
    Column("STATE", _state, is_text=True),
    Column("BOARD", lambda agent: agent.board or UNKNOWN, is_text=True, least=8),
    Column("CORES", lambda agent: _known(agent.cores, lambda cores: f"{cores:.0f}"), extra=True),
    Column("LOAD", _load),
    Column("TEMP", _temperature),
    Column("MEMORY", _memory, extra=True),
    Column("SHARE", _share),
    Column("", _share_bar, is_text=True, extra=True),
    Column("TILES", lambda agent: _known(agent.tiles, lambda tiles: f"{tiles:,.0f}"), extra=True),
    Column("TILE", lambda agent: _milliseconds(agent.tile_ms)),
    Column("SENT", lambda agent: _known(agent.sent_bytes, lambda count: bytes_text(int(count))), extra=True),
    Column("RECEIVED", lambda agent: _known(agent.received_bytes, lambda count: bytes_text(int(count))), extra=True),
    Column("LINK Mbit/s", lambda agent: link_rates(agent.link)),
    Column("LATENCY", lambda agent: _milliseconds(agent.link.latency_ms if agent.link else None), extra=True),
)
_MODELS: tuple[Column[ModelView], ...] = (
    Column("MODEL", _name, is_text=True, least=10),
    Column("STATE", _state, is_text=True),
    Column("LATENCY", lambda model: _milliseconds(model.latency_ms)),
    Column("P95", lambda model: _milliseconds(model.latency_p95_ms), extra=True),
    Column("PREDICTED", lambda model: _milliseconds(model.predicted_ms)),
    Column("BOUND", lambda model: _milliseconds(model.bound_ms)),
    Column("ALONE", lambda model: _milliseconds(model.alone_ms), extra=True),
    Column("PER S", lambda model: _known(model.per_second, rate_text)),
    Column("IN FLIGHT", _in_flight),
    Column("ANSWERED", lambda model: _known(model.answered, lambda count: f"{count:,.0f}"), extra=True),
    Column("FAILED", _failed),
    Column("PLANNER", lambda model: model.planner or UNKNOWN, is_text=True, extra=True),
    Column("OBJECTIVE", lambda model: model.objective or UNKNOWN, is_text=True, extra=True),
    Column("WIRE", lambda model: model.wire or UNKNOWN, is_text=True, extra=True),
)


# --- below the tables ---


def _note(name: str, text: str, style: str = "") -> Padding:
    return Padding(Text.assemble((f"{name}: ", style or "bold"), (printable(text), style)), (0, 0, 0, 2))


def _agent_notes(agents: Sequence[AgentView]) -> Iterator[Padding]:
    for agent in agents:
        for problem in agent.problems:
            yield _note(agent.name, problem, "yellow")


def _model_notes(models: Sequence[ModelView]) -> Iterator[Padding]:
    for model in models:
        if plan := plan_text(model):
            yield _note(model.name, plan)
        for problem in model.problems:
            yield _note(model.name, problem, "yellow")
        if model.failed:
            counts = ", ".join(f"{each.count:,} {each.error}" for each in model.failed)
            yield _note(model.name, f"{counts}; the last: {model.last_error}", "red")


def plan_text(model: ModelView) -> str:
    """The plan in force in a few words."""
    if not model.agents:
        return ""
    on = ", ".join(model.agents) if len(model.agents) <= NAMED else count_text(len(model.agents), "agent")
    if model.blocks is None:
        return f"on {on}"
    text = f"{count_text(model.blocks, 'block')} on {on}"
    if model.replicas is not None and model.replicas > 1:
        text = f"{model.replicas} replicas with {text}"
    if model.tail_agent and model.blocks:
        text += f", tail on {model.tail_agent}"
    if model.alone_ms is not None:
        text += f"; {model.alone_agent} alone: {seconds_text(model.alone_ms / 1e3)}"
    return text
