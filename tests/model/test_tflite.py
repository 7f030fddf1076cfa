"""`.tflite` files as they are found: written by us, by old and new converters, and ones that cannot be used."""

from __future__ import annotations

import dataclasses
import io
import zipfile
from pathlib import Path
from types import MappingProxyType

import flatbuffers
import numpy as np
import pytest

from legion_iot.errors import InputError, ModelError
from legion_iot.model import tflite
from legion_iot.model.blocks import divide
from legion_iot.model.cut import cut_tile
from legion_iot.model.description import describe
from legion_iot.model.geometry import Region
from legion_iot.model.graph import Graph, Op, SparseDimension, Sparsity, Tensor
from legion_iot.model.schema import schema
from legion_iot_agent.executor import seeded_inputs
from legion_iot_agent.interpreter import Interpreter
from legion_iot_agent.shapes import has_open_sizes, open_inputs, with_static_shapes

from .random_networks import RandomNetwork


def as_bytes(graph: Graph) -> bytes:
    return b"".join(bytes(chunk) for chunk in tflite.write(graph))


def large() -> Graph:
    """A network whose weights are large enough to go behind the flatbuffer."""
    network = RandomNetwork(1, "float32", ops=0)
    source = network.maps[0]
    weights = network._constant(np.random.default_rng(1).standard_normal((64, 3, 3, source.channels)).astype("f4"))
    result = network._map(source.height, source.width, 64, "float32")
    options = {
        "padding": 0, "stride_h": 1, "stride_w": 1, "dilation_h_factor": 1, "dilation_w_factor": 1,
        "fused_activation_function": 0,
    }  # fmt: skip
    bias = network._constant(np.zeros(64, np.float32))
    network._emit("CONV_2D", (source.index, weights, bias), (result.index,), "Conv2DOptions", **options)
    network.maps.append(result)
    return network.graph()


@pytest.mark.parametrize("seed", range(12))
def test_what_is_written_is_read_again(seed: int) -> None:
    graph = RandomNetwork(seed, ("float32", "int8", "uint8")[seed % 3]).graph()
    again = tflite.read(as_bytes(graph))
    assert (again.inputs, again.outputs) == (graph.inputs, graph.outputs)
    for ours, theirs in zip(graph.tensors, again.tensors, strict=True):
        assert (ours.name, ours.shape, ours.dtype) == (theirs.name, theirs.shape, theirs.dtype)
        assert (ours.data is None) == (theirs.data is None)
        if ours.data is not None and theirs.data is not None:
            assert ours.data.tobytes() == theirs.data.tobytes()
        if ours.quantization is not None and theirs.quantization is not None:
            assert theirs.quantization.scale == tuple(float(np.float32(s)) for s in ours.quantization.scale)
            assert theirs.quantization.zero_point == ours.quantization.zero_point
    for op, copy in zip(graph.ops, again.ops, strict=True):
        assert (op.kind, op.inputs, op.outputs, op.options_type) == (
            copy.kind,
            copy.inputs,
            copy.outputs,
            copy.options_type,
        )
        for name, value in op.options.items():
            assert copy.options[name] == pytest.approx(value)


def test_large_constants_are_views_of_the_file_and_aligned(tmp_path: Path) -> None:
    path = tmp_path / "large.tflite"
    tflite.write_file(large(), path)
    content = np.fromfile(path, np.uint8)
    graph = tflite.read(content)
    weights = next(t.data for t in graph.tensors if t.data is not None and t.data.size > 1024)
    offset = weights.__array_interface__["data"][0] - content.__array_interface__["data"][0]
    assert 0 < offset < content.size
    assert offset % 16 == 0


def test_weights_inside_the_flatbuffer_are_read_too(tmp_path: Path) -> None:
    """As most converters write them."""
    graph = large()
    path = tmp_path / "inline.tflite"
    path.write_bytes(_with_inline_buffers(graph))
    again = tflite.open_file(path)
    for ours, theirs in zip(graph.tensors, again.tensors, strict=True):
        assert (ours.data is None) == (theirs.data is None)
        if ours.data is not None and theirs.data is not None:
            assert ours.data.tobytes() == theirs.data.tobytes()


def _with_inline_buffers(graph: Graph) -> bytes:
    from legion_iot.model import tflite_writer  # noqa: PLC0415 — the limit is changed for this file only

    limit, tflite_writer.INLINE_LIMIT = tflite_writer.INLINE_LIMIT, 1 << 30
    try:
        return as_bytes(graph)
    finally:
        tflite_writer.INLINE_LIMIT = limit


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(b"before")
    graph = large()
    unknown = dataclasses.replace(graph.ops[0], options=MappingProxyType({"stride_h": object()}))
    with pytest.raises(ModelError, match="cannot be copied"):
        tflite.write_file(dataclasses.replace(graph, ops=(unknown,)), path)
    assert path.read_bytes() == b"before"
    with pytest.raises(InputError, match="cannot be written"):
        tflite.write_file(graph, tmp_path / "missing" / "model.tflite")
    assert [p.name for p in tmp_path.iterdir()] == ["model.tflite"]


@pytest.mark.parametrize(
    ("content", "cause"),
    [(b"", "identifier"), (b"\0" * 100, "identifier"), (b"\0\0\0\0TFL3" + b"\xff" * 40, "damaged|subgraphs")],
)
def test_what_is_no_model_is_refused_in_one_line(tmp_path: Path, content: bytes, cause: str) -> None:
    path = tmp_path / "file.tflite"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=cause) as raised:
        tflite.open_file(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_every_length_of_a_file_cut_short_is_refused() -> None:
    content = as_bytes(large())
    for length in range(0, len(content), 97):
        with pytest.raises(ModelError):
            tflite.read(content[:length])


def test_several_subgraphs_are_refused() -> None:
    builder, module = flatbuffers.Builder(), schema("Model")
    subgraphs = []
    for _ in range(2):
        schema("SubGraph").SubGraphStart(builder)
        subgraphs.append(schema("SubGraph").SubGraphEnd(builder))
    builder.StartVector(4, 2, 4)
    for offset in subgraphs:
        builder.PrependUOffsetTRelative(offset)
    vector = builder.EndVector()
    module.ModelStart(builder)
    module.ModelAddVersion(builder, 3)
    module.ModelAddSubgraphs(builder, vector)
    builder.Finish(module.ModelEnd(builder), file_identifier=b"TFL3")
    with pytest.raises(ModelError, match="2 subgraphs"):
        tflite.read(bytes(builder.Output()))


def test_an_op_nobody_knows_passes_through() -> None:
    options = np.frombuffer(b"\x01\x02\x03", np.uint8)
    tensors = (Tensor("a", (1, 4), "float32"), Tensor("b", (), "float32", has_rank=False))
    op = Op("CUSTOM", (0,), (1,), custom_code="Vendor_Op", custom_options=options, version=3)
    again = tflite.read(as_bytes(Graph(tensors, (op,), (0,), (1,))))
    assert again.ops[0].label == "Vendor_Op"
    assert again.ops[0].version == 3
    assert again.ops[0].custom_options is not None
    assert again.ops[0].custom_options.tobytes() == b"\x01\x02\x03"
    network = divide(again)
    assert network.ended_by == "Vendor_Op is not spatially local"
    assert network.tail == (0,)


def test_sparse_weights_keep_their_layout() -> None:
    columns = SparseDimension(1, 4, np.array([0, 1, 3], np.uint8), np.array([1, 0, 3], np.uint8))
    sparsity = Sparsity((0, 1), (), (SparseDimension(0, 2), columns))
    weights = Tensor("w", (2, 4), "float32", np.arange(3, dtype=np.float32).view(np.uint8), sparsity=sparsity)
    tensors = (
        weights,
        Tensor("dense", (2, 4), "float32"),
        Tensor("x", (1, 4), "float32"),
        Tensor("y", (1, 2), "float32"),
    )
    ops = (
        Op("DENSIFY", (0,), (1,), "DensifyOptions"),
        Op("FULLY_CONNECTED", (2, 1, -1), (3,), "FullyConnectedOptions", {"fused_activation_function": 0}),
    )
    again = tflite.read(as_bytes(Graph(tensors, ops, (2,), (3,))))
    kept = again.tensors[0].sparsity
    assert kept is not None
    assert kept.traversal_order == (0, 1)
    assert [d.dense_size for d in kept.dimensions] == [2, 4]
    assert kept.dimensions[1].segments is not None
    assert kept.dimensions[1].segments.tolist() == [0, 1, 3]
    assert divide(again).constant_ops == (0,)


def test_open_sizes_are_resolved_by_the_runtime(tmp_path: Path) -> None:
    graph = large()
    source = dataclasses.replace(graph.tensors[graph.inputs[0]], shape_signature=(1, -1, -1, 3))
    channels = source.shape[3]
    tensors = tuple(source if i == graph.inputs[0] else t for i, t in enumerate(graph.tensors))
    open_graph = dataclasses.replace(graph, tensors=tensors)
    assert has_open_sizes(open_graph)
    assert len(open_inputs(open_graph)) == 1
    static = with_static_shapes(open_graph, {0: (1, 20, 30, channels)})
    assert static.tensors[static.outputs[0]].shape == (1, 20, 30, 64)
    assert not has_open_sizes(static)
    with pytest.raises(ModelError, match="refuses the input shape"):
        with_static_shapes(open_graph, {0: (20, 30)})


def test_labels_and_normalisation_come_out_of_the_files_own_metadata() -> None:
    graph = dataclasses.replace(large(), metadata=MappingProxyType({"TFLITE_METADATA": _metadata()}))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("labels.txt", "cat\ndog\n")
    description = describe(tflite.read(as_bytes(graph) + archive.getvalue()))
    assert description.labels == ("cat", "dog")
    assert description.preprocessing.mean == (10.0,)
    assert description.preprocessing.std == (20.0,)
    without_archive = describe(tflite.read(as_bytes(graph)))
    assert without_archive.labels is None


def _metadata() -> np.ndarray:  # type: ignore[type-arg]
    """TFLite metadata with one normalised input and one labelled output, table by table, by the schema's numbers."""
    builder = flatbuffers.Builder()

    def table(fields: dict[int, int | tuple[str, int]]) -> int:
        builder.StartObject(8)
        for number, value in fields.items():
            if isinstance(value, tuple):
                getattr(builder, f"Prepend{value[0]}Slot")(number, value[1], 0)
            else:
                builder.PrependUOffsetTRelativeSlot(number, value, 0)
        return int(builder.EndObject())

    def vector(offsets: list[int]) -> int:
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        return int(builder.EndVector())

    mean, std = (int(builder.CreateNumpyVector(np.array([v], np.float32))) for v in (10.0, 20.0))
    normalisation = table({0: mean, 1: std})
    unit = table({0: ("Uint8", 1), 1: normalisation})
    tensor_in = table({4: vector([unit])})
    name = int(builder.CreateString("labels.txt"))
    tensor_out = table({6: vector([table({0: name, 2: ("Int8", 2)})])})
    subgraph = table({2: vector([tensor_in]), 3: vector([tensor_out])})
    builder.Finish(table({3: vector([subgraph])}), file_identifier=b"M001")
    return np.frombuffer(bytes(builder.Output()), np.uint8)


def test_the_coral_classifiers_name_their_classes() -> None:
    path = Path(__file__).parents[3] / "shared" / "models" / "mobilenet_v2_1.0_224_quant.tflite"
    if not path.exists():
        pytest.skip("the shared models are not here")
    description = describe(tflite.open_file(path))
    assert description.labels is not None
    assert len(description.labels) == 1001
    assert description.labels[1].startswith("tench")


def test_a_sub_model_is_an_ordinary_file(tmp_path: Path) -> None:
    network = divide(large())
    unit = network.units[-1]
    whole = Region.whole(network.graph.tensors[unit.reference])
    sub = cut_tile(network, unit.ops, {unit.reference: whole})
    path = tmp_path / "sub.tflite"
    tflite.write_file(sub.graph, path)
    inputs = seeded_inputs(sub.graph)
    first = Interpreter(path).run(inputs)
    tflite.write_file(tflite.open_file(path), tmp_path / "copy.tflite")
    second = Interpreter(tmp_path / "copy.tflite").run(inputs)
    assert first[0].tobytes() == second[0].tobytes()
