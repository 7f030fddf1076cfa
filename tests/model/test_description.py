"""A model file carries its labels and preprocessing; a foreign one gets the usual guess."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion_iot.errors import ModelError
from legion_iot.model import tflite
from legion_iot.model.builder import GraphBuilder
from legion_iot.model.description import METADATA_NAME, ModelDescription, describe, embed, with_description
from legion_iot.model.graph import Graph, Tensor
from legion_iot.model.preprocessing import Preprocessing


def foreign(output: tuple[int, ...], dtype: str = "float32", channels: int = 3) -> Graph:
    return Graph((Tensor("in", (1, 8, 8, channels), dtype), Tensor("out", output, dtype)), (), (0,), (1,))


def test_what_is_embedded_is_read_again(tmp_path: Path) -> None:
    said = ModelDescription("classes", Preprocessing((1.0, 2.0, 3.0), (4.0,), "bgr", "stretch", 0.5), ("Katze", "犬"))
    net = GraphBuilder("tiny")
    graph = with_description(net.finish(net.fully_connected(net.input((1, 3)), 2)), said)
    assert describe(graph) == said
    tflite.write_file(graph, tmp_path / "m.tflite")
    assert describe(tflite.open_file(tmp_path / "m.tflite")) == said
    assert embed(said) == embed(said)


@pytest.mark.parametrize(
    ("shape", "answer"),
    [
        ((1, 1000), "classes"), ((1, 32, 32, 1), "image"), ((1, 32, 32, 3), "image"), ((1, 13, 13, 425), "tensors"),
        ((1, 1), "tensors"), ((1, 1, 1, 3), "tensors"), ((1, 896, 16), "tensors"), ((2, 10), "tensors"),
    ],
)  # fmt: skip
def test_answer_of_a_foreign_file(shape: tuple[int, ...], answer: str) -> None:
    assert describe(foreign(shape)).answer == answer


def test_preprocessing_of_a_foreign_file() -> None:
    assert describe(foreign((1, 5))).preprocessing == Preprocessing(mean=(127.5,), std=(127.5,))
    assert describe(foreign((1, 5), "uint8")).preprocessing.raw
    assert describe(foreign((1, 5), "int8")).preprocessing.raw
    assert describe(foreign((1, 5), channels=1)).preprocessing.channels == "gray"
    assert describe(foreign((1, 5))).labels is None


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\xff", b"[]", b"{}", b'"x"', b'{"answer": "song"}', b'{"answer": "classes", "labels": "abc"}',
        b'{"answer": "classes", "labels": [1]}', b'{"answer": "classes", "preprocessing": 3}',
        b'{"answer": "classes", "preprocessing": {"std": [0]}}', b'{"answer": ["classes"]}',
        b'{"answer": "classes", "preprocessing": {"mean": 1}}',
        b'{"answer": "classes", "preprocessing": {"crop": null}}',
        b'{"answer": "classes", "preprocessing": {"fit": []}}',
        b"[" * 100_000, b" " * (1 << 21),
    ],
)  # fmt: skip
def test_broken_metadata_is_one_clear_error(content: bytes) -> None:
    graph = replace(foreign((1, 2)), metadata={METADATA_NAME: np.frombuffer(content, np.uint8)})
    with pytest.raises(ModelError, match=METADATA_NAME):
        describe(graph)


@given(st.binary(max_size=60))
def test_random_metadata_never_ends_in_a_traceback(content: bytes) -> None:
    graph = replace(foreign((1, 2)), metadata={METADATA_NAME: np.frombuffer(content, np.uint8)})
    with pytest.raises(ModelError):
        describe(graph)


def test_a_network_without_input_is_refused() -> None:
    with pytest.raises(ModelError, match="no input"):
        describe(Graph((Tensor("out", (1, 2), "float32"),), (), (), (0,)))
