"""Groups of emulated devices, written as in the paper (`3F+2O`), and how fast their processors are made.

F stands for a Firefly-RK3399, O for an Odroid-XU4, as in Choi et al., ICCD 2021. A device's share of a core is chosen
so that an F computes `FIREFLY` operations per second, but never so large that the largest group of the paper keeps more
than `MOST_CORES` busy: what is left of two cores is for the broker, the orchestrator and the client.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from legion_iot.errors import UsageError
from legion_iot.lab.presets import MOST
from legion_iot.lab.spec import BOARDS, LEAST_SHARE, Device, LabSpec, Link
from legion_iot.toml_tables import numbered

FIREFLY = 18.6e9  # FLOP per second, at which VGG-16 takes 1.65 s
MOST_CORES = 1.08  # that six F compute with
ODROID = BOARDS["xu4"].cpu_share / BOARDS["rk3399"].cpu_share  # of an F
MOST_DEVICES = 12
_PART = re.compile(r"([1-9]\d?)([FO])")
_RATE = re.compile(r"(\d+(?:\.\d+)?)(kbit|mbit|gbit)")
_MBIT = {"kbit": 1e-3, "mbit": 1.0, "gbit": 1e3}


@dataclass(frozen=True, slots=True)
class Fleet:
    """So many devices of each kind."""

    fireflies: int
    odroids: int = 0

    @property
    def size(self) -> int:
        return self.fireflies + self.odroids

    @property
    def order(self) -> tuple[int, ...]:
        """Groups of one kind of device come before mixed ones, and each kind by size."""
        return self.odroids > 0, self.fireflies > 0, self.size, self.odroids

    @property
    def label(self) -> str:
        """`3F+2O`, say."""
        counts = ((self.fireflies, "F"), (self.odroids, "O"))
        return "+".join(f"{count}{kind}" for count, kind in counts if count)


def parse_fleet(text: str) -> Fleet:
    """The group that `2F`, `3O` or `2F+1O` names; raises UsageError."""
    counts = {"F": 0, "O": 0}
    for part in text.strip().upper().split("+"):
        match = _PART.fullmatch(part)
        if match is None or counts[match[2]]:
            raise UsageError(f"{text!r:.40} names no group; write 2F, 3O or 2F+1O, say (--groups)")
        counts[match[2]] = int(match[1])
    fleet = Fleet(counts["F"], counts["O"])
    if fleet.size > MOST_DEVICES:
        raise UsageError(f"{fleet.label} are {fleet.size} devices; a group has {MOST_DEVICES} at most (--groups)")
    return fleet


def parse_rate(text: str) -> float:
    """Mbit/s of `100mbit`, say; raises UsageError."""
    match = _RATE.fullmatch(text.strip().lower())
    mbit = float(match[1]) * _MBIT[match[2]] if match else 0.0
    if not 0.1 <= mbit <= 10_000:
        raise UsageError(f"--rate is {text!r:.40}; give 100mbit, say, from 100kbit to 10gbit")
    return mbit


@dataclass(frozen=True, slots=True)
class Calibration:
    """The speed of one thread of this machine, and the shares of a core that the devices get for it.

    `flops` are FLOP per second, measured on `network`, which took `seconds`.
    """

    network: str
    seconds: float
    flops: float
    firefly: float
    odroid: float


def calibrate(network: str, flop: float, seconds: float) -> Calibration:
    """From what one run of a network took on one thread of this machine while nothing held it."""
    speed = flop / seconds
    firefly = max(LEAST_SHARE / ODROID, min(FIREFLY / speed, MOST_CORES / MOST))
    return Calibration(network, seconds, speed, round(firefly, 4), round(firefly * ODROID, 4))


def lab_of(fleet: Fleet, calibration: Calibration, mbit: float, slower: float = 1.0) -> LabSpec:
    """The lab of a group: f1, f2, …, o1, …; shares are divided by `slower`, so that more devices find room.

    Raises UsageError where a share would be less than can be held.
    """
    kinds = (
        (fleet.fireflies, BOARDS["rk3399"], calibration.firefly),
        (fleet.odroids, BOARDS["xu4"], calibration.odroid),
    )
    devices: list[Device] = []
    for count, board, share in kinds:
        if count and share / slower < LEAST_SHARE:
            raise UsageError(f"{fleet.label}: a device would get less than {LEAST_SHARE:g} of a core; use fewer")
        made = replace(board, cpu_share=round(share / slower, 4), link=Link(mbit, mbit))
        names = [f"{board.name}1"] if count == 1 else numbered(board.name, count)
        devices += [replace(made, name=name) for name in names[:count]]
    return LabSpec(f"fleet-{fleet.label}", tuple(devices))
