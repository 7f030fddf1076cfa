"""The experiment's figures as tables: titles and rows of text, for the terminal and for Markdown alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from legion_iot.bench.fleet import published
from legion_iot.bench.fleet.account_tables import account_table, growth_tables, spending_table
from legion_iot.bench.fleet.cells import OFFLOAD, Finished, of_experiment
from legion_iot.bench.fleet.checks import profiling_ratios, rate_of
from legion_iot.bench.fleet.experiment import WINDOWS
from legion_iot.bench.fleet.figures import Pair, gap, loss, prediction_error, speedup
from legion_iot.bench.fleet.table import Table, milliseconds, percent, place, times
from legion_iot.wire.dtypes import EXACT


def tables(finished: Finished) -> list[Table]:
    """All there is something to put in."""
    latency = of_experiment(finished, "latency")
    made = [
        _speedup(latency),
        _latency(latency),
        _accuracy(latency),
        _throughput(of_experiment(finished, "throughput")),
        _loss(of_experiment(finished, "profiling")),
        _cost(of_experiment(finished, "profiling")),
        *growth_tables(finished),
        account_table(latency),
        spending_table(latency),
    ]
    return [table for table in made if table.rows]


def _planners(cells: Sequence[Pair]) -> list[str]:
    """Of all cells, in the order in which they first appear."""
    names = dict.fromkeys(each.planner for _, outcome in cells for each in outcome.figures)
    return sorted(names, key=lambda name: name == OFFLOAD)


def _speedup(cells: Sequence[Pair]) -> Table:
    names = [name for name in _planners(cells) if name != "single"]
    rows = []
    for cell, outcome in cells:
        said = published.SPEEDUP.get(cell.network, {}).get(cell.group) if cell.wire == EXACT else None
        found = (times(speedup(outcome, name)) for name in names)
        rows.append((*place((cell, outcome)), times(said), *found))
    return Table(
        "Speed-up over one device",
        "Times faster than the group's fastest device alone (planner `single`), at the medians, within one run; "
        "*published* is what the authors of Legion report for the real boards. 1.00 on one device, within noise.",
        ("network", "group", "wire", "published", *names),
        tuple(rows),
        3,
    )


def _latency(cells: Sequence[Pair]) -> Table:
    names = _planners(cells)
    rows = tuple((*place(pair), *(milliseconds(pair[1].of(name)) for name in names)) for pair in cells)
    return Table(
        "Latency",
        "Milliseconds from publish to answer, as a client sees them: the median, and half of what the middle half of "
        "the requests spans.",
        ("network", "group", "wire", *names),
        rows,
        3,
    )


def _accuracy(cells: Sequence[Pair]) -> Table:
    rows = []
    for cell, outcome in cells:
        if (auto := outcome.of("auto")) is not None:
            rows.append((
                *place((cell, outcome)), f"{auto.kind}, {auto.blocks}", f"{auto.predicted * 1e3:.0f}",
                f"{auto.seconds * 1e3:.0f}", percent(prediction_error(auto)), f"{outcome.bound * 1e3:.0f}",
                percent(gap(outcome, "auto")), f"{outcome.cores:.2f}", f"{outcome.others:.2f}",
            ))  # fmt: skip
    return Table(
        "The plan of `auto`: predicted, measured, and what no plan can beat",
        "Milliseconds. *plan* is its kind and number of blocks, *error* predicted over measured, *over bound* measured "
        "over the lower bound (`planning/bound.py`) by the measured speeds and links. *cores* are those in use by the "
        "experiment at the busiest plan, *others* by everything else on the machine.",
        (
            "network",
            "group",
            "wire",
            "plan",
            "predicted",
            "measured",
            "error",
            "bound",
            "over bound",
            "cores",
            "others",
        ),
        tuple(rows),
        4,
    )


def _throughput(cells: Sequence[Pair]) -> Table:
    rows = []
    for cell, outcome in cells:
        for name in dict.fromkeys(rate.name for rate in outcome.rates):
            found = [rate_of(outcome.rates, name, window) for window in WINDOWS]
            rows.append((cell.network, cell.group, name, *(times(rate.median if rate else None) for rate in found)))
    return Table(
        "Throughput",
        "Answers per second with so many requests in flight. `offload` are plain MQTT workers, one on each device, "
        "that run whole frames (`bench/fleet/offload_worker.py`).",
        ("network", "group", "planner", *(f"{window} in flight" for window in WINDOWS)),
        tuple(rows),
        3,
    )


def _loss(cells: Sequence[Pair]) -> Table:
    names = [name for name in _planners(cells) if name != "fss"]
    rows = []
    for cell, outcome in cells:
        losses = (percent(loss(outcome, name)) for name in names)
        rows.append((cell.network, cell.group, milliseconds(outcome.of("fss")), *losses))
    return Table(
        "Loss against the full searching scheme",
        "How much longer a planner's plan takes than that of FSS, which has really run every block on every device. "
        f"Published for Legion: {published.LOSS} % on average, {published.WORST_LOSS} % at worst. Negative is faster: "
        "`auto` has plans that FSS does not consider.",
        ("network", "group", "fss, ms", *names),
        tuple(rows),
    )


def _cost(cells: Sequence[Pair]) -> Table:
    rows = []
    for cell, outcome in cells:
        for each in outcome.figures:
            (ratio,) = profiling_ratios([outcome], each.planner) or [(float("nan"), float("nan"))]
            cost = each.cost
            rows.append((
                cell.network, cell.group, each.planner, str(cost.tiles), str(cost.runs), f"{cost.device_seconds:.1f}",
                str(cost.trials), f"{cost.seconds:.1f}", f"{ratio[0]:.1f}", f"{ratio[1]:.1f}",
            ))  # fmt: skip
    return Table(
        "What finding a plan costs",
        "On devices of which nothing is known, links included: tiles that were run, runs of them, seconds of computing "
        "on devices, whole plans tried, seconds from begin to end; and how many times cheaper than FSS that is, in "
        f"device-seconds and from begin to end. Published for Legion: {published.PROFILING_RATIO} times, on average.",
        ("network", "group", "planner", "tiles", "runs", "device-s", "plans", "seconds", "cheaper, device-s",
         "cheaper, seconds"),
        tuple(rows),
        3,
    )  # fmt: skip


def lines(made: Iterable[Table]) -> Iterator[str]:
    """All tables for a terminal."""
    for table in made:
        yield from table.lines()
