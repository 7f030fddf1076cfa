"""The seeded networks cost what the published ones cost, run, and are the same on every run."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from legion_iot.model import arithmetic, synthetic, tflite
from legion_iot.model.graph import Graph

interpreter = pytest.importorskip("ai_edge_litert.interpreter")

# Multiply-accumulates as published (with their rounding), and the relative slack of that rounding.
PUBLISHED = {
    "vgg16": (15_346_630_656 + 512_000, 0.0),  # the convolutions of table 1, and the replaced tail
    "vgg19": (19_508_428_800 + 512_000, 0.0),
    "yolov2": (29.46e9 / 2, 1e-3),  # Darknet reports 29.46 BFLOPs for yolov2.cfg at 416×416
    "resnet18": (1.814e9, 1e-3),  # 1.8 GFLOPs in the paper
    "resnet34": (3.664e9, 1e-3),  # 3.6 GFLOPs in the paper
    "mobilenet-v1": (569e6, 1e-3),  # table 8 of the paper
    "mobilenet-v2": (300e6, 3e-3),  # table 4 of the paper
}
# Convolution and fully connected parameters; batch normalisation's four numbers per channel are one bias here.
PARAMETERS = {"resnet18": 11.69e6, "resnet34": 21.80e6, "mobilenet-v1": 4.2e6, "mobilenet-v2": 3.5e6, "yolov2": 50.98e6}
# The digest of the written file: a change means that every bench result from before is about another network.
DIGESTS = {"mobilenet-v1": "c15cded2034da87f", "mobilenet-v2": "7efff0a80428dc8d"}


@pytest.fixture(scope="module", params=sorted(synthetic.NETWORKS))
def network(request: pytest.FixtureRequest) -> tuple[str, Graph]:
    return request.param, synthetic.NETWORKS[request.param](0)


def test_costs_what_was_published(network: tuple[str, Graph]) -> None:
    name, graph = network
    expected, slack = PUBLISHED[name]
    assert arithmetic.multiply_accumulates(graph) == pytest.approx(expected, rel=max(slack, 1e-12))
    if name in PARAMETERS:
        assert arithmetic.parameters(graph) == pytest.approx(PARAMETERS[name], rel=0.01)


def test_runs_and_answers_sanely(network: tuple[str, Graph], tmp_path: Path) -> None:
    name, graph = network
    path = tmp_path / "model.tflite"
    tflite.write_file(graph, path)
    runtime = interpreter.Interpreter(str(path), num_threads=2)
    runtime.allocate_tensors()
    (source,), (sink,) = runtime.get_input_details(), runtime.get_output_details()
    picture = np.random.default_rng(0).uniform(-1, 1, source["shape"]).astype(np.float32)
    runtime.set_tensor(source["index"], picture)
    runtime.invoke()
    answer = runtime.get_tensor(sink["index"])
    assert answer.shape == graph.tensors[graph.outputs[0]].shape
    assert np.isfinite(answer).all()
    if name == "yolov2":
        assert answer.shape == (1, 13, 13, 425)
        assert 0.3 < float(answer.std()) < 10
    else:
        assert float(answer.sum()) == pytest.approx(1, abs=1e-4)
        assert 1.5 / 1000 < float(answer.max()) < 0.9
    path.unlink()


@pytest.mark.parametrize("name", sorted(DIGESTS))
def test_same_bytes_for_the_same_seed(name: str) -> None:
    def digest(seed: int) -> str:
        value = hashlib.sha256()
        for tensor in synthetic.NETWORKS[name](seed).tensors:
            value.update(f"{tensor.name}{tensor.shape}".encode())
            value.update(b"" if tensor.data is None else tensor.data.tobytes())
        return value.hexdigest()[:16]

    assert digest(0) == DIGESTS[name]
    assert digest(1) != DIGESTS[name]
    first = b"".join(bytes(chunk) for chunk in tflite.write(synthetic.NETWORKS[name](0)))
    assert first == b"".join(bytes(chunk) for chunk in tflite.write(synthetic.NETWORKS[name](0)))


def test_layer_tables() -> None:
    kinds = {name: [op.kind for op in build(0).ops] for name, build in synthetic.NETWORKS.items() if name != "yolov2"}
    assert kinds["vgg16"].count("CONV_2D") == 13
    assert kinds["vgg19"].count("CONV_2D") == 16
    assert kinds["resnet18"].count("CONV_2D") == 20  # 17 and three projections
    assert kinds["resnet18"].count("ADD") == 8
    assert kinds["resnet34"].count("CONV_2D") == 36  # 33 and three projections
    assert kinds["resnet34"].count("ADD") == 16
    assert kinds["mobilenet-v1"].count("DEPTHWISE_CONV_2D") == 13
    assert kinds["mobilenet-v2"].count("DEPTHWISE_CONV_2D") == 17
    assert kinds["mobilenet-v2"].count("ADD") == 10
