"""`legion bench wire`: how small real feature maps get without loss, how fast, and on which links that pays.

The maps are those between the units of networks of the zoo: VGG-16 (ReLU), MobileNet-V2 (ReLU6, linear bottlenecks) and
YOLOv2 (leaky ReLU) with seeded weights, and, unless it is to be quick, the trained HED and EfficientNet-Lite0 on the
demo's picture. Each is divided into fragments as it would travel, as float32, float16 and int8. Each fragment is
packed and unpacked by what the project uses (`wire.zeros`), by zlib and, where the package `cramjam` is installed, by
lz4, zstd, and zstd on bytes in the order of their significance. A fragment that does not get smaller counts as it is.

The same fragments are turned into float16 and back, by what the project uses (`wire.half`) and by numpy's casts.

Rates are bytes of fragments, before packing, and of float32, before and after float16, per second of one thread's
processor time.
"""

from __future__ import annotations

import contextlib
import importlib
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from legion_iot import zoo
from legion_iot.bench.model_file import open_network, read_inputs
from legion_iot.bench.report import BenchReport, Check
from legion_iot.bench.stitching import Array, Bench
from legion_iot.interruption import temporary_directory
from legion_iot.model.geometry import Interval, Region
from legion_iot.runtime.packing import pays
from legion_iot.wire import quantised, zeros
from legion_iot.wire.dtypes import EXACT, WIRES
from legion_iot.wire.half import from_half, to_half
from legion_iot.wire.messages import Fragment
from legion_iot.wire.tensors import LEAST_PIECE, as_map, bounds, fragments

QUICK, FULL = ("vgg16", "mobilenet-v2", "yolov2"), ("hed", "efficientnet-lite0")
CHECKED = "vgg16"
MAPS = 6  # of each network
MOST_BYTES = 4 << 20  # of each map, in its own fragments
MBIT = (10, 100, 1000, 8000)  # the last is a loopback's
SHARES = (1.0, 0.2)  # of a core like this one
OURS = zeros.CODEC
OUR_CAST = "half"

Progress = Callable[[str, float | None], None]


@dataclass(frozen=True, slots=True)
class _Codec:
    """Both ways, of a body whose elements have so many bytes; `unpack` is told the size."""

    pack: Callable[[bytes, int], bytes | None]
    unpack: Callable[[bytes, int, int], Any]


def run(quick: bool, progress: Progress) -> BenchReport:
    """Measure all of it. Raises DownloadError or ModelError."""
    codecs = _codecs()
    rows: list[dict[str, Any]] = []
    casts: list[dict[str, Any]] = []
    for name in QUICK if quick else QUICK + FULL:
        progress(f"running {name}", None)
        maps = _maps(name, progress)
        for wire in WIRES:
            progress(f"packing maps of {name} as {wire}", None)
            bodies, element_bytes = _bodies(maps, wire)
            rows += [_row(name, wire, title, codec, bodies, element_bytes) for title, codec in codecs.items()]
        casts += _casts(name, maps)
    by_key = {(row["network"], row["wire"], row["codec"]): row for row in rows}
    decisions = [_decision(by_key[CHECKED, "float32", OURS], share) for share in SHARES]
    setting = {
        "codecs": ", ".join(codecs) + ("" if "lz4" in codecs else " (lz4 and zstd: pip install cramjam)"),
        "maps": MAPS,
        "bytes": sum(row["bytes"] for row in rows) // len(codecs),
    }
    return BenchReport(
        "wire", setting, [*rows, *decisions, *casts], [*_checks(by_key, decisions), *_cast_checks(casts)]
    )


def lines(report: BenchReport) -> Iterator[str]:
    """The figures of the report for people, at most 80 columns wide."""
    yield f"{'NETWORK':<18} {'WIRE':<8} {'CODEC':<14} {'RATIO':>6} {'PACKS MB/S':>11} {'UNPACKS MB/S':>13}"
    for row in report.rows:
        if "codec" in row:
            unpacks = row["unpacks_mb_per_s"]
            yield (
                f"{row['network']:<18} {row['wire']:<8} {row['codec']:<14} {row['ratio']:>6.2f} "
                f"{row['packs_mb_per_s']:>11.0f} {'-' if unpacks is None else f'{unpacks:.0f}':>13}"
            )
    for row in report.rows:
        if "share" in row:
            found = ", ".join("yes" if row[f"{mbit} Mbit/s"] else "no" for mbit in MBIT)
            yield f"zeros pays with {row['share']:g} of a core up to {row['most_mbit']:.0f} Mbit/s"
            yield f"  (of {', '.join(map(str, MBIT))} Mbit/s: {found})"
    yield f"{'NETWORK':<18} {'FLOAT16 BY':<12} {'MADE MB/S':>10} {'READ MB/S':>10}"
    for row in report.rows:
        if "cast" in row:
            made, read = row["makes_mb_per_s"], row["reads_mb_per_s"]
            yield f"{row['network']:<18} {row['cast']:<12} {made:>10.0f} {read:>10.0f}"


def _maps(name: str, progress: Progress) -> list[Array]:
    """Some of the maps between a network's units, (rows, columns, channels); of trained ones, on the demo's picture."""
    network = open_network(zoo.get(name, progress).path)
    image = zoo.demo_picture(progress) if name in FULL else None
    between = [unit.reference for unit in network.units[:-1]]
    chosen = between[:: max(1, len(between) // MAPS)]
    with temporary_directory("legion-bench-") as directory:
        _, values = Bench(network, directory).run_whole(read_inputs(network.graph, image, 0), chosen)
    return [as_map(values[tensor]) for tensor in chosen]


def _bodies(maps: Sequence[Array], wire: str) -> tuple[list[bytes], int]:
    """The bodies of the maps' fragments, and the bytes of their elements."""
    bodies: list[bytes] = []
    for values in maps:
        whole = Region(Interval(0, values.shape[0]), Interval(0, values.shape[1]))
        asked = "" if wire == EXACT else wire
        header = Fragment("", 1, 1, 1, 0, bounds(whole), values.shape[2], str(values.dtype), asked)
        size = 0
        for piece in fragments(header, values, whole):
            if piece.header.wire != asked:
                continue  # what int8 cannot hold is measured as float32 already
            bodies.append(bytes(piece.body))
            size += len(piece.body)
            if size >= MOST_BYTES:
                break
    return bodies, quantised.ELEMENT_BYTES.get(wire, 4)


def _row(
    network: str, wire: str, title: str, codec: _Codec, bodies: Sequence[bytes], element_bytes: int
) -> dict[str, Any]:
    start = time.thread_time()
    packed = [codec.pack(body, element_bytes) for body in bodies]
    packing = time.thread_time() - start
    smaller = [(new, old) for new, old in zip(packed, bodies, strict=True) if new is not None and len(new) < len(old)]
    start = time.thread_time()
    back = [codec.unpack(new, element_bytes, len(old)) for new, old in smaller]
    unpacking = time.thread_time() - start
    before, unpacked = sum(map(len, bodies)), sum(len(old) for _, old in smaller)
    after = before - unpacked + sum(len(new) for new, _ in smaller)
    return {
        "network": network,
        "wire": wire,
        "codec": title,
        "bytes": before,
        "ratio": before / after,
        "packed": unpacked / before,
        "exact": all(bytes(got) == old for got, (_, old) in zip(back, smaller, strict=True)),
        "packs_mb_per_s": before / 1e6 / max(packing, 1e-9),
        "unpacks_mb_per_s": unpacked / 1e6 / max(unpacking, 1e-9) if smaller else None,
    }


def _casts(network: str, maps: Sequence[Array]) -> list[dict[str, Any]]:
    """How fast float32 maps are made float16, and read again; in pieces that travel, each way's turns one by one."""
    ways: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
        OUR_CAST: (to_half, from_half),
        "numpy": (lambda values: values.astype("<f2"), lambda values: values.astype(np.float32)),
    }
    taken = {title: [0.0, 0.0] for title in ways}
    equal, size = True, 0
    for values in maps:
        flat = np.ascontiguousarray(values).reshape(-1)[: MOST_BYTES // 4]
        size += flat.nbytes
        for start in range(0, flat.size, LEAST_PIECE // 2):
            part = flat[start : start + LEAST_PIECE // 2]
            found = []
            for title, (make, read) in ways.items():
                begun = time.thread_time()
                made = make(part)
                half_way = time.thread_time()
                back = read(made)
                taken[title][0] += half_way - begun
                taken[title][1] += time.thread_time() - half_way
                found.append((made.tobytes(), back.tobytes()))
            equal &= found[0] == found[1]
    return [
        {
            "network": network,
            "cast": title,
            "bytes": size,
            "exact": equal,
            "makes_mb_per_s": size / 1e6 / max(making, 1e-9),
            "reads_mb_per_s": size / 1e6 / max(reading, 1e-9),
        }
        for title, (making, reading) in taken.items()
    ]


def _cast_checks(rows: Sequence[Mapping[str, Any]]) -> list[Check]:
    seconds = {
        row["cast"]: 1 / row["makes_mb_per_s"] + 1 / row["reads_mb_per_s"] for row in rows if row["network"] == CHECKED
    }
    return [
        Check.equal("float16 as numpy's casts have it, to the bit", _part(row["exact"] for row in rows), "×", 1),
        Check.at_least(
            f"{CHECKED}: float16 there and back / by numpy's casts", seconds["numpy"] / seconds[OUR_CAST], "×", 1.5
        ),
    ]


def _decision(row: Mapping[str, Any], share: float) -> dict[str, Any]:
    """On which links the orchestrator has maps packed between two devices of that share of this core."""
    packs, unpacks = (row[f"{what}_mb_per_s"] * 1e6 * share for what in ("packs", "unpacks"))
    low, high = 1.0, 1e12
    while high / low > 1.001:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if pays(middle, zeros.LEAST_RATIO, packs, unpacks) else (low, middle)
    found = {f"{mbit} Mbit/s": pays(mbit * 1e6 / 8, zeros.LEAST_RATIO, packs, unpacks) for mbit in MBIT}
    return {"share": share, "most_mbit": low * 8 / 1e6, **found}


def _checks(by_key: Mapping[tuple[str, str, str], dict[str, Any]], decisions: Sequence[dict[str, Any]]) -> list[Check]:
    ours = by_key[CHECKED, "float32", OURS]
    others = [row for key, row in by_key.items() if key[:2] == (CHECKED, "float32") and key[2] != OURS]
    first, last = f"{MBIT[0]} Mbit/s", f"{MBIT[-1]} Mbit/s"
    return [
        Check.equal("fragments that come back to the bit", _part(row["exact"] for row in by_key.values()), "×", 1),
        Check.at_least(f"{CHECKED} float32: smaller by zeros", ours["ratio"], "×", 1.5),
        Check.at_least(
            f"{CHECKED} float32: ratio / best other", ours["ratio"] / max(row["ratio"] for row in others), "×", 0.95
        ),
        Check.at_least(
            f"{CHECKED} float32: packs / fastest other",
            ours["packs_mb_per_s"] / max(row["packs_mb_per_s"] for row in others), "×", 2,
        ),
        *(
            Check.equal(f"{first}: pays with {row['share']:g} of a core", float(row[first]), "", 1) for row in decisions
        ),
        *(Check.equal(f"{last}: pays with {row['share']:g} of a core", float(row[last]), "", 0) for row in decisions),
    ]  # fmt: skip


def _part(found: Iterator[bool]) -> float:
    values = list(found)
    return sum(values) / len(values)


def _codecs() -> dict[str, _Codec]:
    found = {
        OURS: _Codec(
            lambda body, size: zeros.pack(memoryview(body), size),
            lambda packed, size, total: zeros.unpack(memoryview(packed), size, total),
        ),
        "zlib 1": _Codec(
            lambda body, size: zlib.compress(body, 1), lambda packed, size, total: zlib.decompress(packed)
        ),
    }
    with contextlib.suppress(ImportError):
        cramjam = importlib.import_module("cramjam")
        found |= {
            "lz4": _Codec(
                lambda body, size: cramjam.lz4.compress_block(body, store_size=False),
                lambda packed, size, total: cramjam.lz4.decompress_block(packed, output_len=total),
            ),
            "zstd 1": _Codec(
                lambda body, size: cramjam.zstd.compress(body, 1),
                lambda packed, size, total: cramjam.zstd.decompress(packed),
            ),
            "shuffled zstd": _Codec(
                lambda body, size: cramjam.zstd.compress(_by_significance(body, size), 1),
                lambda packed, size, total: _by_element(bytes(cramjam.zstd.decompress(packed)), size),
            ),
        }
    return found


def _by_significance(body: bytes, element_bytes: int) -> bytes:
    """All first bytes of the elements, then all second ones, and so on."""
    return np.frombuffer(body, np.uint8).reshape(-1, element_bytes).T.tobytes()


def _by_element(body: bytes, element_bytes: int) -> bytes:
    return np.frombuffer(body, np.uint8).reshape(element_bytes, -1).T.tobytes()
