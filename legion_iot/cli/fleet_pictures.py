"""The figures of `legion bench fleet` as diagrams: speed-up, predicted against measured, where time goes, growth."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from legion_iot.bench.fleet import published
from legion_iot.bench.fleet.account import Account
from legion_iot.bench.fleet.account_tables import relatives
from legion_iot.bench.fleet.cells import Cell, Finished, of_experiment
from legion_iot.bench.fleet.figures import Pair, speedup
from legion_iot.cli.picture import check_picture, new_figure, save
from legion_iot.errors import InputError
from legion_iot.wire.dtypes import EXACT

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def check_directory(directory: Path) -> None:
    """Raises UsageError without matplotlib, InputError where no files can be put."""
    if not directory.is_dir() or not os.access(directory, os.W_OK):
        raise InputError(f"{directory}: is no directory that can be written to; make it first (--picture)")
    check_picture(directory / "speedup.png")


def draw(finished: Finished, directory: Path) -> list[Path]:
    """The diagrams there is something to draw in; raises InputError where one cannot be written."""
    latency = [pair for pair in of_experiment(finished, "latency") if pair[0].wire == EXACT]
    devices = list(of_experiment(finished, "growth"))
    sizes, depths = relatives(finished, "size"), relatives(finished, "depth")
    grown = [*devices, *sizes, *depths]
    drawn = []
    if latency:
        drawn += [_speedups(latency, directory), _predictions([*latency, *grown], directory)]
    if any(_accounted(pair) for pair in [*latency, *grown]):
        drawn.append(_accounts([*latency, *grown], directory))
    for name, cells, labels in (
        ("growth", devices, [cell.group for cell, _ in devices]),
        ("size", sizes, [cell.network for cell, _ in sizes]),
        ("depth", depths, [cell.network for cell, _ in depths]),
    ):
        if cells:
            drawn.append(_growth(name, cells, labels, directory))
    return drawn


def _speedups(cells: list[Pair], directory: Path) -> Path:
    """One axes for each network: speed-up over one device by group, a line for each planner."""
    networks = list(dict.fromkeys(cell.network for cell, _ in cells))
    figure = new_figure(4.2 * len(networks), 3.6)
    for number, network in enumerate(networks, 1):
        axes = figure.add_subplot(1, len(networks), number)
        ours = [pair for pair in cells if pair[0].network == network]
        groups = [cell.group for cell, _ in ours]
        for planner in dict.fromkeys(each.planner for _, outcome in ours for each in outcome.figures):
            found = [speedup(outcome, planner) for _, outcome in ours]
            _line(axes, groups, found, planner, "o-" if planner == "auto" else ".-")
        said = [published.SPEEDUP.get(network, {}).get(group) for group in groups]
        _line(axes, groups, said, "Legion, published", "k:")
        axes.axhline(1.0, color="grey", linewidth=0.5)
        axes.set(title=network, xlabel="devices", ylabel="speed-up over one device", ylim=(0, None))
        axes.tick_params(axis="x", rotation=45)
        axes.legend(fontsize="x-small")
    path = directory / "speedup.png"
    save(figure, path)
    return path


def _line(axes: Axes, names: list[str], values: list[float | None], label: str, style: str) -> None:
    if any(value is not None for value in values):
        places = range(len(names))
        axes.plot(places, [float("nan") if value is None else value for value in values], style, label=label)
        axes.set_xticks(places, names)


def _predictions(cells: list[Pair], directory: Path) -> Path:
    figure = new_figure(4.8, 4.4)
    axes = figure.add_subplot()
    for planner in dict.fromkeys(each.planner for _, outcome in cells for each in outcome.figures):
        found = [each for _, outcome in cells if (each := outcome.of(planner)) is not None and each.predicted]
        if found:
            axes.loglog([f.predicted * 1e3 for f in found], [f.seconds * 1e3 for f in found], ".", label=planner)
    low, high = axes.get_xlim()
    axes.plot([low, high], [low, high], color="grey", linewidth=0.5)
    axes.set(xlabel="predicted, ms", ylabel="measured, ms")
    axes.legend(fontsize="x-small")
    path = directory / "predicted.png"
    save(figure, path)
    return path


def _accounted(pair: Pair) -> tuple[Account, Account] | None:
    """Where the time of `auto` goes in a cell: measured, and as it was predicted."""
    auto = pair[1].of("auto")
    return (auto.traced, auto.expected) if auto and auto.traced and auto.expected else None


def _accounts(cells: list[Pair], directory: Path) -> Path:
    """Two bars for each cell, one below the other: what was measured, part by part, and what was predicted."""
    found = [(cell, both) for cell, outcome in cells if (both := _accounted((cell, outcome))) is not None]
    figure = new_figure(7.2, 1.4 + 0.42 * len(found))
    axes = figure.add_subplot()
    for shift, which in ((0.2, 0), (-0.2, 1)):
        places = [len(found) - number + shift for number in range(len(found))]
        left = [0.0] * len(found)
        for number, name in enumerate(Account().parts):
            widths = [both[which].parts[name] * 1e3 for _, both in found]
            label = name if which == 0 else None
            axes.barh(places, widths, 0.36, left=left, color=f"C{number}", label=label, alpha=1 - 0.5 * which)
            left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set_yticks([len(found) - number for number in range(len(found))], [_label(cell) for cell, _ in found])
    axes.set(xlabel="latency of auto, ms: measured, and below it predicted")
    axes.legend(fontsize="x-small", ncols=len(Account().parts), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    path = directory / "account.png"
    save(figure, path)
    return path


def _label(cell: Cell) -> str:
    """What tells a cell from the others of a file."""
    experiment = "" if cell.experiment == "latency" else f"{cell.experiment}: "
    return f"{experiment}{cell.network} {cell.group}"


def _growth(name: str, cells: list[Pair], labels: list[str], directory: Path) -> Path:
    figure = new_figure(4.8, 3.6)
    axes = figure.add_subplot()
    for planner in dict.fromkeys(each.planner for _, outcome in cells for each in outcome.figures):
        found = [outcome.of(planner) for _, outcome in cells]
        _line(axes, labels, [None if each is None else each.seconds * 1e3 for each in found], planner, ".-")
    auto = [outcome.of("auto") for _, outcome in cells]
    _line(axes, labels, [None if each is None else each.predicted * 1e3 for each in auto], "auto, predicted", ".--")
    _line(axes, labels, [outcome.bound * 1e3 for _, outcome in cells], "lower bound", "k:")
    title = {"growth": f"{cells[0][0].network} on more devices"}.get(name, f"growth by {name}, on {cells[0][0].group}")
    axes.set(title=title, ylabel="latency, ms", ylim=(0, None))
    axes.tick_params(axis="x", rotation=30)
    axes.legend(fontsize="x-small")
    path = directory / f"{name}.png"
    save(figure, path)
    return path
