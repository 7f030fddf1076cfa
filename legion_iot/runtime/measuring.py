"""What the orchestrator does about measuring: events for the campaign, and what the campaign wants, as effects."""

from __future__ import annotations

from legion_iot.planning.routing import ORCHESTRATOR
from legion_iot.runtime import campaign
from legion_iot.runtime.campaign import COMMAND_SECONDS
from legion_iot.runtime.failover import exclude
from legion_iot.runtime.orchestrator_events import (
    Consult,
    Effect,
    OwnLinkProbed,
    PlannerAnswered,
    ProbeOwnLink,
    ProfileArrived,
    ReplanAsked,
    ReportRefused,
    RequestEnded,
    SendCommand,
)
from legion_iot.runtime.orchestrator_state import AgentRecord, State
from legion_iot.runtime.trial import PREFIX
from legion_iot.wire.messages import Command, Measured


def measured(state: State, agent: str, answer: Measured, now: float) -> list[Effect]:
    """An agent has answered a command to measure."""
    found = state.selection.campaign
    if found is None:
        return []
    return do(state, state.selection.after(found.answered(agent, answer, now), now), now)


def measuring(
    state: State, event: ProfileArrived | ReportRefused | OwnLinkProbed | PlannerAnswered | ReplanAsked, now: float
) -> list[Effect]:
    """Something that a campaign may wait for has come, or another campaign is asked for."""
    found = state.selection.campaign
    actions: list[campaign.Action] = []
    match event:
        case ProfileArrived(agent=agent, profile=profile):
            state.agents.setdefault(agent, AgentRecord()).link = state.selection.learn(agent, profile)
            return []
        case ReplanAsked():
            _forget(state, event)
            return []
        case _ if found is None:
            return []
        case ReportRefused(agent=agent, reason=reason):
            actions = found.refused(agent, reason)
        case OwnLinkProbed(number=number, link=link, reason=reason):
            actions = found.linked(ORCHESTRATOR, number, link, reason, now)
        case PlannerAnswered(number=number, answer=answer):
            actions = found.consulted(number, answer, now)
    return do(state, state.selection.after(actions, now), now)


def _forget(state: State, event: ReplanAsked) -> None:
    """The plan is to be found anew, and what was measured on some agents does not count for it."""
    boards = {
        record.info.board_class
        for name, record in state.agents.items()
        if name in event.forgotten and record.info is not None
    }
    for name, record in state.agents.items():
        if record.info is not None and record.info.board_class in boards:
            record.link, record.slowdown = None, 1.0
            state.selection.doubts.pop(name, None)
    if event.own_link:
        state.shared.own_link = None
        state.selection.doubts.pop(ORCHESTRATOR, None)
    state.selection.forget_measured(boards)
    state.selection.forget()


def do(state: State, actions: list[campaign.Action], now: float) -> list[Effect]:
    """What a campaign wants, as effects."""
    effects: list[Effect] = []
    for action in actions:
        match action:
            case campaign.ProbeLink(participant=name, number=number) if name == ORCHESTRATOR:
                effects.append(ProbeOwnLink(number))
            case campaign.ProbeLink(participant=name, number=number):
                effects.append(SendCommand(name, Command("probe", None, number)))
            case campaign.Measure(agent=name, number=number, parts=parts):
                effects.append(SendCommand(name, Command("profile", state.model, number, parts, COMMAND_SECONDS)))
            case campaign.LeaveOut(agent=name, reason=reason):
                effects += exclude(state, name, reason, now)
            case Consult():
                effects.append(action)
    return effects


def without_trials(state: State, effects: list[Effect], now: float) -> list[Effect]:
    """The effects, but for the ends of requests that were only trials; and what follows from these."""
    others: list[Effect] = []
    for effect in effects:
        if isinstance(effect, RequestEnded) and effect.request.startswith(PREFIX):
            others += do(state, state.selection.trial_ended(effect, now), now)
        else:
            others.append(effect)
    return others
