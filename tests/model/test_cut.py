"""Tiles stitched together equal the whole model, bit for bit: random networks, cuts and tilings."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from legion_iot.bench.stitching import Array, Bench, Tiling
from legion_iot.model import geometry
from legion_iot.model.blocks import Network, divide
from legion_iot.model.geometry import Interval, Need
from legion_iot_agent.executor import seeded_inputs

from .random_networks import RandomNetwork

EXAMPLES = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

fractions = st.lists(st.floats(0, 1, allow_nan=False), max_size=3).map(lambda inner: (0.0, *sorted(inner), 1.0))
tilings = st.builds(Tiling, fractions, fractions)


def stitched(
    bench: Bench, inputs: Sequence[Array], cuts: Sequence[int], block_tilings: Sequence[Tiling]
) -> list[Array]:
    """The network's outputs, block after block, each from its own tiles and on the stitched maps before it."""
    network = bench.network
    values = dict(zip(network.graph.inputs, inputs, strict=True))
    bounds = [0, *sorted({cut % len(network.units) for cut in cuts} - {0}), len(network.units)]
    for number, (first, end) in enumerate(itertools.pairwise(bounds)):
        tiling = block_tilings[number % len(block_tilings)]
        values.update(bench.run_block(network.block_ops(first, end - 1), tiling, values))
    return [values[tensor] for tensor in network.graph.outputs]


def same_bits(parts: Sequence[Array], whole: Sequence[Array]) -> bool:
    return all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in zip(parts, whole, strict=True))


@pytest.mark.parametrize("dtype", ["float32", "int8", "uint8"])
@EXAMPLES
@given(
    seed=st.integers(0, 2**32),
    cuts=st.lists(st.integers(0, 100), max_size=3),
    block_tilings=st.lists(tilings, min_size=1, max_size=3),
)
def test_stitched_tiles_equal_the_whole_model(
    tmp_path: Path, dtype: str, seed: int, cuts: list[int], block_tilings: list[Tiling]
) -> None:
    network = divide(RandomNetwork(seed, dtype).graph())
    assert not network.tail, network.ended_by
    bench = Bench(network, tmp_path)
    inputs = seeded_inputs(network.graph, seed)
    whole, _ = bench.run_whole(inputs)
    assert same_bits(stitched(bench, inputs, cuts, block_tilings), whole)


def test_builtin_kernels_agree_to_rounding(tmp_path: Path) -> None:
    """Without XNNPACK, float sums are ordered by the sizes of the matrices, so tiles agree to rounding only."""
    for seed in range(15):
        network = divide(RandomNetwork(seed, "float32").graph())
        bench = Bench(network, tmp_path, xnnpack=False)
        inputs = seeded_inputs(network.graph, seed)
        whole, _ = bench.run_whole(inputs)
        tiling = Tiling((0.0, 0.3, 0.35, 1.0), (0.0, 0.6, 1.0))
        for part, expected in zip(stitched(bench, inputs, (len(network.units) // 2,), [tiling]), whole, strict=True):
            if expected.dtype == np.float32:
                np.testing.assert_allclose(part, expected, rtol=1e-4, atol=1e-4)


def test_one_row_tiles_and_grids_of_single_pixels(tmp_path: Path) -> None:
    for seed in range(4):
        network = divide(RandomNetwork(seed, "float32", ops=6).graph())
        bench = Bench(network, tmp_path)
        inputs = seeded_inputs(network.graph, seed)
        whole, _ = bench.run_whole(inputs)
        assert same_bits(stitched(bench, inputs, (), [Tiling.even(31)]), whole), seed
        assert same_bits(stitched(bench, inputs, (2,), [Tiling.even(7, 9)]), whole), seed


def test_without_the_halo_the_stitched_result_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: windows that get zeros in place of their neighbours' rows."""
    network = divide(_plain_network())
    bench = Bench(network, tmp_path)
    inputs = seeded_inputs(network.graph, 1)
    whole, _ = bench.run_whole(inputs)
    assert same_bits(stitched(bench, inputs, (), [Tiling.even(3)]), whole)
    honest = geometry.Window.need

    def without_halo(self: geometry.Window, asked: Interval) -> Need:
        need = honest(self, asked)
        own = Interval(self.stride * asked.start, min(self.stride * asked.stop, self.size))
        source = need.source.intersection(own)
        if not len(source):
            return need
        before = need.before + source.start - need.source.start
        after = need.after + need.source.stop - source.stop
        return dataclasses.replace(need, source=source, before=before, after=after)

    monkeypatch.setattr(geometry.Window, "need", without_halo)
    assert not same_bits(stitched(bench, inputs, (), [Tiling.even(3)]), whole)
    assert same_bits(stitched(bench, inputs, (), [Tiling.even(1)]), whole)


def _plain_network() -> geometry.Graph:
    network = RandomNetwork(0, "float32", ops=0)
    source = network.maps[0]
    for _ in range(3):
        window = {
            "padding": 0, "stride_h": 1, "stride_w": 1, "dilation_h_factor": 1, "dilation_w_factor": 1,
            "fused_activation_function": 1,
        }  # fmt: skip
        weights = network._constant(np.random.default_rng(2).standard_normal((4, 3, 3, source.channels)).astype("f4"))
        bias = network._constant(np.zeros(4, np.float32))
        result = network._map(source.height, source.width, 4, "float32")
        network._emit("CONV_2D", (source.index, weights, bias), (result.index,), "Conv2DOptions", **window)
        network.maps.append(result)
        source = result
    return network.graph()


def test_every_unit_boundary_can_be_a_cut(tmp_path: Path) -> None:
    for seed in range(6):
        network: Network = divide(RandomNetwork(seed, "float32").graph())
        bench = Bench(network, tmp_path)
        inputs = seeded_inputs(network.graph, seed)
        whole, _ = bench.run_whole(inputs)
        assert same_bits(stitched(bench, inputs, range(len(network.units)), [Tiling.even(2)]), whole), seed
