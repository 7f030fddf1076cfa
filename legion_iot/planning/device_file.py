"""Devices as a person describes them, in TOML: to plan for a group that is not there, or not yet.

    [[device]]
    name = "pi"
    count = 2                # pi1 and pi2
    board = "pi-4"           # devices of one board are equally fast; without it, the name
    speed = 12               # GFLOP/s, or by class: { conv = 12, depthwise = 5, dense = 4, other = 2 }
    overhead_ms = 0.5        # of each block of a plan, and of the tail
    memory_mb = 1000
    link = { latency_ms = 0.5, up = "100 mbit", down = "100 mbit", message_ms = 0.2, megabyte_ms = 2 }

    [orchestrator]           # without it: beside the broker, at no cost
    link = { latency_ms = 0.2, up = "1 gbit", down = "1 gbit" }

    [broker]                 # without it: no bottleneck
    rate = "1 gbit"          # in each direction

Rates are those of payload: 100 Mbit/s Ethernet carries about 94. `message_ms` and `megabyte_ms` are what handling
messages takes of the device's processor, be they sent or received; without them, nothing. Classes of arithmetic that
are not named are as fast as the slowest one that is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from legion_iot.errors import InputError
from legion_iot.model.arithmetic import ARITHMETIC_CLASSES
from legion_iot.planning.boards import LEAST_SPEED, MOST_SPEED, Speeds
from legion_iot.planning.links import MOST_BYTE, MOST_MESSAGE, Link
from legion_iot.planning.problem import Device, Group
from legion_iot.planning.routing import ORCHESTRATOR
from legion_iot.planning.samples import Samples
from legion_iot.toml_tables import check_keys, device_tables, number, numbered, parse, text, whole

MOST_DEVICES = 64
MOST_LATENCY_MS = 10_000
MOST_MESSAGE_MS, MOST_MEGABYTE_MS = MOST_MESSAGE * 1e3, MOST_BYTE * 1e9
MOST_OVERHEAD_MS = 10_000
LEAST_RATE, MOST_RATE = 1e3, 1e12  # bits per second
_UNITS = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
_RATE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?) ?(kbit|mbit|gbit)(?:/s)?", re.IGNORECASE)
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,31}")
_EXAMPLE_LINK = 'link = { latency_ms = 0.5, up = "100 mbit", down = "100 mbit" }'
_HERE = Link(0.0, math.inf, math.inf)  # of an orchestrator on the broker's machine


@dataclass(frozen=True, slots=True, eq=False)
class KnownGroup:
    """A group, and by board what each arithmetic class runs at (operations per second) and what each call costs (s).

    `samples` are what was measured, where the group is a live one.
    """

    group: Group
    speeds: Mapping[str, Speeds]
    overheads: Mapping[str, float]
    samples: Samples = field(default_factory=Samples)


def parse_device_file(content: str) -> KnownGroup:
    """The devices that TOML text describes; raises InputError with the key, and what is allowed."""
    table = parse(content)
    check_keys(table, ("device", "orchestrator", "broker"), "the file")
    devices: list[Device] = []
    speeds: dict[str, Speeds] = {}
    overheads: dict[str, float] = {}
    for position, each in enumerate(device_tables(table), 1):
        where = f"device {position}"
        made, speed, overhead = _devices(each, where)
        board = made[0].board
        if (speeds.setdefault(board, speed), overheads.setdefault(board, overhead)) != (speed, overhead):
            raise InputError(f"{where}: board {board!r} has another speed than before; give this one another board")
        devices += made
    names = [device.name for device in devices]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"two devices are called {doubled[0]!r}; give each table a name of its own")
    if len(devices) > MOST_DEVICES:
        raise InputError(f"{len(devices)} devices; a group has {MOST_DEVICES} at most")
    orchestrator = _table(table, "orchestrator", _EXAMPLE_LINK)
    check_keys(orchestrator, ("link",), "orchestrator")
    broker = _table(table, "broker", 'rate = "1 gbit"')
    check_keys(broker, ("rate",), "broker")
    group = Group(
        tuple(devices),
        _link(orchestrator, "orchestrator") if orchestrator else _HERE,
        _rate(broker, "rate", "broker") if broker else math.inf,
    )
    return KnownGroup(group, speeds, overheads)


def _devices(table: dict[str, Any], where: str) -> tuple[list[Device], Speeds, float]:
    check_keys(table, ("name", "count", "board", "speed", "overhead_ms", "memory_mb", "link"), where)
    name = _name(table, "name", where, None)
    where = f"{where} ({name})"
    board = _name(table, "board", where, name)
    memory = whole(table, "memory_mb", where, None, 1, 1 << 24)
    overhead = number(table, "overhead_ms", where, 0.0, 0, MOST_OVERHEAD_MS) / 1e3
    speeds = _speeds(table, where)
    link = _link(table, where)
    count = whole(table, "count", where, 1, 1, MOST_DEVICES)
    memory_bytes = None if memory is None else memory * 1_000_000
    return [Device(each, board, link, memory_bytes) for each in numbered(name, count)], speeds, overhead


def _name(table: Mapping[str, Any], key: str, where: str, default: str | None) -> str:
    value = text(table, key, where, default)
    if not _NAME.fullmatch(value) or value == ORCHESTRATOR:
        raise InputError(f"{where}: {key} {value!r:.60} cannot be; use up to 32 of a–z, 0–9, '.' and '-'")
    return value


def _speeds(table: Mapping[str, Any], where: str) -> Speeds:
    least, most = LEAST_SPEED / 1e9, MOST_SPEED / 1e9
    value = table.get("speed")
    if value is None:
        raise InputError(f"{where}: speed is missing; give GFLOP/s, such as speed = 12 or speed = {{ conv = 12 }}")
    if not isinstance(value, dict):
        stated = dict.fromkeys(ARITHMETIC_CLASSES, number(table, "speed", where, None, least, most))
    else:
        check_keys(value, ARITHMETIC_CLASSES, f"{where}, speed")
        stated = {name: number(value, name, f"{where}, speed", None, least, most) for name in value}
        if not stated:
            raise InputError(f"{where}: speed is empty; give GFLOP/s, such as speed = {{ conv = 12, other = 2 }}")
    return {name: stated.get(name, min(stated.values())) * 1e9 for name in ARITHMETIC_CLASSES}


def _table(table: Mapping[str, Any], key: str, example: str) -> dict[str, Any]:
    value = table.get(key, {})
    if not isinstance(value, dict) or (key in table and not value):
        raise InputError(f"{key}: is no table, or an empty one; give [{key}] with {example}")
    return value


def _link(table: Mapping[str, Any], where: str) -> Link:
    if "link" not in table:
        raise InputError(f"{where}: link is missing; give one such as {_EXAMPLE_LINK}")
    link = table["link"]
    if not isinstance(link, dict):
        raise InputError(f"{where}: link is no table; give one such as {_EXAMPLE_LINK}")
    where = f"{where}, link"
    check_keys(link, ("latency_ms", "up", "down", "message_ms", "megabyte_ms"), where)
    return Link(
        number(link, "latency_ms", where, 0.0, 0, MOST_LATENCY_MS) / 1e3,
        _rate(link, "up", where),
        _rate(link, "down", where),
        number(link, "message_ms", where, 0.0, 0, MOST_MESSAGE_MS) / 1e3,
        number(link, "megabyte_ms", where, 0.0, 0, MOST_MEGABYTE_MS) / 1e9,
    )


def _rate(table: Mapping[str, Any], key: str, where: str) -> float:
    """Bytes per second."""
    if key not in table:
        raise InputError(f'{where}: {key} is missing; give a rate such as {key} = "100 mbit"')
    value = table[key]
    found = _RATE.fullmatch(value) if isinstance(value, str) else None
    bits = float(found[1]) * _UNITS[found[2].lower()] if found else 0.0
    if not LEAST_RATE <= bits <= MOST_RATE:
        raise InputError(f'{where}: {key} is {value!r:.60}; give a rate such as "100 mbit", from 1 kbit to 1000 gbit')
    return bits / 8
