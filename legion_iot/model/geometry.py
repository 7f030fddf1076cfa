"""Which rows and columns of its input an op needs for a region of its output.

Every op that can be tiled is *separable*: rows depend on rows only, columns on columns only. So one rule per axis says
it all. A rule answers the question "to yield the output interval [a, b), what must be there?" with a `Need`:

- `source`: the interval of the input, inside the image;
- `before`, `after`: padding to be added around it, since the window reaches past the image;
- `result`: what the op then yields, an interval that covers [a, b) (more than asked where the op cannot do less).

Windows (convolution, pooling) with kernel k, stride s, dilation d and pad p before need
[s·a − p, s·(b−1) + d·(k−1) + 1 − p); SAME padding has p = total // 2 with
total = max(0, (out − 1)·s + d·(k−1) + 1 − in), from the *whole* image's sizes (TFLite,
`ComputePaddingHeightWidth`). All intervals are half open, all sizes in rows or columns of feature maps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from legion_iot.model.graph import Tensor

SAME = 0  # Padding of the TFLite schema
HEIGHT, WIDTH, CHANNELS = 1, 2, 3  # axes of NHWC


@dataclass(frozen=True, slots=True, order=True)
class Interval:
    """Half-open interval of rows or columns."""

    start: int
    stop: int

    def __len__(self) -> int:
        return max(0, self.stop - self.start)

    def __contains__(self, other: Interval) -> bool:
        return self.start <= other.start and other.stop <= self.stop

    def hull(self, other: Interval) -> Interval:
        """The smallest interval that holds both; an empty one adds nothing."""
        if not len(other):
            return self
        if not len(self):
            return other
        return Interval(min(self.start, other.start), max(self.stop, other.stop))

    def intersection(self, other: Interval) -> Interval:
        start = max(self.start, other.start)
        return Interval(start, max(start, min(self.stop, other.stop)))


@dataclass(frozen=True, slots=True)
class Region:
    """Rows × columns of a feature map."""

    rows: Interval
    columns: Interval

    @property
    def area(self) -> int:
        return len(self.rows) * len(self.columns)

    def __contains__(self, other: Region) -> bool:
        return other.rows in self.rows and other.columns in self.columns

    def hull(self, other: Region) -> Region:
        """The smallest region that holds both; an empty one adds nothing."""
        if not other.area:
            return self
        if not self.area:
            return other
        return Region(self.rows.hull(other.rows), self.columns.hull(other.columns))

    def intersection(self, other: Region) -> Region:
        return Region(self.rows.intersection(other.rows), self.columns.intersection(other.columns))

    @classmethod
    def whole(cls, tensor: Tensor) -> Region:
        """All of a feature map of shape (1, height, width, channels)."""
        return cls(Interval(0, tensor.shape[HEIGHT]), Interval(0, tensor.shape[WIDTH]))


@dataclass(frozen=True, slots=True)
class Need:
    """What one axis of an op needs; see the module's text."""

    source: Interval
    before: int
    after: int
    result: Interval


class AxisRule(Protocol):
    """How one axis of an op's output depends on its input."""

    def need(self, asked: Interval) -> Need: ...


def _clamped(start: int, stop: int, size: int, result: Interval) -> Need:
    """The need for [start, stop), of which [0, size) exists and the rest is padding."""
    return Need(Interval(max(start, 0), min(stop, size)), max(0, -start), max(0, stop - size), result)


@dataclass(frozen=True, slots=True)
class Pointwise:
    """Each element depends on the element at its own place."""

    def need(self, asked: Interval) -> Need:
        return Need(asked, 0, 0, asked)


@dataclass(frozen=True, slots=True)
class Window:
    """A sliding window; `reach` is d·(k−1)+1, `pad` what the whole image has before its first row."""

    reach: int
    stride: int
    pad: int
    size: int

    def need(self, asked: Interval) -> Need:
        start = self.stride * asked.start - self.pad
        stop = self.stride * (asked.stop - 1) + self.reach - self.pad
        return _clamped(start, stop, self.size, asked)


@dataclass(frozen=True, slots=True)
class ClippedWindow:
    """A pooling window that is clipped by the image (SAME padding).

    Padding would be counted by an average, and change the order in which a maximum meets +0 and −0. So the tile runs
    with SAME padding too, on an interval chosen so that the padding the runtime derives from the tile's size puts every
    asked window where the whole image has it, clipped alike.
    """

    reach: int
    stride: int
    pad: int
    size: int

    def need(self, asked: Interval) -> Need:
        inner = Window(self.reach, self.stride, self.pad, self.size).need(asked)
        # A window that is clipped by the image has to be clipped by the tile: the tile then ends where the image does.
        starts = (0,) if inner.before else range(inner.source.start, -1, -1)
        stops = (self.size,) if inner.after else range(inner.source.stop, self.size + 1)
        for start in starts:
            for stop in stops:
                count, pad = same_padding(stop - start, self.reach, self.stride)
                first, remainder = divmod(start - pad + self.pad, self.stride)
                if remainder == 0 and first <= asked.start and asked.stop <= first + count:
                    return Need(Interval(start, stop), 0, 0, Interval(first, first + count))
        raise AssertionError("the whole image always meets the condition")


@dataclass(frozen=True, slots=True)
class Padding:
    """An explicit PAD; with `mirror` (1 reflect, 0 symmetric) padding repeats what lies inside the border."""

    pad: int
    size: int
    mirror: int | None = None

    def need(self, asked: Interval) -> Need:
        # At least one row of the image has to be there, since a tensor cannot be empty.
        start = min(asked.start - self.pad, self.size - 1)
        stop = max(asked.stop - self.pad, 1)
        need = _clamped(start, stop, self.size, Interval(start + self.pad, stop + self.pad))
        if self.mirror is None or not (need.before or need.after):
            return need
        first = min(need.source.start, self.size - need.after - self.mirror) if need.after else need.source.start
        last = max(need.source.stop, need.before + self.mirror) if need.before else need.source.stop
        # Where padding is added, the source already ends at the image's border; the other end only grows.
        return Need(Interval(first, last), need.before, need.after,
                    Interval(first - need.before + self.pad, last + need.after + self.pad))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Enlargement:
    """Each input row yields `factor` output rows; `before` and `after` are the neighbours that interpolation reads."""

    factor: int
    size: int
    before: int = 0
    after: int = 0

    def need(self, asked: Interval) -> Need:
        start = max(0, asked.start // self.factor - self.before)
        stop = min(self.size, (asked.stop - 1) // self.factor + 1 + self.after)
        return Need(Interval(start, stop), 0, 0, Interval(start * self.factor, stop * self.factor))


@dataclass(frozen=True, slots=True)
class Resampling:
    """A resize whose weights depend on the absolute position or on the whole image's size.

    The runtime derives both from the sizes it is given, so the tile is run at the image's own size: the rows it does
    not have are padding, which the asked rows never read. `corners` says that the scale is (in − 1)/(out − 1).
    """

    size: int
    result: int
    corners: bool

    def need(self, asked: Interval) -> Need:
        scale = (self.size - 1) / max(1, self.result - 1) if self.corners else self.size / self.result
        # One row more on each side: half-pixel centres and interpolation reach that far, rounding included.
        start = max(0, min(self.size - 1, int(asked.start * scale) - 1))
        stop = min(self.size, int((asked.stop - 1) * scale) + 3)
        return Need(Interval(start, stop), start, self.size - stop, Interval(0, self.result))


@dataclass(frozen=True, slots=True)
class TransposedWindow:
    """A transposed convolution: input row i adds to output rows [i·s − p, i·s − p + k)."""

    kernel: int
    stride: int
    pad: int
    size: int

    def need(self, asked: Interval) -> Need:
        start = max(0, -((self.kernel - 1 - asked.start - self.pad) // self.stride))
        stop = min(self.size, (asked.stop - 1 + self.pad) // self.stride + 1)
        first = start * self.stride - self.pad
        return Need(Interval(start, stop), 0, 0,
                    Interval(first, first + (stop - start - 1) * self.stride + self.kernel))  # fmt: skip


def same_padding(size: int, reach: int, stride: int) -> tuple[int, int]:
    """Output size and padding before the first row, for SAME padding of `size` rows."""
    count = -(-size // stride)
    return count, max(0, (count - 1) * stride + reach - size) // 2
