"""The epochs an agent holds: of each model the newest, and the last one that was loaded until that is released.

Theory. A new plan is loaded beside the old one, so that requests go on meanwhile; those that run by the old plan end
on it. An agent never holds more than two epochs of a model, whatever it is told: a third one pushes out all but the
one that it is told is in force, or else the one that was loaded last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from legion_iot.runtime.exchange import Exchange
from legion_iot.wire.messages import Assignment, PeerRegion, RegionBounds
from legion_iot.wire.tensors import Place


@dataclass(frozen=True, slots=True)
class Share:
    """A part of what a step makes, and who gets it: the same for each request.

    `origin` is the region that the step makes of the tensor, and `place` where the part lies in it. Its elements are of
    `dtype`. To others it goes in the form `wire`, packed by `codec`, where these are not empty; `bytes` is what it has
    before it is packed.
    """

    part: PeerRegion
    origin: RegionBounds
    place: Place
    dtype: str
    wire: str
    codec: str
    bytes: int


@dataclass(slots=True, eq=False)
class HeldEpoch:
    """One assignment; without an `exchange` it is not loaded. `ready_at` is when it was.

    `sends` are by step, and so are the `shares` that come of them when the step has first run.
    """

    assignment: Assignment
    exchange: Exchange | None = None
    sends: dict[int, list[PeerRegion]] = field(default_factory=dict)
    shares: dict[int, list[Share]] = field(default_factory=dict)
    ready_at: float = 0.0

    def lacks(self, sha256: str) -> bool:
        """Whether it waits for that model's file."""
        return self.exchange is None and bool(self.assignment.steps) and self.assignment.model.sha256 == sha256


class HeldEpochs:
    """Those of all models, by number, in the order in which they came."""

    def __init__(self) -> None:
        self._epochs: dict[int, HeldEpoch] = {}

    def __iter__(self) -> Iterator[HeldEpoch]:
        return iter(self._epochs.values())

    def __len__(self) -> int:
        return len(self._epochs)

    def get(self, epoch: int) -> HeldEpoch | None:
        return self._epochs.get(epoch)

    def newest(self, model: str) -> HeldEpoch | None:
        """The newest epoch of a model, by its name."""
        return next((held for held in reversed(self._epochs.values()) if held.assignment.model.name == model), None)

    def add(self, assignment: Assignment) -> list[int]:
        """Hold another epoch; those that are not held any more for it."""
        mine = [held for held in self if held.assignment.model.name == assignment.model.name]
        others = [h for h in mine if h.exchange is not None and h.assignment.epoch != assignment.epoch]
        if assignment.beside:
            others = [held for held in others if held.assignment.epoch == assignment.beside]
        kept = [] if assignment.alone else others[-1:]
        dropped = self.drop(lambda held: held in mine and held not in kept)
        self._epochs[assignment.epoch] = HeldEpoch(assignment)
        return dropped

    def drop(self, unwanted: Callable[[HeldEpoch], bool]) -> list[int]:
        """Hold no longer what is unwanted; its numbers."""
        dropped = [epoch for epoch, held in self._epochs.items() if unwanted(held)]
        for epoch in dropped:
            del self._epochs[epoch]
        return dropped
