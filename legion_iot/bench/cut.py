"""`legion bench cut`: what cutting costs in time and memory, and what tiles cost beside the whole.

- Writing one sub-model of nearly the whole network, beside copying the same weight bytes from file to file.
- The peak of memory while it is cut and written, in a process of its own, beside the sub-model's size.
- All tiles of a network, run one after the other on one thread, beside the whole trunk as one sub-model, and that ratio
  beside the ratio of their floating point operations: what is left is what tiling itself costs.
- The delegate nodes of every tile: one, where the whole has one.

Times are medians over rounds in which all candidates take turns, so that the machine's drift hits them alike.
"""

from __future__ import annotations

import itertools
import multiprocessing
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from legion_iot import zoo
from legion_iot.bench.report import BenchReport, Check
from legion_iot.bench.stitching import Tiling
from legion_iot.errors import AgentError
from legion_iot.interruption import temporary_directory
from legion_iot.model import tflite
from legion_iot.model.blocks import Network, divide
from legion_iot.model.cut import SubModel, cut_tile, tile_flops
from legion_iot.model.geometry import Region
from legion_iot_agent.executor import seeded_inputs
from legion_iot_agent.interpreter import Interpreter, runtime_info

LARGE = "vgg16"  # 59 MB of weights in its trunk
NETWORKS = ("vgg16", "resnet18", "mobilenet-v2")
TILINGS = {"2x2": Tiling.even(2, 2), "1x4": Tiling.even(1, 4)}
BLOCKS = 3
WRITING_ROUNDS = 25
LEAST_ROUNDS = 6
CHILD_TIMEOUT = 60.0  # seconds

Progress = Callable[[str, float | None], None]


def run(quick: bool, progress: Progress) -> BenchReport:
    """Measure all of it; `quick` takes fewer rounds. Raises DownloadError, ModelError or AgentError."""
    seconds = 4.0 if quick else 15.0
    progress(f"cutting {LARGE}", None)
    writing = _writing(zoo.get(LARGE, progress).path)
    rows, checks = [writing[0]], list(writing[1])
    for name, (label, tiling) in itertools.product(NETWORKS, TILINGS.items()):
        progress(f"running {name} as {label} tiles", None)
        row = _tiles(divide(tflite.open_file(zoo.get(name, progress).path)), tiling, seconds)
        rows.append({"what": f"{name} {label}", **row})
        checks.append(Check.within(f"{name} {label}: time ratio / FLOP ratio", row["cost"], "×", 0.9, 1.1))
        checks.append(Check.equal(f"{name} {label}: delegate nodes of a tile", row["delegates"], "nodes", 1))
    runtime = runtime_info()
    setting = {"runtime": f"{runtime.name} {runtime.version}", "threads": 1, "blocks": BLOCKS}
    return BenchReport("cut", setting, rows, checks)


def _whole_trunk(network: Network) -> SubModel:
    """The whole trunk as one tile."""
    ops = network.block_ops(0, len(network.units) - 1)
    return cut_tile(network, ops, {t: Region.whole(network.graph.tensors[t]) for t in network.makes(ops)})


# --- writing ---


def _writing(path: Path) -> tuple[dict[str, Any], list[Check]]:
    network = divide(tflite.open_file(path))
    sub = _whole_trunk(network)
    weights = [tensor.data for tensor in sub.graph.tensors if tensor.data is not None]
    cuts, copies = [], []
    with temporary_directory("legion-bench-") as directory:
        for number in range(WRITING_ROUNDS + 1):
            target = directory / f"cut-{number}.tflite"
            start = time.perf_counter()
            tflite.write_file(_whole_trunk(network).graph, target)
            cut = time.perf_counter() - start
            size = target.stat().st_size
            target.unlink()
            start = time.perf_counter()
            with target.open("wb") as file:
                file.writelines(data.data for data in weights)
            copy = time.perf_counter() - start
            target.unlink()
            if number:  # the first round reads the source from disk
                cuts.append(cut)
                copies.append(copy)
    growth = _peak_growth(path)
    cut_ms, copy_ms = statistics.median(cuts) * 1e3, statistics.median(copies) * 1e3
    row = {
        "what": f"{path.stem}: cut and write",
        "bytes": size,
        "cut_ms": cut_ms,
        "copy_ms": copy_ms,
        "peak_bytes": growth,
    }
    return row, [
        Check.at_most("cutting / copying the weight bytes", cut_ms / copy_ms, "×", 1.5),
        Check.at_most("peak extra memory / sub-model", growth / size, "×", 1.3),
    ]


def _peak_growth(path: Path) -> int:
    """Bytes by which the peak of resident memory grows while the trunk is read, cut and written, in a new process."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    with temporary_directory("legion-bench-") as directory:
        child = context.Process(target=_measure_peak, args=(theirs, path, directory))
        child.start()
        theirs.close()
        try:
            if not ours.poll(CHILD_TIMEOUT):
                raise AgentError(f"the memory measurement did not end within {CHILD_TIMEOUT:g} s; is the machine busy?")
            return int(ours.recv())
        except EOFError:
            raise AgentError("the memory measurement ended early; run the bench again") from None
        finally:
            child.kill()
            child.join()


def _measure_peak(pipe: Connection, path: Path, directory: Path) -> None:
    # Modules that are loaded on first use shall not count.
    network = divide(tflite.open_file(path))
    first = network.units[0]
    whole = Region.whole(network.graph.tensors[first.reference])
    tflite.write(cut_tile(network, first.ops, {first.reference: whole}).graph)
    del network, first
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew (proc(5))
    tflite.write_file(_whole_trunk(divide(tflite.open_file(path))).graph, directory / "cut.tflite")
    pipe.send(_resident("VmHWM") - before)


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) << 10
    raise AgentError(f"this system does not tell {field}; run the bench on Linux")


# --- running ---


def _tiles(network: Network, tiling: Tiling, seconds: float) -> dict[str, Any]:
    """Times, operations and delegate nodes of all tiles beside the whole trunk's."""
    with temporary_directory("legion-bench-") as directory:
        whole = _Loaded(_whole_trunk(network), directory / "whole.tflite")
        subs, flops = _tile_models(network, tiling)
        tiles = [_Loaded(sub, directory / f"{i}.tflite") for i, sub in enumerate(subs)]
        whole_times: list[float] = []
        tile_times: list[float] = []
        started = time.perf_counter()
        while len(whole_times) < LEAST_ROUNDS or time.perf_counter() - started < seconds:
            whole_times.append(whole.run())
            tile_times.append(sum(tile.run() for tile in tiles))
        del whole_times[0], tile_times[0]  # the first runs allocate
    # Of each round: what else the machine does then slows both down.
    time_ratio = statistics.median(t / w for t, w in zip(tile_times, whole_times, strict=True))
    flop_ratio = flops / network.flops
    return {
        "tiles": len(tiles),
        "whole_ms": statistics.median(whole_times) * 1e3,
        "tiles_ms": statistics.median(tile_times) * 1e3,
        "time_ratio": time_ratio,
        "flop_ratio": flop_ratio,
        "cost": time_ratio / flop_ratio,
        "delegates": max(tile.delegates for tile in tiles) if whole.delegates == 1 else 1,
    }


def _tile_models(network: Network, tiling: Tiling) -> tuple[list[SubModel], int]:
    """The sub-models of every tile of every block, and their floating point operations."""
    units = len(network.units)
    bounds = [round(i * units / BLOCKS) for i in range(BLOCKS + 1)]
    subs, flops = [], 0
    for first, end in itertools.pairwise(bounds):
        ops = network.block_ops(first, end - 1)
        made = network.makes(ops)
        for regions in zip(*(tiling.regions(network.graph.tensors[t]) for t in made), strict=True):
            wanted = {t: region for t, region in zip(made, regions, strict=True) if region.area}
            if wanted:
                subs.append(cut_tile(network, ops, wanted))
                flops += tile_flops(network, ops, wanted)
    return subs, flops


class _Loaded:
    """A sub-model with an input, ready to run."""

    def __init__(self, sub: SubModel, path: Path) -> None:
        tflite.write_file(sub.graph, path)
        self._interpreter = Interpreter(path)
        self._inputs = seeded_inputs(sub.graph)
        self.delegates = self._interpreter.delegate_nodes()

    def run(self) -> float:
        """Seconds of one run."""
        start = time.perf_counter()
        self._interpreter.run(self._inputs)
        return time.perf_counter() - start
