"""The estimate counts the very messages that the wire's own code would send."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion_iot.model.geometry import Interval, Region
from legion_iot.model.graph import Tensor
from legion_iot.planning import traffic
from legion_iot.planning.routing import ORCHESTRATOR, Transfer
from legion_iot.planning.traffic import EXACT, least_element_bytes, messages
from legion_iot.runtime.exchange import wire_between
from legion_iot.wire.dtypes import WIRES
from legion_iot.wire.messages import Fragment
from legion_iot.wire.tensors import LEAST_PIECE, MOST_PIECE, SHARE, bounds, fragments, wire_bytes


@given(
    rows=st.integers(1, 90), columns=st.integers(1, 90), channels=st.sampled_from((1, 3, 64, 1280)),
    dtype=st.sampled_from(("float32", "int8", "uint8", "int64")), wire=st.sampled_from(WIRES),
    ends=st.sampled_from((("a", "b"), (ORCHESTRATOR, "b"), ("a", ORCHESTRATOR))),
)  # fmt: skip
def test_messages_are_those_of_the_wire(
    rows: int, columns: int, channels: int, dtype: str, wire: str, ends: tuple[str, str]
) -> None:
    region = Region(Interval(2, 2 + rows), Interval(1, 1 + columns))
    tensor = Tensor("map", (1, 100, 100, channels), dtype)
    ours = messages(Transfer(0, 0, region, *ends), tensor, wire)
    on_wire = wire_between(dtype, ORCHESTRATOR if ORCHESTRATOR in ends else "b", wire)
    header = Fragment("r", 1, 1, 0, 0, bounds(region), channels, dtype, on_wire)
    held = np.broadcast_to(np.zeros((1, 1, channels), dtype), (rows, columns, channels))
    sent = [piece.body.nbytes for piece in fragments(header, held, region)]
    assert list(ours) == sent
    assert sum(ours) == wire_bytes(region, channels, dtype, on_wire)
    assert sum(ours) >= region.area * channels * least_element_bytes(tensor, wire)
    assert (traffic.SHARE, traffic.LEAST_PIECE, traffic.MOST_PIECE) == (SHARE, LEAST_PIECE, MOST_PIECE)


@pytest.mark.parametrize("wire", WIRES)
def test_an_element_larger_than_a_piece_travels_alone(wire: str) -> None:
    region = Region(Interval(0, 1), Interval(0, 3))
    sizes = messages(Transfer(0, 0, region, "a", "b"), Tensor("map", (1, 1, 3, 300_000), "float32"), wire)
    assert (
        sizes
        == (wire_bytes(Region(Interval(0, 1), Interval(0, 1)), 300_000, "float32", wire_between("float32", "b", wire)),)
        * 3
    )


def test_what_is_no_map_travels_as_one_row() -> None:
    region = Region(Interval(0, 1), Interval(0, 1000))
    assert messages(Transfer(0, 0, region, "a", ORCHESTRATOR), Tensor("classes", (1, 1000), "float32"), EXACT) == (
        4000,
    )
