"""How this device is: what its metrics say, and what makes it degraded, as far as Linux tells.

| degraded by | when                                              | read from                                      |
|-------------|---------------------------------------------------|------------------------------------------------|
| heat        | a sensor is where its device is cooled or ended   | thermal zones and their trip points            |
| throttling  | the processor is held back by heat or low voltage | cooling devices, a Raspberry Pi's firmware,    |
|             |                                                   | x86's counters of throttling                   |
| memory      | under a twentieth of the machine's, or of our     | /proc/meminfo, /proc/self/statm                |
|             | limit, is left                                    |                                                |
| disk        | under 64 MB are left where models are written     | statvfs(2)                                     |

What cannot be read is not complained of: many boards tell nothing of their heat, and virtual machines never do.
"""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SYS = Path("/sys")
PROC = Path("/proc")
LEAST_LEFT = 1 / 20  # of the memory
LEAST_DISK = 64 << 20  # bytes
# Bits of the Raspberry Pi's firmware that hold now: voltage too low, frequency capped, throttled, soft limit of heat.
_FIRMWARE_NOW = {
    0: "voltage is too low",
    1: "frequency is capped",
    2: "processor is throttled",
    3: "heat is at its soft limit",
}
_COOLED_BY_SLOWING = ("processor", "cpufreq", "thermal-cpufreq")
_HOT_TRIPS = ("passive", "hot", "critical")
# Readings in a row, so that a device on the edge does not change its state every two seconds.
WORSE_AFTER, BETTER_AFTER = 2, 5


@dataclass(frozen=True, slots=True)
class Readings:
    """A look at the device: °C, bytes, and `problems` in words, which are empty where it is sound."""

    load: float
    temperature: float | None
    throttled: bool
    memory_resident: int
    problems: tuple[str, ...]


class Device:
    """Reads how the device is; `memory_limit` are the bytes we may use, `directory` is where we write."""

    def __init__(self, memory_limit: int, directory: Path, sys: Path = SYS, proc: Path = PROC) -> None:
        self._memory_limit, self._directory, self._proc = memory_limit, directory, proc
        self._zones = sorted((sys / "class/thermal").glob("thermal_zone*"))
        self._trips = {zone: _lowest_trip(zone) for zone in self._zones}
        self._coolers = [c for c in (sys / "class/thermal").glob("cooling_device*") if _slows_the_processor(c)]
        self._firmware = sorted((sys / "devices/platform").glob("soc*/*firmware*/get_throttled"))
        self._counters = sorted((sys / "devices/system/cpu").glob("cpu*/thermal_throttle/*_throttle_count"))
        self._throttle_counts = self._counted()

    def read(self) -> Readings:
        """A look at all of it."""
        temperatures = {zone: value / 1000 for zone in self._zones if (value := _number(zone / "temp")) is not None}
        slowed = list(self._slowed())
        resident, shared = self._pages()
        own = resident - shared  # the kernel takes pages of files back when it needs them
        problems = [*self._hot(temperatures), *slowed, *self._short_of_memory(own), *self._short_of_disk()]
        return Readings(
            load=round(os.getloadavg()[0], 2),
            temperature=max(temperatures.values(), default=None),
            throttled=bool(slowed),
            memory_resident=resident,
            problems=tuple(problems),
        )

    def _hot(self, temperatures: dict[Path, float]) -> Iterator[str]:
        for zone, degrees in temperatures.items():
            trip = self._trips[zone]
            if trip is not None and degrees >= trip:
                yield f"{_text(zone / 'type') or zone.name} is hot: {degrees:.0f} °C of {trip:.0f}"

    def _slowed(self) -> Iterator[str]:
        for path in self._firmware:
            with contextlib.suppress(ValueError):
                bits = int(_text(path) or "0", 16)
                yield from (f"the board's {what}" for bit, what in _FIRMWARE_NOW.items() if bits >> bit & 1)
        if any(_number(cooler / "cur_state") for cooler in self._coolers):
            yield "the processor is slowed down to cool it"
        counts, before = self._counted(), self._throttle_counts
        self._throttle_counts = counts
        if any(count > before.get(path, count) for path, count in counts.items()):
            yield "the processor is throttled because of its heat"

    def _counted(self) -> dict[Path, int]:
        return {path: count for path in self._counters if (count := _number(path)) is not None}

    def _pages(self) -> tuple[int, int]:
        """Bytes of our memory that are there, and those of them that are pages of files (proc(5), statm)."""
        fields = (_text(self._proc / "self/statm") or "0 0 0").split()
        page = os.sysconf("SC_PAGE_SIZE")
        return int(fields[1]) * page, int(fields[2]) * page

    def _short_of_memory(self, own: int) -> Iterator[str]:
        if own > self._memory_limit * (1 - LEAST_LEFT):
            yield f"{own / 1e6:.0f} of {self._memory_limit / 1e6:.0f} MB of memory are in use"
        lines = (line.split() for line in (_text(self._proc / "meminfo") or "").splitlines())
        kilobytes = {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdigit()}
        total, available = kilobytes.get("MemTotal:", 0), kilobytes.get("MemAvailable:")
        if available is not None and available < total * LEAST_LEFT:
            yield f"{available / 1e3:.0f} MB of memory are left on the machine"

    def _short_of_disk(self) -> Iterator[str]:
        with contextlib.suppress(OSError):
            status = os.statvfs(self._directory)
            left = status.f_bavail * status.f_frsize
            if left < LEAST_DISK:
                yield f"{left / 1e6:.0f} MB of disk are left in {self._directory}"


class Degradation:
    """Whether the device is degraded, and why, by one look after the other; `detail` is empty where it is not."""

    def __init__(self) -> None:
        self.detail = ""
        self._in_a_row = 0

    def take(self, problems: Sequence[str]) -> bool:
        """Take in what a look found; whether `detail` has become something else than before in kind."""
        if bool(problems) == bool(self.detail):
            self._in_a_row = 0
            return False
        self._in_a_row += 1
        if self._in_a_row < (WORSE_AFTER if problems else BETTER_AFTER):
            return False
        self._in_a_row, self.detail = 0, "; ".join(problems)
        return True


def _lowest_trip(zone: Path) -> float | None:
    """From where on the zone is too hot by its own account, in °C."""
    points = []
    for path in zone.glob("trip_point_*_type"):
        degrees = _number(path.with_name(path.name.replace("_type", "_temp")))
        if _text(path) in _HOT_TRIPS and degrees is not None and degrees > 0:
            points.append(degrees / 1000)
    return min(points, default=None)


def _slows_the_processor(cooler: Path) -> bool:
    return (_text(cooler / "type") or "").lower().startswith(_COOLED_BY_SLOWING)


def _text(path: Path) -> str | None:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return path.read_text(encoding="ascii").strip()
    return None


def _number(path: Path) -> int | None:
    with contextlib.suppress(ValueError):
        return int(_text(path) or "")
    return None


def board() -> str:
    """What the device is called: the device tree's model on single-board computers, else the processor's name."""
    with contextlib.suppress(OSError):
        return Path("/proc/device-tree/model").read_text(encoding="utf-8").strip("\0 \n")
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine() or "unknown"
