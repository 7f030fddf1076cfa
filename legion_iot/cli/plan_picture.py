"""A plan as a Gantt chart: participants as rows, computing and transfers as bars, the bound as a line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from legion_iot.cli.figures import seconds_text
from legion_iot.cli.picture import new_figure, save
from legion_iot.cli.plan_outcome import Outcome, kinds
from legion_iot.planning.routing import ORCHESTRATOR

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from legion_iot.planning.estimate import Bar

_LANES = {"receive": (0.30, 0.16), "compute": (-0.14, 0.40), "send": (-0.34, 0.16)}  # by kind: bottom, height
_RECEIVES, _SENDS, _TAIL, _BOUND = "#4c78a8", "#e45756", "#555555", "#c02020"
_LABELLED = 0.018  # of the picture's width: a narrower bar has no number


def draw(outcome: Outcome, path: Path) -> None:
    """Raises InputError where the file cannot be written."""
    names = [ORCHESTRATOR, *(name for name in outcome.group.names if name in outcome.plan.agents)]
    latency = max((bar.end for bar in outcome.estimate.bars), default=0.0)
    scale, unit = (1e3, "ms") if latency < 1 else (1.0, "s")
    figure = new_figure(13, 1.9 + 0.62 * len(names))
    axes = figure.add_subplot()
    for bar in outcome.estimate.bars:
        _draw_bar(axes, names.index(bar.participant), bar, scale, latency * scale)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, 1.02 * latency * scale or 1)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel(f"{unit} after the request")
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    _draw_lines(axes, outcome, scale)
    _draw_legend(axes, outcome)
    title = f"{outcome.model} on {', '.join(kinds(outcome.group))}: planner {outcome.plan.planner}"
    if outcome.plan.replicas:
        title += ", a request of each replica"
    if outcome.objective == "throughput":
        title += f"\nan answer every {seconds_text(outcome.seconds)}, bound {seconds_text(outcome.bound)}"
    axes.set_title(title, loc="left", fontsize=12, pad=26)
    save(figure, path)


def _draw_bar(axes: Axes, row: int, bar: Bar, scale: float, width: float) -> None:
    bottom, height = _LANES[bar.kind]
    start, length = bar.start * scale, (bar.end - bar.start) * scale
    colour = {"receive": _RECEIVES, "send": _SENDS}.get(bar.kind) or _block_colour(bar.block)
    lower = row - bottom - height
    axes.broken_barh([(start, length)], (lower, height), facecolors=colour, edgecolors="white", linewidth=0.3)
    if bar.kind == "compute" and length > _LABELLED * width:
        label = "tail" if bar.block is None else str(bar.block + 1)
        axes.text(
            start + length / 2, lower + height / 2, label, ha="center", va="center", color="white", fontsize=8,
            clip_on=True,
        )  # fmt: skip


def _block_colour(block: int | None) -> str | tuple[float, float, float, float]:
    if block is None:
        return _TAIL
    from matplotlib import colormaps  # noqa: PLC0415 — an extra

    # Neighbours differ in lightness, and no block has the colour of a transfer.
    return colormaps["viridis"]((0.15, 0.45, 0.65, 0.30, 0.55)[block % 5])


def _draw_lines(axes: Axes, outcome: Outcome, scale: float) -> None:
    answer = "mean latency" if outcome.plan.replicas else "answer"
    lines = [(outcome.estimate.latency, "black", "solid", "left", answer)]
    if outcome.objective == "latency":
        lines.append((outcome.bound, _BOUND, "dashed", "right", "bound"))
    for seconds, colour, style, side, label in lines:
        axes.axvline(seconds * scale, color=colour, linestyle=style, linewidth=1.2, zorder=3)
        axes.annotate(
            f"{label} {seconds_text(seconds)}", (seconds * scale, 1), xycoords=("data", "axes fraction"),
            xytext=(0, 4), textcoords="offset points", fontsize=9, color=colour, ha=side,
        )  # fmt: skip


def _draw_legend(axes: Axes, outcome: Outcome) -> None:
    from matplotlib.patches import Patch  # noqa: PLC0415 — an extra

    handles = [Patch(color=_RECEIVES, label="receives"), Patch(color=_block_colour(0), label="computes block 1, 2, …")]
    if outcome.network.tail:
        handles.append(Patch(color=_TAIL, label="computes the tail"))
    handles.append(Patch(color=_SENDS, label="sends"))
    axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=4, frameon=False, fontsize=9)
