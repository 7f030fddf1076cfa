"""What a planner asks of boards before it plans: as few runs of single units as the uncertainty of the whole allows.

A unit is asked for once per signature and board class, at one height or two that depend on its own map only, so that no
other group, and no other network with such a unit, needs it again. Asked for is what adds most to the variance of the
time a board needs for the whole network, and one unit of each class of arithmetic that the board has not shown yet; a
pool that takes a hundredth of the time need not be known well.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass

from legion_iot.planning.costs import Predictor
from legion_iot.planning.layers import NetworkLayers
from legion_iot.planning.problem import Problem, Reading, TailRun, TileRun, Wish
from legion_iot.planning.strips import whole_map
from legion_iot.planning.tables import inner_strip

HEIGHTS = (2, 8)  # a first run on half of the rows, a second one on an eighth
CERTAIN = 0.02  # relative standard deviation of the whole network's time on a board: below it, nothing more is asked
SMALL = 0.25  # of that: what a single part may add without being asked for
AFTER_ONE = 0.08  # what is left of a unit's uncertainty by one run, as far as a batch looks ahead
MOST_ROUNDS = 8

Learning = Generator[tuple[Wish, ...], Mapping[Wish, Reading], Predictor]


@dataclass(frozen=True, slots=True)
class _Part:
    """All units of one signature on one board, or its tail: their seconds, standard deviation, and what to ask next.

    A part is strange where the board has shown nothing of its class of arithmetic.
    """

    seconds: float
    deviation: float
    wish: Wish | None
    is_strange: bool


def learn(problem: Problem) -> Learning:
    """A predictor that knows the time of the whole network on each board of the group well enough to plan."""
    predictor = Predictor.of(problem)
    layers = NetworkLayers.of(problem.network)
    asked: set[Wish] = set()
    for _ in range(MOST_ROUNDS):
        wishes = [wish for wish in _unit_runs(problem, predictor, layers) if wish not in asked]
        if not wishes:
            break
        asked.update(wishes)
        predictor = predictor.with_readings((yield tuple(wishes)))
    return predictor


def _speakers(problem: Problem) -> list[str]:
    """One device of each board class."""
    return list({device.board: device.name for device in reversed(problem.group.devices)}.values())


def _unit_runs(problem: Problem, predictor: Predictor, layers: NetworkLayers) -> list[Wish]:
    """For each board, the parts that have to be known better, most uncertain first."""
    wishes: list[Wish] = []
    for device in _speakers(problem):
        parts = _parts(problem, predictor, layers, device)
        total = sum(part.seconds for part in parts)
        variance = sum(part.deviation**2 for part in parts)
        for part in sorted(parts, key=lambda part: (not part.is_strange, -part.deviation)):
            is_small = part.deviation < SMALL * CERTAIN * total
            if part.wish is None or (not part.is_strange and (is_small or variance <= (CERTAIN * total) ** 2)):
                continue
            wishes.append(part.wish)
            variance -= max(0.0, part.deviation**2 - (AFTER_ONE * part.seconds) ** 2)
    return wishes


def _parts(problem: Problem, predictor: Predictor, layers: NetworkLayers, device: str) -> list[_Part]:
    network, board = problem.network, problem.group[device].board
    known = {sample.units[0] for sample in predictor.samples.of_board(board) if len(sample.units) == 1}
    shown = {layer.kind for layer in layers.units if layer.signature in known}
    units: dict[str, list[int]] = {}
    for index, layer in enumerate(layers.units):
        units.setdefault(layer.signature, []).append(index)
    parts = []
    # Of a class that the board has not shown, the unit with most arithmetic is asked for.
    for indices in sorted(units.values(), key=lambda indices: -network.units[indices[0]].flops):
        layer = layers.units[indices[0]]
        estimates = [predictor.tile_estimate(device, k, k, whole_map(network, k)) for k in indices]
        # Units of one signature are wrong alike.
        seconds, deviation = sum(e.seconds for e in estimates), sum(e.deviation for e in estimates)
        wish = _next_run(problem, predictor, device, layer.signature, indices[0])
        parts.append(_Part(seconds, deviation, wish, layer.kind not in shown))
        shown.add(layer.kind)
    if network.tail:
        tail = predictor.tail_estimate(device)
        parts.append(_Part(tail.seconds, tail.deviation, TailRun(device), False))
    return parts


def _next_run(problem: Problem, predictor: Predictor, device: str, signature: str, unit: int) -> TileRun | None:
    """The first of the unit's heights that has not been measured on the board."""
    whole = whole_map(problem.network, unit)
    for divisor in HEIGHTS:
        region = inner_strip(whole, max(1, round(len(whole.rows) / divisor)))
        rows = float(predictor.tile_rows.of_tile(unit, unit, region)[0])
        if not predictor.samples.has_unit(problem.group[device].board, signature, rows):
            return TileRun(device, unit, unit, region)
    return None
