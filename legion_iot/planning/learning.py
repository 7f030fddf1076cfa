"""What a planner asks of boards before it plans: as few runs of single units as the uncertainty of the whole allows.

A unit is asked for once per signature and board class, at heights that depend on its own map only, so that no group,
and no other network with such a unit, needs it again. Asked for first is what adds most to the variance of the time a
board needs for the whole network; a pool that takes a hundredth of it need not be known well.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass

from legion_iot.model.signatures import unit_signatures
from legion_iot.planning.costs import Predictor
from legion_iot.planning.problem import Problem, Reading, TailRun, TileRun, Wish
from legion_iot.planning.strips import whole_map
from legion_iot.planning.tables import inner_strip

HEIGHTS = (3, 8)  # a first run on a third of the rows, a second one on an eighth
CERTAIN = 0.02  # relative standard deviation of the whole network's time on a board: below it, nothing more is asked
SMALL = 0.25  # of that: what a single part may add without being asked for
AFTER_ONE = 0.08  # what is left of a unit's uncertainty by one run, as far as a batch looks ahead
MOST_ROUNDS = 8

Learning = Generator[tuple[Wish, ...], Mapping[Wish, Reading], Predictor]


@dataclass(frozen=True, slots=True)
class _Part:
    """All units of one signature on one board, or its tail: their seconds, standard deviation, and what to ask next."""

    seconds: float
    deviation: float
    wish: Wish | None


def learn(problem: Problem, certain: float = CERTAIN) -> Learning:
    """A predictor that knows the time of the whole network on each board of the group to a deviation of `certain`,

    as far as runs of single units can tell.
    """
    predictor = Predictor.of(problem)
    asked: set[Wish] = set()
    for _ in range(MOST_ROUNDS):
        wishes = [wish for wish in _wishes(problem, predictor, certain) if wish not in asked]
        if not wishes:
            break
        asked.update(wishes)
        readings = yield tuple(wishes)
        predictor = predictor.with_readings(readings)
    return predictor


def _wishes(problem: Problem, predictor: Predictor, certain: float) -> list[Wish]:
    """For each board, the parts that have to be known better, most uncertain first."""
    wishes: list[Wish] = []
    for device in {device.board: device.name for device in reversed(problem.group.devices)}.values():
        parts = _parts(problem, predictor, device)
        total = sum(part.seconds for part in parts)
        variance = sum(part.deviation**2 for part in parts)
        for part in sorted(parts, key=lambda part: -part.deviation):
            if variance <= (certain * total) ** 2 or part.deviation < SMALL * certain * total:
                break
            if part.wish is not None:
                wishes.append(part.wish)
                variance -= max(0.0, part.deviation**2 - (AFTER_ONE * part.seconds) ** 2)
    return wishes


def _parts(problem: Problem, predictor: Predictor, device: str) -> list[_Part]:
    network, board = problem.network, problem.group[device].board
    units: dict[str, list[int]] = {}
    for index, signature in enumerate(unit_signatures(network)):
        units.setdefault(signature, []).append(index)
    parts = []
    for signature, indices in units.items():
        estimates = [predictor.tile_estimate(device, k, k, whole_map(network, k)) for k in indices]
        # Units of one signature are wrong alike.
        seconds, deviation = sum(e.seconds for e in estimates), sum(e.deviation for e in estimates)
        wish = _next_run(problem, predictor, device, board, signature, indices[0])
        parts.append(_Part(seconds, deviation, wish))
    if network.tail:
        tail = predictor.tail_estimate(device)
        parts.append(_Part(tail.seconds, tail.deviation, TailRun(device)))
    return parts


def _next_run(
    problem: Problem, predictor: Predictor, device: str, board: str, signature: str, unit: int
) -> TileRun | None:
    """The first of the unit's heights that has not been measured on the board."""
    whole = whole_map(problem.network, unit)
    for divisor in HEIGHTS:
        region = inner_strip(whole, max(1, round(len(whole.rows) / divisor)))
        rows = float(predictor.tile_rows.of_tile(unit, unit, region)[0])
        if not predictor.samples.has_unit(board, signature, rows):
            return TileRun(device, unit, unit, region)
    return None
