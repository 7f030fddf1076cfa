"""The cost matrices as heat maps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from legion_iot.cli.cost_tables import short_number
from legion_iot.cli.picture import new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import SubFigure

    from legion_iot.planning.fits import Array
    from legion_iot.planning.matrices import CostMatrices

_COLOURS = "viridis"
_LABELLED = 24  # units; with more, only every second, third, … has its number, and cells have none


def draw(matrices: CostMatrices, device: str, title: str, path: Path) -> None:
    """S, E and R of all devices, T of the group, and A of one device, as one PNG."""
    devices, units = matrices.run.shape
    side = min(9.0, max(5.0, 0.42 * units))
    strip = 0.7 + 0.32 * devices
    figure = new_figure(2 * side + 1.5, side + 3 * strip + 1.0)
    figure.suptitle(title)
    grid = figure.add_gridspec(2, 1, height_ratios=[3 * strip, side])
    above, below = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
    rows = above.subplots(3, 1, sharex=True)
    names = ("S: send the input of a unit", "E: run a unit alone", "R: get the output of a unit")
    parts = [1e3 * part for part in (matrices.send, matrices.run, matrices.get)]
    for axes, name, part in zip(rows, names, parts, strict=True):
        image = axes.imshow(part, aspect="auto", cmap=_COLOURS, norm=_norm())
        axes.set_title(f"{name} (ms)", loc="left", fontsize=10)
        axes.set_yticks(range(devices), matrices.devices)
        above.colorbar(image, ax=axes, pad=0.01)
    rows[-1].set_xticks(range(0, units, _step(units)))
    rows[-1].set_xlabel("unit")
    left, right = below.subplots(1, 2)
    _square(below, left, 1e3 * matrices.block, "T: cost of the block from unit i to unit j (ms)", short_number, 0.0)
    enlargement = matrices.enlargement[matrices.devices.index(device)]
    _square(below, right, enlargement, f"A: enlargement by halos on {device}", "{:.2f}".format, 1.0)
    save(figure, path)


def _square(
    figure: SubFigure, axes: Axes, values: Array, title: str, text: Callable[[float], str], least: float
) -> None:
    """The upper triangle of one matrix; a small one with its numbers."""
    count = len(values)
    shown = [
        [value if last >= first else math.nan for last, value in enumerate(row)] for first, row in enumerate(values)
    ]
    image = axes.imshow(shown, cmap=_COLOURS, norm=_norm(least))
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_ylabel("first unit i")
    axes.set_xlabel("last unit j")
    axes.set_xticks(range(0, count, _step(count)))
    axes.set_yticks(range(0, count, _step(count)))
    figure.colorbar(image, ax=axes, shrink=0.8, pad=0.02)
    if count <= _LABELLED:
        low, high = image.get_clim()
        for first, last in itertools.combinations_with_replacement(range(count), 2):
            value = float(values[first, last])
            colour = "white" if value < low + 0.4 * (high - low) else "black"
            axes.text(last, first, text(value), ha="center", va="center", fontsize=6, color=colour)


def _norm(least: float = 0.0) -> PowerNorm:
    """Colours by the square root of what is above the least: a few large entries do not hide all others."""
    from matplotlib.colors import PowerNorm  # noqa: PLC0415 — an extra

    return PowerNorm(0.5, vmin=least)


def _step(units: int) -> int:
    return -(-units // _LABELLED)
