"""A trace: what tiles of every block of some networks really took, on devices of some kinds.

Times are of the processor, one thread, at this machine's full speed. A device of a kind is given a share of that
processor, so it takes 1/share as long; that is how `legion lab` and `legion-agent --cpu-share` slow a device down.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from legion_iot.errors import InputError
from legion_iot.files import replace_file

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of device: its kernels, and the share of the recording machine's processor it has."""

    name: str
    board: str
    xnnpack: bool
    cpu_share: float


KINDS = (Kind("F", "xnnpack at 0.18 cores", True, 0.18), Kind("O", "builtin kernels at 0.30 cores", False, 0.30))


@dataclass(frozen=True, slots=True)
class Sample:
    """Runs of the tile that makes rows `start` to `stop`, half open, of a block's reference map, in microseconds.

    Of several runs the first found caches and memory cold.
    """

    start: int
    stop: int
    runs: tuple[int, ...]


@dataclass(slots=True)
class KindRecord:
    """One network on one kind of device: the whole model, its tail, and tiles by (first unit, last unit)."""

    whole: tuple[int, ...] = ()
    tail: tuple[int, ...] = ()
    blocks: dict[tuple[int, int], list[Sample]] = field(default_factory=dict)


@dataclass(slots=True)
class Trace:
    """Records by network and kind; `origin` tells where and when they were made."""

    origin: dict[str, Any] = field(default_factory=dict)
    networks: dict[str, dict[str, KindRecord]] = field(default_factory=dict)


def save(trace: Trace, path: Path) -> None:
    """Write the trace, gzipped JSON, whole or not at all. Raises InputError where the disk refuses."""
    content = {
        "schema": SCHEMA,
        "origin": trace.origin,
        "networks": {
            name: {kind: _to_json(record) for kind, record in kinds.items()} for name, kinds in trace.networks.items()
        },
    }
    data = gzip.compress(json.dumps(content, separators=(",", ":")).encode(), mtime=0)
    try:
        replace_file(path, data)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); free the disk or choose another place"
        ) from None


def load(path: Path) -> Trace:
    """Read a trace. Raises InputError where the file is none."""
    try:
        content = json.loads(gzip.decompress(path.read_bytes()))
        if content["schema"] != SCHEMA:
            raise InputError(f"{path}: is a trace of schema {content['schema']}, not {SCHEMA}; record it again")
        networks = {
            name: {kind: _from_json(record) for kind, record in kinds.items()}
            for name, kinds in content["networks"].items()
        }
        return Trace(dict(content["origin"]), networks)
    except OSError as error:
        reason = error.strerror or "it is not gzipped"
        raise InputError(f"{path}: cannot be read ({reason}); record one: legion bench planner --record FILE") from None
    except (EOFError, KeyError, TypeError, ValueError, AttributeError):
        raise InputError(f"{path}: is no trace; record one: legion bench planner --record FILE") from None


def _to_json(record: KindRecord) -> dict[str, Any]:
    blocks = {
        f"{first}-{last}": [[sample.start, sample.stop, *sample.runs] for sample in samples]
        for (first, last), samples in record.blocks.items()
    }
    return {"whole": list(record.whole), "tail": list(record.tail), "blocks": blocks}


def _from_json(content: Mapping[str, Any]) -> KindRecord:
    blocks = {}
    for key, samples in content["blocks"].items():
        first, last = map(int, key.split("-"))
        blocks[first, last] = [Sample(start, stop, _runs(runs)) for start, stop, *runs in samples]
    return KindRecord(_runs(content["whole"]), _runs(content["tail"]) if content["tail"] else (), blocks)


def _runs(values: Sequence[Any]) -> tuple[int, ...]:
    runs = tuple(int(value) for value in values)
    if not runs or min(runs) <= 0:
        raise ValueError("times are positive")
    return runs
