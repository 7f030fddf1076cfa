"""Prove on this machine that a network can be cut: tiles of it, stitched, equal the whole model.

One trial chooses blocks and a tiling for each, runs every tile on the stitched maps of the blocks before, and compares
every tensor at every cut, and every output, with what the whole model computes. The bound is zero: on one kernel path
float networks too have to agree to the bit. Only without XNNPACK is a bound above zero used for float tensors: the
builtin kernels order their sums by the size of the matrices they are given.

With a wire dtype other than float32 the question is another one: every map between blocks, and to the tail, is sent and
received as fragments of that form, whole, as if all of it had to travel; a group keeps the larger part where it was
made. Then only outputs are compared, and the bound is `wire.dtypes.OUTPUT_BOUNDS`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from legion_iot.bench.model_file import open_network, read_inputs
from legion_iot.bench.stitching import Array, Bench, Tiling, over_the_wire
from legion_iot.errors import ModelError
from legion_iot.interruption import temporary_directory
from legion_iot.model.blocks import Network
from legion_iot.model.comparison import difference, same_bits
from legion_iot.model.description import describe
from legion_iot.orchestrator.answers import top_class
from legion_iot.wire.dtypes import EXACT, OUTPUT_BOUNDS
from legion_iot_agent.interpreter import runtime_info

BUILTIN_FLOAT_BOUND = 1e-4  # of the largest magnitude of the tensor
TRIALS = 4
MOST_BLOCKS = 6  # of a sampled trial
MOST_TILES = 5  # per axis of a sampled trial


@dataclass(frozen=True, slots=True)
class Trial:
    """Blocks as the unit each begins with, closed by the number of units; and a tiling per block."""

    bounds: tuple[int, ...]
    tilings: tuple[Tiling, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """What to verify. `tiling` is (rows, columns) of tiles, None for a seeded sample over blocks and tilings; `blocks`
    is their number, None for one per unit, unless `cuts` says where each begins, closed by the number of units. Without
    an image the input is seeded values."""

    path: Path
    input_shape: str = ""
    image: Path | None = None
    seed: int = 0
    tiling: tuple[int, int] | None = None
    blocks: int | None = None
    xnnpack: bool = True
    wire: str = EXACT
    cuts: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """How the stitched tensors compare with the whole model's.

    Differences are the largest over all compared tensors; the relative one is to the largest magnitude of its tensor.
    `bound` is the relative difference that is allowed. `where` names the first tensor that fails it. `units` counts
    those of the trunk and the ops of the tail. `wire` is how maps travelled; `top_class_stays` says of a classifier
    whether its best class was the whole model's in every trial, and is None for other models.
    """

    ok: bool
    exact: bool
    max_abs_error: float
    max_rel_error: float
    bound: float
    units: int
    trunk_units: int
    trunk_ended_by: str | None
    live_tensors_max: int
    tilings_tried: int
    tensors_compared: int
    runtime: str
    kernel_path: str
    where: str
    wire: str = EXACT
    top_class_stays: bool | None = None


Progress = Callable[[str, float | None], None]


def sampled_trials(network: Network, seed: int, count: int = TRIALS) -> list[Trial]:
    """A seeded sample over blocks and tilings: uneven strips and grids, one row high and empty ones among them."""
    random = np.random.default_rng(seed)
    units = len(network.units)
    if not units:
        return [Trial((0,), ())]
    trials = []
    for number in range(count):
        blocks = int(random.integers(1, min(MOST_BLOCKS, units) + 1))
        inner = (
            sorted(int(i) for i in random.choice(np.arange(1, units), blocks - 1, replace=False)) if blocks > 1 else []
        )
        # Strips first, since that is how groups run; then grids.
        tilings = tuple(
            Tiling(_fractions(random, MOST_TILES), _fractions(random, MOST_TILES - 2) if number % 2 else (0.0, 1.0))
            for _ in range(blocks)
        )
        trials.append(Trial((0, *inner, units), tilings))
    return trials


def _fractions(random: np.random.Generator, most: int) -> tuple[float, ...]:
    inner = sorted(float(f) for f in random.random(int(random.integers(0, most))))
    return (0.0, *inner, 1.0)


def asked_trial(network: Network, tiling: Tiling, blocks: int | None) -> Trial:
    """One trial with one tiling for all blocks; `blocks` of about equal numbers of units, None for one per unit."""
    units = len(network.units)
    if not units:
        return Trial((0,), ())
    count = units if blocks is None else min(blocks, units)
    bounds = tuple(round(i * units / count) for i in range(count + 1))
    return Trial(bounds, (tiling,) * count)


def verify_file(question: Question, progress: Progress) -> Verdict:
    """Open the model, choose trials, and verify; raises UsageError, InputError or ModelError."""
    network = open_network(question.path, question.input_shape)
    inputs = read_inputs(network.graph, question.image, question.seed)
    if question.cuts:
        trials = [Trial(bounds, (Tiling.even(1),) * (len(bounds) - 1)) for bounds in question.cuts]
    elif question.tiling is None:
        trials = sampled_trials(network, question.seed)
    else:
        trials = [asked_trial(network, Tiling.even(*question.tiling), question.blocks)]
    try:
        return verify(network, inputs, trials, question.xnnpack, progress, question.wire)
    except ModelError as error:
        raise ModelError(f"{question.path}: {error}") from None


def verify(
    network: Network,
    inputs: Sequence[Array],
    trials: Sequence[Trial],
    xnnpack: bool = True,
    progress: Progress = lambda text, fraction: None,
    wire: str = EXACT,
) -> Verdict:
    """Run the trials and compare; raises ModelError where the network cannot be run at all."""
    comparison = _Comparison(network, xnnpack, wire)
    with temporary_directory("legion-verify-") as directory:
        bench = Bench(network, directory, xnnpack)
        progress("running the whole model", None)
        outputs, _ = bench.run_whole(inputs)
        watched = sorted({t for trial in trials for ops in _blocks(network, trial) for t in network.makes(ops)})
        repeated, expected = bench.run_whole(inputs, watched)
        # The tensors at the cuts are read from a second run, so that run has to be the same computation.
        for tensor, first, second in zip(network.graph.outputs, outputs, repeated, strict=True):
            comparison.add(tensor, second, first)
        for number, trial in enumerate(trials):
            progress(f"running tiles, trial {number + 1} of {len(trials)}", number / len(trials))
            values = dict(zip(network.graph.inputs, inputs, strict=True))
            made = dict(values)  # as it is where it was made; `values` as it is where it is needed
            for ops, tiling in zip(_blocks(network, trial), trial.tilings, strict=True):
                maps = bench.run_block(ops, tiling, values)
                made.update(maps)
                values.update({tensor: over_the_wire(value, wire) for tensor, value in maps.items()})
                for tensor, value in maps.items() if wire == EXACT else ():
                    comparison.add(tensor, value, expected[tensor])
            made.update(bench.run_tail(values))
            comparison.add_outputs([made[tensor] for tensor in network.graph.outputs], outputs)
    return comparison.verdict(len(trials))


def _blocks(network: Network, trial: Trial) -> list[tuple[int, ...]]:
    return [network.block_ops(first, end - 1) for first, end in itertools.pairwise(trial.bounds) if first < end]


class _Comparison:
    """Collects the differences of pairs of tensors."""

    def __init__(self, network: Network, xnnpack: bool, wire: str) -> None:
        self._network = network
        self._wire = wire
        self._description = describe(network.graph)
        self._top_class_stays: bool | None = None
        self._xnnpack = xnnpack
        self._exact, self._ok = True, True
        self._abs, self._rel = 0.0, 0.0
        self._where = ""
        self._count = 0

    def add(self, tensor: int, value: Array, expected: Array) -> None:
        self._count += 1
        if same_bits(value, expected):
            return
        self._exact = False
        absolute, relative = difference(value, expected)
        self._abs, self._rel = max(self._abs, absolute), max(self._rel, relative)
        if 0 < self._bound(expected) >= relative:
            return
        self._ok = False
        self._where = self._where or self._network.graph.tensors[tensor].name

    def add_outputs(self, values: Sequence[Array], expected: Sequence[Array]) -> None:
        """The network's outputs, of a trial and of the whole model."""
        graph = self._network.graph
        for tensor, value, output in zip(graph.outputs, values, expected, strict=True):
            self.add(tensor, value, output)
        theirs = top_class(graph, self._description, expected)
        if theirs is not None:
            same = top_class(graph, self._description, values) == theirs
            self._top_class_stays = same and self._top_class_stays is not False
            self._ok = self._ok and same

    def _bound(self, expected: Array) -> float:
        if self._wire != EXACT:
            return OUTPUT_BOUNDS[self._wire]
        return 0.0 if self._xnnpack or expected.dtype.kind != "f" else BUILTIN_FLOAT_BOUND

    def verdict(self, trials: int) -> Verdict:
        runtime = runtime_info(self._xnnpack)
        network = self._network
        return Verdict(
            ok=self._ok,
            exact=self._exact,
            max_abs_error=self._abs,
            max_rel_error=self._rel,
            bound=self._bound(np.empty(0, np.float32)),
            units=len(network.units) + len(network.tail),
            trunk_units=len(network.units),
            trunk_ended_by=network.ended_by or None,
            live_tensors_max=max((len(unit.live) for unit in network.units), default=0),
            where=self._where,
            tilings_tried=trials,
            tensors_compared=self._count,
            runtime=f"{runtime.name} {runtime.version}",
            kernel_path=runtime.kernel_path,
            wire=self._wire,
            top_class_stays=self._top_class_stays,
        )
