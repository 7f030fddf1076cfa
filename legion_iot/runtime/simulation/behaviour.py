"""How a simulated device behaves, and how long it takes for what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from legion_iot.planning.links import Link

ELEMENT = 1e-4  # seconds of a device of speed 1 for each row and column of a unit's map
LEAST = 0.005  # seconds of any step
TAIL = 0.02  # seconds of what follows the trunk
HUNG = 1e9  # seconds of work that never ends
LINK = Link(0.001, 1e7, 1e7)  # what a probe finds


@dataclass(slots=True)
class Behaviour:
    """A device; each of this may change during a run.

    `speed` is relative; `failing_tiles` a share of its steps; `lies` the time that it reports for everything;
    `corrupt` is what is wrong with its outputs: they are NaN, or it sends a channel too many. With `wrong_model`, what
    it fetches does not match its hash.
    """

    speed: float = 1.0
    holds_model: bool = True
    profile_hangs: bool = False
    load_fails: bool = False
    load_hangs: bool = False
    failing_tiles: float = 0.0
    wrong_model: bool = False
    lies: float | None = None
    corrupt: Literal["", "nan", "form"] = ""
    board: str = "board"
    link: Link | None = None  # on its disk since an earlier run

    def seconds(self, units: tuple[int, int] | None, area: int) -> float:
        """What units of this first and last number take for so many rows and columns; without units, the tail."""
        work = TAIL if units is None else ELEMENT * area * (units[1] - units[0] + 1)
        return max(LEAST, work) / self.speed

    def told(self, seconds: float) -> float:
        """The time that it reports for what took so long."""
        return seconds if self.lies is None else self.lies
