"""Border first: in which parts tiles are computed, so that their transfers overlap with computing.

Theory. A strip that computes its border rows first sends them while it computes its interior; an interior that needs no
rows of others is computed while theirs arrive. But a seam between parts costs computing: rows of the block's inner maps
that both sides need are computed twice, and each part is a call of its own. So where it pays depends on links, speeds
and halos, and the estimate decides. At each end of a strip there are two borders:

- the rows that others need for a later block: given away, they shall be there early;
- the rows for which the strip needs some of others: these can only be computed when those have come.

A strip is divided at the ones, at the others, or at the wider of both, each time into both ends and what lies between
them, in this order. An agent computes what is ready (`runtime.agent`), so while the ends wait for others, it begins
with the interior.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from legion_iot.model.blocks import Network
from legion_iot.model.geometry import Interval, Region
from legion_iot.planning.memory import fits
from legion_iot.planning.plan import Block, Plan, Tile
from legion_iot.planning.ranking import Ranking
from legion_iot.planning.routing import ORCHESTRATOR, Router, Routing

LEAST_GAIN = 0.1  # of the plan's seconds
PASS_GAIN = 0.02  # likewise: once there is enough, blocks are gone through again as long as that gains as much

_Ends = tuple[int, int]  # the first row after a strip's upper end, and the first of its lower one


def border_first(ranking: Ranking, plan: Plan) -> Plan:
    """The plan with its tiles in parts where the estimate falls by it, by `LEAST_GAIN` in all; else as it is.

    It keeps within the devices' memory if `plan` does. Each part is a step and messages of its own, which cost the
    processor what the estimate leaves out, so a small gain would be none.
    """
    best, enough = plan, (1 - LEAST_GAIN) * ranking.seconds(plan)
    while True:
        before = ranking.seconds(best)
        for number in range(len(plan.blocks)):
            for candidate in divisions(ranking, best, number):
                is_better = ranking.seconds(candidate) < ranking.seconds(best)
                if is_better and fits(ranking.problem.network, candidate, ranking.problem.group):
                    best = candidate
        seconds = ranking.seconds(best)
        if seconds <= enough and seconds > (1 - PASS_GAIN) * before:
            return best
        # A further pass gains less than the first one.
        if seconds == before or seconds > (1 - LEAST_GAIN / 2) * ranking.seconds(plan):
            return best if seconds <= enough else plan


def divisions(ranking: Ranking, plan: Plan, number: int) -> Iterator[Plan]:
    """Plans that differ in how one block's tiles are divided: all of them in the same way, each way there is."""
    block = plan.blocks[number]
    whole = dataclasses.replace(block, tiles=tuple(Tile(tile.agent, tile.region) for tile in block.tiles))
    routing = ranking.router.route(_with_block(plan, number, whole))
    given = [_given(ranking.problem.network, routing, whole, tile, number) for tile in whole.tiles]
    taken = [_taken(ranking.router, routing, whole, tile, number) for tile in whole.tiles]
    wider = [(max(a[0], b[0]), min(a[1], b[1])) for a, b in zip(given, taken, strict=True)]
    tried = {block}
    for ends in (given, taken, wider):
        tiles = tuple(_divided(tile, each) for tile, each in zip(whole.tiles, ends, strict=True))
        divided = dataclasses.replace(block, tiles=tiles)
        if divided not in tried:
            tried.add(divided)
            yield _with_block(plan, number, divided)


def _with_block(plan: Plan, number: int, block: Block) -> Plan:
    return dataclasses.replace(plan, blocks=(*plan.blocks[:number], block, *plan.blocks[number + 1 :]))


def _step(routing: Routing, agent: str, number: int) -> int | None:
    """The step of an agent's tile of a block; None where it owns no row of any output."""
    steps = (w.step for w in routing.works if (w.agent, w.block) == (agent, number) and not w.gathers and not w.replica)
    return next(steps, None)


def _given(network: Network, routing: Routing, block: Block, tile: Tile, number: int) -> _Ends:
    """The ends of the strip that others need."""
    rows, reference = tile.region.rows, network.units[block.last].reference
    step = _step(routing, tile.agent, number)
    sent = [
        t.region.rows
        for t in routing.transfers
        if (t.made_in, t.source, t.tensor) == (step, tile.agent, reference) and t.target != t.source
    ]
    top = max((each.stop for each in sent if each.start == rows.start), default=rows.start)
    bottom = min((each.start for each in sent if each.stop == rows.stop), default=rows.stop)
    return top, bottom


def _taken(router: Router, routing: Routing, block: Block, tile: Tile, number: int) -> _Ends:
    """The ends of the strip for which it needs rows of others; the rows between them need none."""
    rows, step = tile.region.rows, _step(routing, tile.agent, number)
    received = [
        (t.tensor, t.region)
        for t in routing.transfers
        if (t.step, t.target) == (step, tile.agent) and t.source not in (t.target, ORCHESTRATOR)
    ]

    def needs_others(row: int) -> bool:
        inputs, _ = router.tile(block, Region(Interval(row, row + 1), tile.region.columns))
        return any(tensor in inputs and inputs[tensor].intersection(region).area for tensor, region in received)

    middle = (rows.start + rows.stop) // 2
    if not received or needs_others(middle):
        return rows.start, rows.stop
    low, top = rows.start - 1, middle  # `top` needs none; `low` does, or is outside
    while top - low > 1:
        row = (low + top) // 2
        low, top = (row, top) if needs_others(row) else (low, row)
    last, high = middle, rows.stop
    while high - last > 1:
        row = (last + high) // 2
        last, high = (last, row) if needs_others(row) else (row, high)
    return top, high


def _divided(tile: Tile, ends: _Ends) -> Tile:
    """Both ends, then what is between them; whole where that is nothing, or all."""
    rows, (top, bottom) = tile.region.rows, ends
    if top >= bottom or (top, bottom) == (rows.start, rows.stop):
        return tile
    bounds = ((rows.start, top), (bottom, rows.stop), (top, bottom))
    return dataclasses.replace(
        tile, parts=tuple(Region(Interval(a, b), tile.region.columns) for a, b in bounds if b > a)
    )
