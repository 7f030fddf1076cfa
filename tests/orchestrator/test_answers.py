"""From output tensors to what a person reads."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from legion_iot.model.builder import GraphBuilder
from legion_iot.model.description import ModelDescription
from legion_iot.model.graph import Graph, Quantization
from legion_iot.model.preprocessing import Preprocessing
from legion_iot.orchestrator.answers import TOP, classes, digests, image_output, most_values, picture

CLASSES = ModelDescription("classes", Preprocessing(), ("cat", "dog"))
PICTURE = ModelDescription("image", Preprocessing())


def network(shape: tuple[int, ...], dtype: str = "float32", quantization: Quantization | None = None) -> Graph:
    """A network whose output has that form."""
    net = GraphBuilder("any")
    graph = net.finish(net.activation(net.input(shape), "relu"))
    tensors = list(graph.tensors)
    tensors[graph.outputs[0]] = replace(tensors[graph.outputs[0]], dtype=dtype, quantization=quantization)
    return replace(graph, tensors=tuple(tensors))


def test_probabilities_stay_what_they_are() -> None:
    values = np.array([[0.1, 0.7, 0.2]], np.float32)
    answers = classes(network((1, 3)), CLASSES, [values])
    assert [(a.index, a.label, a.score) for a in answers] == [(1, "dog", 0.7), (2, "class 2", 0.2), (0, "cat", 0.1)]


@pytest.mark.parametrize("logits", [[2.0, -1.0, 1000.0], [-5.0, -6.0, -5.5], [3.0, 4.0, 5.0]])
def test_logits_become_probabilities(logits: list[float]) -> None:
    answers = classes(network((1, 3)), CLASSES, [np.array([logits], np.float32)])
    assert sum(a.score for a in answers) == pytest.approx(1, abs=1e-5)
    assert answers[0].index == int(np.argmax(logits))


def test_quantised_scores_are_scaled_back() -> None:
    graph = network((1, 2), "uint8", Quantization((1 / 256,), (0,)))
    answers = classes(graph, CLASSES, [np.array([[64, 192]], np.uint8)])
    assert [(a.label, a.score) for a in answers] == [("dog", 0.75), ("cat", 0.25)]


def test_scores_whose_sum_is_off_stay_what_they_are() -> None:
    """A quantised softmax loses its small values; a sigmoid per class has no sum to keep."""
    graph = network((1, 3), "uint8", Quantization((1 / 256,), (0,)))
    assert [a.score for a in classes(graph, CLASSES, [np.array([[160, 16, 0]], np.uint8)])] == [0.625, 0.0625, 0.0]
    assert [a.score for a in classes(network((1, 2)), CLASSES, [np.array([[0.9, 0.8]], np.float32)])] == [0.9, 0.8]


def test_equal_scores_come_in_the_order_of_the_classes() -> None:
    answers = classes(network((1, 10)), CLASSES, [np.full((1, 10), 0.1, np.float32)])
    assert [a.index for a in answers] == list(range(TOP))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_no_answer(bad: float) -> None:
    assert classes(network((1, 3)), CLASSES, [np.array([[0.1, bad, 0.2]], np.float32)]) == ()


def test_no_classifier_and_no_outputs() -> None:
    assert classes(network((1, 3)), PICTURE, [np.zeros((1, 3), np.float32)]) == ()
    assert classes(network((1, 3)), CLASSES, []) == ()
    assert picture(network((1, 3)), CLASSES, [np.zeros((1, 3), np.float32)]) is None


@pytest.mark.parametrize("channels", [1, 3])
def test_a_map_becomes_a_png(channels: int) -> None:
    values = np.linspace(-0.5, 1.5, 4 * 6 * channels, dtype=np.float32).reshape(1, 4, 6, channels)
    values[0, 0, 0, 0] = np.nan
    png = picture(network((1, 4, 6, channels)), PICTURE, [values])
    assert png is not None
    with Image.open(io.BytesIO(png)) as image:
        assert image.size == (6, 4)
        drawn = np.asarray(image).reshape(4, 6, channels)
    assert drawn[0, 0, 0] == 0
    assert drawn.max() == 255


def test_a_picture_in_the_size_of_another() -> None:
    png = picture(network((1, 4, 6, 1)), PICTURE, [np.ones((1, 4, 6, 1), np.float32)], (31, 17))
    assert png is not None
    with Image.open(io.BytesIO(png)) as image:
        assert image.size == (31, 17)


def test_the_picture_is_the_last_output_that_can_be_one() -> None:
    pictures, vector = np.zeros((1, 4, 6, 1), np.float32), np.zeros((1, 5), np.float32)
    assert image_output(PICTURE, [pictures, pictures]) == 1
    assert image_output(PICTURE, [pictures, vector]) == 0
    assert image_output(PICTURE, [vector, np.zeros((1, 4, 6, 2), np.float32)]) is None
    assert picture(network((1, 5)), PICTURE, [vector]) is None


def test_few_numbers_are_given_as_they_are() -> None:
    values = np.array([[0.1, -2.5, np.nan, np.inf]], np.float32)
    (digest,) = digests(network((1, 4)), [values], 4)
    assert digest.values == (0.1, -2.5, None, None)
    assert digests(network((1, 4)), [values], 3)[0].values is None
    quantised = network((1, 2), "int8", Quantization((0.5,), (-1,)))
    assert digests(quantised, [np.array([[3, -1]], np.int8)], 4)[0].values == (2.0, 0.0)
    whole = np.array([[2**40 + 1]], np.int64)
    assert digests(network((1, 1), "int64"), [whole], 4)[0].values == (2**40 + 1,)
    assert most_values(ModelDescription("tensors", Preprocessing())) == 1024 > most_values(CLASSES)


def test_digests_differ_by_a_bit() -> None:
    graph, values = network((1, 3)), np.array([[0.0, 1.0, 2.0]], np.float32)
    other = values.copy()
    other[0, 0] = -0.0
    assert digests(graph, [values])[0].sha256 != digests(graph, [other])[0].sha256
    assert digests(graph, [values]) == digests(graph, [values.copy()])
