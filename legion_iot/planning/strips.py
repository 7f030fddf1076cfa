"""Speed-balanced strips: full-width tiles whose heights follow the devices' speeds."""

from __future__ import annotations

from collections.abc import Mapping

from legion_iot.model.geometry import Interval


def strips(height: int, speeds: Mapping[str, float]) -> dict[str, Interval]:
    """Divide `height` rows among the agents in proportion to their speeds (any unit, all positive).

    Bounds are the rounded cumulated shares, so that no agent is off by a whole row. An agent may get an empty strip,
    where the map has fewer rows than its share needs.
    """
    total = sum(speeds.values())
    result, cumulated, start = {}, 0.0, 0
    for agent, speed in speeds.items():
        cumulated += speed
        stop = min(height, round(height * cumulated / total))
        result[agent] = Interval(start, stop)
        start = stop
    return result
