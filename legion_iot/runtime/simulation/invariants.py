"""What has to hold whatever happens, and how it is found out.

| name              | what holds                                                                               |
|-------------------|------------------------------------------------------------------------------------------|
| ends-once         | an accepted request ends, and once; nothing ends that was not asked                      |
| ends-in-time      | it ends by its deadline, with some slack, or when an orchestrator that was down is back  |
| right-answer      | an answer is what the network makes of that input, in the attempt that was begun last    |
| right-inputs      | a step is computed on exactly its planned regions, of one request, epoch and attempt     |
| computed-once     | no process computes a step of an attempt twice, whatever comes twice                     |
| bounded           | requests under way and waiting, and what an agent and a sender hold, stay in bounds      |
| work-for-members  | nothing is sent to an agent that is offline or left out                                  |
| two-epochs        | an agent holds two epochs of a model at most, and computes in none that is not loaded    |
| one-name          | of two agents with one name, one ends and the other one stays                            |
| no-orphans        | once the group serves, no agent outside the plan finds an assignment with steps          |
| serves-again      | a bounded time after the last fault the group serves, with all agents and right answers  |
| no-exception      | no machine raises                                                                        |
"""

from __future__ import annotations

from collections import Counter

from legion_iot.runtime import orchestrator
from legion_iot.runtime.agent_events import Compute
from legion_iot.runtime.requests import QUEUE, REQUEST_TIMEOUT
from legion_iot.runtime.trial import PREFIX, RUNS

SLACK = 2.0  # seconds from a request's deadline to its end: ticks are that far apart at most
HELD = 4096  # events, or fragments for others, that one participant may hold


class BrokenInvariant(Exception):
    """An invariant does not hold; `name` is as in the table above."""

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(f"{name}: {detail}")
        self.name, self.detail = name, detail


def broken(name: str, detail: str) -> BrokenInvariant:
    """The exception for an invariant that does not hold."""
    return BrokenInvariant(name, detail)


def hold(condition: bool, name: str, detail: str) -> None:
    """Raises BrokenInvariant unless the condition holds."""
    if not condition:
        raise BrokenInvariant(name, detail)


class Requests:
    """All requests of a run: `asked` at which time, `ended` how, and which are `open`."""

    def __init__(self) -> None:
        self.asked: dict[str, float] = {}
        self.ended: dict[str, orchestrator.RequestEnded] = {}
        self.open: dict[str, float] = {}  # name, and until when it has to end
        self.most_under_way = 0
        self._counts = (0, 0, 0)

    def ask(self, request: str, now: float) -> None:
        """A request that the orchestrator accepts."""
        self.asked[request] = now
        self.open[request] = now + REQUEST_TIMEOUT + SLACK

    def end(self, ended: orchestrator.RequestEnded) -> None:
        """An end of one of them."""
        request = ended.request
        hold(request in self.asked, "ends-once", f"{request} has ended, which nobody asked")
        hold(request not in self.ended, "ends-once", f"{request} has ended twice")
        hold(
            bool(ended.error) == bool(ended.reason) != bool(ended.outputs),
            "ends-once", f"{request} has ended neither with an answer nor with a reason",
        )  # fmt: skip
        self.ended[request] = ended
        del self.open[request]

    def check_deadlines(self, now: float) -> None:
        """Those that should have ended by now."""
        for request, until in self.open.items():
            hold(
                now <= until, "ends-in-time", f"{request} is open {now - self.asked[request]:.1f} s after it was asked"
            )

    def check(self, state: orchestrator.State) -> None:
        """What the orchestrator's machine holds, after each of its steps; it is looked through where it has changed."""
        requests = state.requests
        counts = (len(requests.under_way), len(requests.waiting), len(self.open))
        if counts == self._counts:
            return
        self._counts = counts
        self.most_under_way = max(self.most_under_way, len(requests.under_way))
        hold(len(requests.under_way) <= requests.window, "bounded", f"{len(requests.under_way)} requests under way")
        hold(len(requests.waiting) <= QUEUE + self.most_under_way, "bounded", f"{len(requests.waiting)} requests wait")
        alive = [*(w.request for w in requests.waiting), *requests.under_way]
        mine = [request for request in alive if not request.startswith(PREFIX)]
        hold(len(alive) - len(mine) <= RUNS + 1, "bounded", f"{len(alive) - len(mine)} trials")
        hold(len(set(alive)) == len(alive), "ends-once", "a request waits and is under way")
        if len(mine) != len(self.open) or any(request not in self.open for request in mine):
            lost, undead = set(self.open) - set(mine), set(mine) - set(self.open)
            raise broken("ends-once", f"lost: {', '.join(sorted(lost))}; ended, and still there: {sorted(undead)}")


class Computed:
    """Which steps were computed, by agent and by process."""

    def __init__(self) -> None:
        self.by_agent: Counter[tuple[str, str, int]] = Counter()
        self.total = 0
        self._by_session: set[tuple[str, int, str, int, int]] = set()

    def note(self, agent: str, session: str, work: Compute) -> None:
        """A process computes a step."""
        key = (session, work.epoch, work.request, work.attempt, work.step)
        hold(key not in self._by_session, "computed-once", f"{agent}: {work.request}, step {work.step}")
        self._by_session.add(key)
        self.by_agent[agent, work.request, work.step] += 1
        self.total += 1
