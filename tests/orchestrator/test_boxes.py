"""What a detector finds, in fractions of the picture as it was sent: checked by a rectangle that is painted on one."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw

from legion_iot.model.description import DETECTION, ModelDescription, describe
from legion_iot.model.graph import Graph, Op, Tensor
from legion_iot.model.preprocessing import Preprocessing
from legion_iot.orchestrator.answers import LEAST_SCORE, MOST_BOXES, answers
from legion_iot.orchestrator.inputs import read_input
from legion_iot.wire.messages import Answer

BOXES = ModelDescription("boxes", Preprocessing((0.0,), (1.0,), fit="stretch"), ("cat", "dog"))
IN_ORDER = (1, 2, 3, 4)
# What EXIF calls the orientation, and how the upright picture is turned to be stored so; the inverse of EXIF's table.
STORED = {
    1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}  # fmt: skip


def detector(outputs: tuple[int, ...] = IN_ORDER, side: tuple[int, int] = (120, 160)) -> Graph:
    """A network that ends in the runtime's detection; the file does not say what sizes its outputs have."""
    source = Tensor("in", (1, *side, 3), "float32")
    found = tuple(Tensor(name, (), "float32", has_rank=False) for name in ("corners", "classes", "scores", "count"))
    op = Op("CUSTOM", (0,), IN_ORDER, custom_code=DETECTION)
    return Graph((source, *found), (op,), (0,), outputs)


def found(*objects: tuple[tuple[float, ...], float, float], count: float | None = None) -> list[npt.NDArray[Any]]:
    """Outputs as the runtime makes them, of (corners, class, score)."""
    corners, classes, scores = zip(*objects, strict=True)
    return [
        np.array([corners], np.float32), np.array([classes], np.float32), np.array([scores], np.float32),
        np.array([len(objects) if count is None else count], np.float32),
    ]  # fmt: skip


def seen_box(values: npt.NDArray[Any]) -> tuple[float, float, float, float]:
    """Where the network sees red: (top, left, bottom, right) in fractions of its input."""
    red = (values[0, ..., 0] > 128) & (values[0, ..., 1] < 128)
    rows, columns = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
    height, width = red.shape
    return rows[0] / height, columns[0] / width, (rows[-1] + 1) / height, (columns[-1] + 1) / width


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("how", [{"fit": "stretch"}, {"fit": "center-crop"}, {"fit": "center-crop", "crop": 0.875}])
@pytest.mark.parametrize("size", [(800, 300), (300, 800), (640, 480)])
def test_a_box_lies_where_the_object_was_painted(orientation: int, how: dict[str, Any], size: tuple[int, int]) -> None:
    width, height = size
    painted = (0.4, 0.42, 0.52, 0.6)  # top, left, bottom, right; in the middle, which no crop takes away
    upright = Image.new("RGB", size, "white")
    corners = [painted[1] * width, painted[0] * height, painted[3] * width - 1, painted[2] * height - 1]
    ImageDraw.Draw(upright).rectangle(corners, "red")
    turn, exif, file = STORED[orientation], Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    (upright if turn is None else upright.transpose(turn)).save(file, "PNG", exif=exif.tobytes())

    description = ModelDescription("boxes", Preprocessing((0.0,), (1.0,), **how))
    read = read_input(file.getvalue(), detector(), description)
    (answer,) = answers(detector(), description, found((seen_box(read.values), 0, 0.9)), read.view)
    assert answer.box == pytest.approx(painted, abs=0.012)  # a pixel and a half of the network's 120 × 160


def test_by_hand() -> None:
    """Of a picture of 400 × 200, a network with a square input sees the square in the middle: columns 100 to 300."""
    graph, file = detector(side=(10, 10)), io.BytesIO()
    Image.new("RGB", (400, 200)).save(file, "PNG")
    description = ModelDescription("boxes", Preprocessing(), ("cat", "dog"))
    view = read_input(file.getvalue(), graph, description).view
    outputs = found(((0.0, 0.0, 0.5, 0.5), 1, 0.5), ((0.25, 0.5, 2.0, 9.0), 0, 0.75), ((-1, -3.0, 1, -2.0), 0, 1.0))
    assert answers(graph, description, outputs, view) == (
        Answer(0, "cat", 0.75, (0.25, 0.5, 1.0, 1.0)),
        Answer(1, "dog", 0.5, (0.0, 0.25, 0.5, 0.5)),
    )
    # Of an array, the network sees all there is; what lies beside it is cut off.
    assert answers(graph, description, outputs)[1].box == (0.0, 0.0, 0.5, 0.5)


def test_what_does_not_count() -> None:
    box = (0.1, 0.2, 0.3, 0.4)
    outputs = found((box, 0, LEAST_SCORE), (box, 0, LEAST_SCORE - 0.01), (box, 1, 0.9), count=2)
    assert [answer.score for answer in answers(detector(), BOXES, outputs)] == [LEAST_SCORE]
    nothing = [
        (box, np.nan, 0.9), (box, 0, np.nan), ((0.1, np.nan, 0.3, 0.4), 0, 0.9), ((0.3, 0.2, 0.1, 0.4), 0, 0.9),
        ((0.1, 0.2, np.inf, 0.4), 0, 0.9), (box, 0, np.inf),
    ]  # fmt: skip
    assert answers(detector(), BOXES, found(*nothing)) == ()
    assert answers(detector(), BOXES, found((box, 0, 0.9), count=np.nan)) == ()
    assert answers(detector(), BOXES, found((box, 7, 0.9)))[0].label == "class 7"
    assert answers(detector(), BOXES, found((box, -1, 0.9)))[0].label == "class -1"


def test_no_more_than_fit_are_given_and_the_best_come_first() -> None:
    scores = np.random.default_rng(1).permutation(np.linspace(0.3, 0.9, MOST_BOXES + 20))
    found_so = answers(detector(), BOXES, found(*(((0, 0, 1, 1), 0, float(score)) for score in scores)))
    assert [a.score for a in found_so] == pytest.approx(sorted(scores, reverse=True)[:MOST_BOXES], abs=1e-6)


@pytest.mark.parametrize("left_out", range(4))
def test_outputs_of_sizes_that_do_not_fit_are_no_answer(left_out: int) -> None:
    outputs = found(((0, 0, 1, 1), 0, 0.9), ((0, 0, 1, 1), 0, 0.8))
    outputs[left_out] = np.zeros((0,), np.float32)
    assert answers(detector(), BOXES, outputs) == ()


def test_outputs_stand_in_any_order() -> None:
    """Networks of TensorFlow 2 list the scores first."""
    corners, classes, scores, count = found(((0.1, 0.2, 0.3, 0.4), 1, 0.9))
    (answer,) = answers(detector((3, 1, 4, 2)), BOXES, [scores, corners, count, classes])
    assert (answer.index, answer.label, answer.score) == (1, "dog", 0.9)
    assert answer.box == pytest.approx((0.1, 0.2, 0.3, 0.4))


def test_a_foreign_detector_sees_the_whole_picture() -> None:
    description = describe(detector())
    assert (description.answer, description.preprocessing.fit) == ("boxes", "stretch")
    partly = detector((1, 2, 3))
    assert answers(partly, BOXES, found(((0, 0, 1, 1), 0, 0.9))[:3]) == ()
