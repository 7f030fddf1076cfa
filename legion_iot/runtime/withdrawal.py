"""The end of a machine: its model is served no more, while those of other models go on."""

from __future__ import annotations

from legion_iot.runtime.orchestrator import State
from legion_iot.runtime.orchestrator_events import Effect, RequestEnded
from legion_iot.runtime.switching import free_below
from legion_iot.runtime.trial import PREFIX


def withdraw(state: State, now: float) -> list[Effect]:
    """End all requests, and have agents that are online free what they have loaded; no step may follow."""
    reason = f"model {state.model.name} was removed or replaced; send the request again if it is still served"
    ended = state.requests.end_under_way(now, "no-model", reason)
    ended += state.requests.end_waiting(now, "no-model", reason)
    state.selection.forget()
    state.shared.leave(state)
    return [
        *(each for each in ended if not (isinstance(each, RequestEnded) and each.request.startswith(PREFIX))),
        *free_below(state, next(state.shared.epochs)),
    ]
