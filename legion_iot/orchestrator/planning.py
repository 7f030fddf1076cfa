"""Planning in a thread of its own: a search may take seconds, and messages do not wait for it."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

from legion_iot.errors import LegionError, UsageError
from legion_iot.planning.plan import Plan
from legion_iot.planning.planners import planners
from legion_iot.planning.problem import Planner, Planning, Wish
from legion_iot.runtime.orchestrator_events import Consult, PlannerAnswered

BALANCED = "balanced"
PLANNERS = (*planners, BALANCED)

log = logging.getLogger("legion-orchestrator")


def find_planner(name: str) -> Planner | None:
    """The planner of that name; None for `balanced`, which needs no measuring but of speeds. Raises UsageError."""
    if name not in PLANNERS:
        raise UsageError(f"there is no planner {name!r:.40}; give one of {', '.join(PLANNERS)} (--planner)")
    return planners.get(name)


class PlanningThread:
    """Consults `planner`; `answer` is called with what it says, in the thread."""

    def __init__(self, planner: Planner, answer: Callable[[PlannerAnswered], None]) -> None:
        self._planner, self._answer = planner, answer
        self._asked: queue.SimpleQueue[Consult | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="planning", daemon=True)

    def start(self) -> None:
        """Begin to listen; the thread ends with the process, or once it hears `stop`."""
        self._thread.start()

    def stop(self) -> None:
        """Listen no more; a planner that is at work is not waited for."""
        self._asked.put(None)

    def consult(self, consult: Consult) -> None:
        """Let the planner begin, or go on."""
        self._asked.put(consult)

    def _run(self) -> None:
        planning: Planning | None = None
        while (consult := self._asked.get()) is not None:
            if consult.readings is None:
                planning = self._planner(consult.problem)
            elif planning is None:
                continue
            self._answer(PlannerAnswered(consult.number, _next(planning, consult)))


def _next(planning: Planning, consult: Consult) -> tuple[Wish, ...] | Plan | str:
    try:
        return next(planning) if consult.readings is None else planning.send(consult.readings)
    except StopIteration as end:
        plan: Plan = end.value
        return plan
    except LegionError as error:
        return str(error)
    except Exception as error:  # a planner's mistake must not end the serving of requests
        log.exception("the planner failed")
        return f"the planner failed: {type(error).__name__}: {error}"
