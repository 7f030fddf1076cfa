"""How far one attempt at a request has come, and whom it waits for.

Theory. Every task of a plan, that is one step of one participant, needs what some other tasks make. An agent reports
each task that it has done; so a task whose sources have all reported, and which has not, is what the request waits for.
Reports may get lost, but a task that has been done had its inputs: its sources have been done, too.

How long a task may take is not known exactly: `Pace` holds what was predicted, and learns from what is reported. It is
counted from when the orchestrator hears that the sources are done, so that the way of the feature maps is part of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from legion_iot.planning.routing import ORCHESTRATOR, Routing

Task = tuple[int, str]  # a step, and the participant whose it is

SMOOTHING = 0.2  # weight of the newest report
FACTOR = 4.0  # times what a task is expected to take, it may
LEAST_SECONDS = 2.0  # that any task may take: a device does other things, too
UNKNOWN_SECONDS = 15.0  # that a task may take of which nothing is known


class Dependencies:
    """What each task of a plan needs of others; `tasks` and their `agents` are by replica."""

    def __init__(self, routing: Routing) -> None:
        self.sources: dict[Task, frozenset[Task]] = {}
        self.followers: dict[Task, list[Task]] = {}
        self.tasks: list[list[Task]] = [[] for _ in range(routing.replicas)]
        made: dict[Task, set[Task]] = {}
        for transfer in routing.transfers:
            if transfer.made_in is not None:
                made.setdefault((transfer.step, transfer.target), set()).add((transfer.made_in, transfer.source))
        for work in routing.works:
            task = work.step, work.agent
            self.tasks[work.replica].append(task)
            self.sources[task] = frozenset(made.get(task, ()))
            for source in self.sources[task]:
                self.followers.setdefault(source, []).append(task)

        self.agents = [frozenset(agent for _, agent in tasks if agent != ORCHESTRATOR) for tasks in self.tasks]


class Pace:
    """How long each task may take, in seconds; `expected` is what was predicted, as far as it was."""

    def __init__(self, expected: Mapping[Task, float]) -> None:
        self._expected = dict(expected)
        self._seen: dict[Task, float] = {}

    def seen(self, task: Task, seconds: float) -> None:
        """A task has taken so long."""
        before = self._seen.get(task, seconds)
        self._seen[task] = before + SMOOTHING * (seconds - before)

    def allowed(self, task: Task) -> float:
        """How long it may take before somebody asks why."""
        known = [each[task] for each in (self._expected, self._seen) if task in each]
        return max(LEAST_SECONDS, FACTOR * max(known)) if known else UNKNOWN_SECONDS


class Progress:
    """One attempt, begun `now`, through one replica of a plan."""

    def __init__(self, dependencies: Dependencies, replica: int, now: float) -> None:
        self._dependencies = dependencies
        self._missing = {task: len(dependencies.sources[task]) for task in dependencies.tasks[replica]}
        self._since = {task: now for task, missing in self._missing.items() if not missing}

    def reported(self, task: Task, now: float) -> float | None:
        """A task is done; the seconds it was waited for, or None where that is not known."""
        if task not in self._missing:
            return None
        since = self._since.get(task)
        self._done(task, now)
        return None if since is None else now - since

    def _done(self, done: Task, now: float) -> None:
        doubtful = [done]
        while doubtful:
            task = doubtful.pop()
            if task not in self._missing:
                continue
            del self._missing[task]
            self._since.pop(task, None)
            doubtful += self._dependencies.sources[task]  # whose reports were lost
            for follower in self._dependencies.followers.get(task, ()):
                if follower in self._missing:
                    self._missing[follower] -= 1
                    if not self._missing[follower]:
                        self._since[follower] = now

    def waits_for(self) -> Iterator[tuple[Task, float]]:
        """The tasks that could be done by now, and since when."""
        yield from self._since.items()

    def culprits(self, task: Task) -> Iterable[str]:
        """Whose fault it may be that the task is not done: of the answer's, those who are to send it."""
        return [task[1]] if task[1] != ORCHESTRATOR else {agent for _, agent in self._dependencies.sources[task]}
