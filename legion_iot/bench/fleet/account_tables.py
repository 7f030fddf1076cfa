"""Tables of where latency goes, what requests cost the devices, and how both grow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from legion_iot.bench.fleet.account import Account
from legion_iot.bench.fleet.cells import Experiment, Figures, Finished, of_experiment
from legion_iot.bench.fleet.figures import Pair, gap, speedup
from legion_iot.bench.fleet.networks import of_other_depths, of_other_sizes
from legion_iot.bench.fleet.table import NONE, Table, milliseconds, percent, place, times

_PARTS = tuple(Account().parts)


def account_table(cells: Sequence[Pair]) -> Table:
    """Of `auto` in each cell: measured, predicted, and the bound."""
    rows = [row for pair in cells for row in _account_rows(pair)]
    return Table(
        "Where the time of `auto` goes",
        "Milliseconds along the chain of events that determined when the answer came; they sum to the latency, which "
        "is the mean here. *measured* is from the traces of the requests, *predicted* from the plan's estimate. "
        "*client*: between client and orchestrator, both ways. *orchestrator*: reading the input, dividing it, "
        "publishing the answer. *computing*: of the devices on the chain, so what is computed twice (halos) and the "
        "slowest device are in it. *links*: what the transfers on the chain take alone at the measured rates. "
        "*sending*: encoding and handing to the connection, beyond that. *waiting*: of those transfers, beyond both: "
        "behind others on a link, at the broker, and for processors to handle their messages, which is where a "
        "prediction has all handling but that which computing waits for. *queued*: "
        "inputs are there, and the device's processor is busy with something else. Of the bound, *computing* is what "
        "is left with links that take no time, *links* the rest: no halo, all devices busy to the end.",
        ("network", "group", "wire", "what", *_PARTS, "sum"),
        tuple(rows),
        4,
    )


def _account_rows(pair: Pair) -> Iterator[tuple[str, ...]]:
    auto, outcome = pair[1].of("auto"), pair[1]
    if auto is None or auto.traced is None or auto.expected is None:
        return
    bound = Account(computing=outcome.computing_bound, links=max(0.0, outcome.bound - outcome.computing_bound))
    for what, account in (("measured", auto.traced), ("predicted", auto.expected), ("bound", bound)):
        shown = (f"{seconds * 1e3:.0f}" for seconds in account.parts.values())
        yield (*place(pair), what, *shown, f"{account.seconds * 1e3:.0f}")


def spending_table(cells: Sequence[Pair]) -> Table:
    """Of each planner in each cell: processor time and bytes for a request."""
    rows = []
    for pair in cells:
        for each in pair[1].figures:
            if each.spent and not each.same_as:
                spent = each.spent
                handling = [f"{value * 1e3:.0f}" for value in sorted(one.handling for one in spent)]
                rows.append((
                    *place(pair), each.planner, f"{sum(one.processor for one in spent) * 1e3:.0f}",
                    f"{sum(one.computing for one in spent) * 1e3:.0f}", f"{handling[0]}–{handling[-1]}",
                    _megabytes(sum(one.sent for one in spent)), _megabytes(sum(one.received for one in spent)),
                ))  # fmt: skip
    return Table(
        "What a request costs the devices",
        "*processor*: milliseconds of this machine's processor that the agents used, all together, by the kernel's "
        "count. *tiles*: those that the plan's computing was predicted to take. What is left is the handling of "
        "messages; *handling* is how long that keeps a device busy at its share of a core, in milliseconds, at the "
        "device with the least and the one with the most. *sent* and *received*: megabytes on the devices' links, "
        "headers and acknowledgements included.",
        ("network", "group", "wire", "planner", "processor", "tiles", "handling", "sent", "received"),
        tuple(rows),
        4,
    )


def _megabytes(size: float) -> str:
    return f"{size / 1e6:.2f}" if size else NONE


def growth_tables(finished: Finished) -> Iterator[Table]:
    """By the number of devices, by image size, by depth."""
    yield _growth("Growth: devices", _DEVICES, of_experiment(finished, "growth"))
    yield _growth("Growth: image size", _SIZES, relatives(finished, "size"))
    yield _growth("Growth: depth", _DEPTHS, relatives(finished, "depth"))


_DEVICES = "Each device is slower than in the other tables, so that twelve find room."
_SIZES = "One network for images of other sizes, on one group."
_DEPTHS = "A network and its relatives of other depths, on one group."
_HOW_TO_READ = (
    " Milliseconds. *used* are the devices that the plan of `auto` gives work to; the last columns are where the "
    "measured time of `auto` goes, as in the table of that name (*transfers* are links, sending and waiting; *rest* is "
    "client, orchestrator and queued): where they do not shrink with *computing*, more devices stop paying."
)


def relatives(finished: Finished, experiment: Experiment) -> list[Pair]:
    """The cells of an experiment in the order of their networks, the least first."""
    found = {cell.network: (cell, outcome) for cell, outcome in of_experiment(finished, experiment)}
    relatives = {"size": of_other_sizes, "depth": of_other_depths}[experiment]
    names = dict.fromkeys(each for name in found for each in relatives(name.partition("-")[0]))
    return [found[name] for name in names if name in found]


def _growth(title: str, note: str, cells: Sequence[Pair]) -> Table:
    head = ("network", "group", "single", "auto", "used", "speed-up", "predicted", "bound", "over bound", "computing",
            "transfers", "rest")  # fmt: skip
    return Table(title, note + _HOW_TO_READ, head, tuple(_growth_row(pair, auto) for pair, auto in _with_auto(cells)))


def _with_auto(cells: Sequence[Pair]) -> Iterator[tuple[Pair, Figures]]:
    for pair in cells:
        if (auto := pair[1].of("auto")) is not None:
            yield pair, auto


def _growth_row(pair: Pair, auto: Figures) -> tuple[str, ...]:
    cell, outcome = pair
    of = auto.traced
    spent = () if of is None else (
        of.computing, of.links + of.sending + of.waiting, of.client + of.orchestrator + of.queued
    )  # fmt: skip
    return (
        cell.network, cell.group, milliseconds(outcome.of("single")), milliseconds(auto), str(auto.devices),
        times(speedup(outcome, "auto")), f"{auto.predicted * 1e3:.0f}", f"{outcome.bound * 1e3:.0f}",
        percent(gap(outcome, "auto")), *([f"{seconds * 1e3:.0f}" for seconds in spent] or [NONE] * 3),
    )  # fmt: skip
