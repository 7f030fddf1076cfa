"""Which replica of a plan the next request goes through: the one whose work is least loaded."""

from __future__ import annotations

from collections import Counter

SMOOTHING = 0.2  # weight of the newest measurement


class Replicas:
    """The requests under way in each replica, and how long one more of them takes.

    In a replica that is kept busy, an answer comes each time its busiest agent has done its steps of a request; so
    long, in seconds of computing, is what a request counts. Until that has been measured, a replica is taken to be as
    fast as the fastest one, so that each is tried. Raises ValueError for less than one replica.
    """

    def __init__(self, count: int) -> None:
        if count < 1:
            raise ValueError(f"{count} replicas")
        self._under_way = [0] * count
        self._chosen = [0] * count
        self._steps: list[dict[tuple[int, str], float]] = [{} for _ in range(count)]

    def __len__(self) -> int:
        return len(self._under_way)

    def choose(self) -> int:
        """The replica that would be done first with one more request, which it now has.

        Among equals, it is one that has not been measured, then the one that was chosen least often.
        """
        measured = [bool(steps) for steps in self._steps]
        seconds = [self.seconds(replica) for replica in range(len(self))]
        least = min((each for each, known in zip(seconds, measured, strict=True) if known), default=1.0)

        def load(replica: int) -> tuple[float, bool, int]:
            each = seconds[replica] if measured[replica] else least
            return (self._under_way[replica] + 1) * each, measured[replica], self._chosen[replica]

        chosen = min(range(len(self)), key=load)
        self._under_way[chosen] += 1
        self._chosen[chosen] += 1
        return chosen

    def ended(self, replica: int) -> None:
        """A request that was under way in the replica is not any more."""
        self._under_way[replica] -= 1

    def measured(self, replica: int, step: int, agent: str, seconds: float) -> None:
        """What an agent took to compute a step of the replica."""
        steps = self._steps[replica]
        before = steps.get((step, agent), seconds)
        steps[step, agent] = before + SMOOTHING * (seconds - before)

    def seconds(self, replica: int) -> float:
        """The computing of the busiest agent for one request; 0 where nothing has been measured."""
        agents: Counter[str] = Counter()
        for (_, agent), seconds in self._steps[replica].items():
            agents[agent] += seconds  # type: ignore[assignment]
        return max(agents.values(), default=0.0)
