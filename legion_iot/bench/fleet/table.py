"""A table of the experiment, and how its figures are written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from legion_iot.bench.fleet.cells import Figures
from legion_iot.bench.fleet.figures import Pair

NONE = "—"


@dataclass(frozen=True, slots=True)
class Table:
    """A table, what it shows, and how to read it; the first `texts` columns are text, the others figures."""

    title: str
    note: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    texts: int = 2

    def lines(self) -> Iterator[str]:
        """For a terminal."""
        widths = [max(len(row[column]) for row in (self.head, *self.rows)) for column in range(len(self.head))]
        yield ""
        yield self.title.upper()
        for row in (self.head, *self.rows):
            yield "  ".join(
                text.ljust(width) if column < self.texts else text.rjust(width)
                for column, (text, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()

    def markdown(self) -> Iterator[str]:
        """For a document."""
        yield f"## {self.title}"
        yield ""
        yield self.note
        yield ""
        yield f"| {' | '.join(self.head)} |"
        yield f"|{'|'.join('---' if column < self.texts else '--:' for column in range(len(self.head)))}|"
        for row in self.rows:
            yield f"| {' | '.join(row)} |"


def place(pair: Pair) -> tuple[str, str, str]:
    """Network, group and wire dtype of a cell."""
    cell, _ = pair
    return cell.network, cell.group, cell.wire


def times(value: float | None) -> str:
    """How many times."""
    return NONE if value is None else f"{value:.2f}"


def percent(value: float | None) -> str:
    """By how much more or less."""
    return NONE if value is None else f"{100 * value:+.1f} %"


def milliseconds(figures: Figures | None) -> str:
    """The median, and half of what the middle half of the requests spans."""
    return NONE if figures is None else f"{figures.seconds * 1e3:.0f} ± {figures.spread * figures.seconds * 1e3:.0f}"
