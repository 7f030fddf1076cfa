"""What a lab consists of: devices by class, with their processors and links, from a TOML file or a preset.

Rates are Mbit/s on the wire, delays milliseconds one way, losses percent of the packets, memory MB (10⁶ bytes), CPU
shares cores of this machine.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from legion_iot import toml_tables
from legion_iot.errors import InputError, LegionError, UsageError
from legion_iot.toml_tables import check_keys, flag, number, numbered, suggestion, whole
from legion_iot.wire.topics import Topics, check_agent_name

BrokerKind = Literal["auto", "mosquitto", "embedded"]

MOST_DEVICES = 32
MOST_THREADS = 64
LEAST_SHARE = 0.05  # 1 ms, the kernel's least quota, of each 20 ms period
_BOARD = re.compile(r"[a-z0-9][a-z0-9.-]{0,31}")
_BROKERS: tuple[BrokerKind, ...] = ("auto", "mosquitto", "embedded")


@dataclass(frozen=True, slots=True)
class Link:
    """A device's link to the broker; None is as fast as this machine."""

    up_mbit: float | None = None
    down_mbit: float | None = None
    delay_ms: float = 0.0
    loss_percent: float = 0.0


@dataclass(frozen=True, slots=True)
class Device:
    """One emulated device; `memory_mb` None is all there is."""

    name: str
    board: str
    cpu_share: float
    threads: int = 1
    memory_mb: int | None = None
    xnnpack: bool = True
    link: Link = Link()


@dataclass(frozen=True, slots=True)
class LabSpec:
    """A lab as it is asked for."""

    name: str
    devices: tuple[Device, ...]
    broker: BrokerKind = "auto"
    base_topic: str = "legion"

    @property
    def load(self) -> float:
        """Cores in use when all devices compute."""
        return sum(device.cpu_share for device in self.devices)


# Boards by name: what a device is when its table says no more. Six RK3399 load a machine with 1.1 cores, so that two
# cores can carry them; the other shares are chosen beside that, and stand for no benchmark.
BOARDS: dict[str, Device] = {
    device.board: device
    for device in (
        Device("f", "rk3399", 0.18, 1, 4000, True, Link(100, 100)),
        Device("o", "xu4", 0.14, 1, 2000, True, Link(100, 100)),
        Device("p", "pi-5", 0.40, 1, 8000, True, Link(100, 100)),
        Device("p", "pi-4", 0.20, 1, 4000, True, Link(100, 100)),
        Device("p", "pi-3", 0.10, 1, 1000, True, Link(100, 100)),
        Device("p", "pi-zero-2", 0.08, 1, 512, True, Link(20, 40, 3.0)),
    )
}


def read_spec(path: Path) -> LabSpec:
    """The lab a TOML file asks for; raises InputError with the file's name, the key, and what is allowed."""
    text = toml_tables.read_text(path, "a lab specification")
    try:
        return parse_spec(text, path.stem)
    except LegionError as error:
        raise InputError(f"{path}: {error}") from None


def parse_spec(text: str, name: str) -> LabSpec:
    """The lab that TOML text asks for; raises InputError."""
    table = toml_tables.parse(text)
    check_keys(table, ("name", "broker", "base_topic", "device"), "the file")
    tables = toml_tables.device_tables(table)
    devices = [device for number, each in enumerate(tables, 1) for device in _devices(each, f"device {number}")]
    broker = table.get("broker", "auto")
    if broker not in _BROKERS:
        raise InputError(f"broker is {broker!r}; give one of {', '.join(_BROKERS)}")
    base = toml_tables.text(table, "base_topic", "the file", "legion")
    try:
        Topics(base)
    except LegionError as error:
        raise InputError(f"base_topic: {error}") from None
    return check_spec(LabSpec(toml_tables.text(table, "name", "the file", name)[:60], tuple(devices), broker, base))


def check_spec(spec: LabSpec) -> LabSpec:
    """The same; raises InputError for names that occur twice and for too many devices."""
    if len(spec.devices) > MOST_DEVICES:
        raise InputError(f"{len(spec.devices)} devices; a lab has {MOST_DEVICES} at most")
    names = [device.name for device in spec.devices]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"two devices are called {doubled[0]!r}; give each table a name of its own")
    return spec


def check_machine(spec: LabSpec, cores: int) -> None:
    """Raises UsageError where the devices ask for more processor than `cores`."""
    if spec.load > cores + 1e-9:
        raise UsageError(
            f"the devices of {spec.name} ask for {spec.load:.2f} cores in all, and this machine has {cores}; "
            "lower cpu_share or the number of devices"
        )


_LINK_KEYS = tuple(field.name for field in fields(Link))
_DEVICE_KEYS = ("name", "count", "board", "cpu_share", "threads", "memory_mb", "xnnpack", "link")


def _devices(table: dict[str, Any], where: str) -> Sequence[Device]:
    check_keys(table, _DEVICE_KEYS, where)
    board = toml_tables.text(table, "board", where, None)
    if not _BOARD.fullmatch(board):
        raise InputError(f"{where}: board is {board!r:.60}; use up to 32 of a–z, 0–9, '.' and '-'")
    base = BOARDS.get(board)
    if base is None:
        if "cpu_share" not in table:
            raise InputError(f"{where}: board {board!r} has no known cpu_share, give one; {suggestion(board, BOARDS)}")
        base = Device(board, board, 1.0)
    made = replace(
        base,
        cpu_share=number(table, "cpu_share", where, base.cpu_share, LEAST_SHARE, 1024),
        threads=whole(table, "threads", where, base.threads, 1, MOST_THREADS),
        memory_mb=whole(table, "memory_mb", where, base.memory_mb, 128, 1 << 24),
        xnnpack=flag(table, "xnnpack", where, base.xnnpack),
        link=_link(table.get("link", {}), f"{where}, link", base.link),
    )
    if made.cpu_share > made.threads:
        raise InputError(f"{where}: {made.threads} thread(s) cannot use {made.cpu_share:g} cores; raise threads")
    count = whole(table, "count", where, 1, 1, MOST_DEVICES)
    name = toml_tables.text(table, "name", where, base.name)
    return [replace(made, name=_agent_name(each, where)) for each in numbered(name, count or 1)]


def _agent_name(name: str, where: str) -> str:
    try:
        return check_agent_name(name)
    except UsageError:
        raise InputError(
            f"{where}: name {name!r:.60} cannot be; use up to 32 of a–z, 0–9 and '-', not 'orchestrator'"
        ) from None


def _link(table: Any, where: str, base: Link) -> Link:
    if not isinstance(table, dict):
        raise InputError(f"{where}: is no table; give link = {{ up_mbit = 100, down_mbit = 100 }}")
    check_keys(table, _LINK_KEYS, where)
    return Link(
        number(table, "up_mbit", where, base.up_mbit, 0.1, 10_000),
        number(table, "down_mbit", where, base.down_mbit, 0.1, 10_000),
        number(table, "delay_ms", where, base.delay_ms, 0, 2000),
        number(table, "loss_percent", where, base.loss_percent, 0, 30),
    )
