"""What requests cost a group's devices: processor time and bytes on their links, as the kernel counts them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from legion_iot.lab.running import LabAgent


@dataclass(frozen=True, slots=True)
class Spent:
    """Of one device, per request.

    `processor` and `computing` are seconds of this machine's processor: all that its agent has used, and what the tiles
    of the plan were predicted to use of it. `share` is that of a core which the device has. Bytes are those on the
    wire, with headers and acknowledgements; 0 where the device has no network of its own.
    """

    device: str
    share: float
    processor: float
    computing: float
    sent: float
    received: float

    @property
    def handling(self) -> float:
        """Seconds of the device's time that its processor spends on all but the plan's tiles."""
        return max(0.0, self.processor - self.computing) / self.share


@dataclass(frozen=True, slots=True)
class _Count:
    processor: float
    sent: int
    received: int


class SpendingMeter:
    """Counts from its making on, for the agents of a lab."""

    def __init__(self, agents: Sequence[LabAgent]) -> None:
        self._agents = agents
        self._before = {agent.name: _count(agent) for agent in agents}

    def read(self, requests: int, tile_seconds: Mapping[str, float]) -> tuple[Spent, ...]:
        """Per request of so many since then, which keep each device computing for so long."""
        spent = []
        for agent in self._agents:
            before, now = self._before[agent.name], _count(agent)
            share = agent.state.device.cpu_share
            spent.append(Spent(
                agent.name, share, (now.processor - before.processor) / requests,
                tile_seconds.get(agent.name, 0.0) * share,
                (now.sent - before.sent) / requests, (now.received - before.received) / requests,
            ))  # fmt: skip
        return tuple(spent)


def average(spent: Sequence[tuple[Spent, ...]]) -> tuple[Spent, ...]:
    """Device by device, of several turns that cost the same devices something."""
    count = len(spent)
    return tuple(
        Spent(
            each[0].device, each[0].share, sum(one.processor for one in each) / count, each[0].computing,
            sum(one.sent for one in each) / count, sum(one.received for one in each) / count,
        )
        for each in zip(*spent, strict=True)
    )  # fmt: skip


def _count(agent: LabAgent) -> _Count:
    processor = sum(_scheduled(place) for place in Path(f"/proc/{agent.pid}/task").glob("*/schedstat"))
    sent = received = 0
    if agent.state.namespace:
        counted = interface_bytes(_text(Path(f"/proc/{agent.pid}/net/dev")))
        received, sent = (sum(column) for column in zip(*counted.values(), strict=True)) if counted else (0, 0)
    return _Count(processor / 1e9, sent, received)


def _scheduled(place: Path) -> int:
    """Nanoseconds that a thread has been on a processor (proc(5), schedstat); 0 for one that has just ended."""
    fields = _text(place).split()
    return int(fields[0]) if fields else 0


def _text(place: Path) -> str:
    try:
        return place.read_text(encoding="utf-8")
    except OSError:
        return ""


def interface_bytes(text: str) -> Mapping[str, tuple[int, int]]:
    """Bytes received and sent, by interface but the loopback (proc(5), net/dev)."""
    found = {}
    for line in text.splitlines()[2:]:
        name, _, rest = line.partition(":")
        columns = rest.split()
        if name.strip() != "lo":
            found[name.strip()] = int(columns[0]), int(columns[8])
    return found
