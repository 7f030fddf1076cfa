"""From a network's outputs to what a person reads: labels with scores, boxes around objects, a picture, or numbers."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from legion_iot.model.description import ModelDescription, detection_outputs
from legion_iot.model.graph import Graph, Tensor
from legion_iot.model.preprocessing import View
from legion_iot.wire.messages import Answer, OutputDigest

TOP = 5  # classes in an answer
LEAST_SCORE = 0.25  # of an object that counts as found
MOST_BOXES = 100  # in an answer
MOST_VALUES = 1024  # of an output, which are given as numbers, where nothing else is the answer,
FEW_VALUES = 64  # and otherwise
_ROUNDING = 1e-3  # above 1 that a probability may be


def answers(
    graph: Graph, description: ModelDescription, outputs: Sequence[npt.NDArray[Any]], view: View | None = None
) -> tuple[Answer, ...]:
    """The best classes, or the objects found, best first; empty where the model's answer is neither.

    `view` is what the network saw of a picture, None where it was given an array.
    """
    if description.answer == "boxes":
        return boxes(graph, description, outputs, view)
    return classes(graph, description, outputs)


def classes(graph: Graph, description: ModelDescription, outputs: Sequence[npt.NDArray[Any]]) -> tuple[Answer, ...]:
    """The best classes of the first output, best first; empty where the model is no classifier.

    Quantised values are scaled back. Values between 0 and 1 are scores as they are (of a softmax, whose quantised sum
    may be well off one, or of a sigmoid per class); anything else goes through softmax.
    """
    if description.answer != "classes" or not outputs:
        return ()
    values = real_values(graph.tensors[graph.outputs[0]], outputs[0]).ravel()
    if not values.size or not np.all(np.isfinite(values)):
        return ()
    if np.any(values < 0) or np.any(values > 1 + _ROUNDING):
        shifted = np.exp(values - values.max())
        values = shifted / shifted.sum()
    best = np.argsort(-values, kind="stable")[:TOP]
    return tuple(Answer(int(i), _label(description, int(i)), round(float(values[i]), 6)) for i in best)


def _label(description: ModelDescription, index: int) -> str:
    labels = description.labels or ()
    return labels[index] if 0 <= index < len(labels) else f"class {index}"


def boxes(
    graph: Graph, description: ModelDescription, outputs: Sequence[npt.NDArray[Any]], view: View | None
) -> tuple[Answer, ...]:
    """The objects that a detector found, best first, with their boxes in fractions of the picture, or of the array.

    Scores below `LEAST_SCORE` do not count, nor do boxes of which nothing lies on the picture; at most `MOST_BOXES`.
    """
    places = detection_outputs(graph)
    if places is None or not outputs:
        return ()
    corners, indices, scores, count = (real_values(graph.tensors[graph.outputs[i]], outputs[i]).ravel() for i in places)
    if not (count.size and scores.size <= indices.size and 4 * scores.size <= corners.size):
        return ()  # the file does not say what sizes these have, and so nobody has checked them
    found = []
    for i in range(min(scores.size, int(np.nan_to_num(count[0])))):
        box = _on_picture(corners[4 * i : 4 * i + 4], view)
        if box is not None and scores[i] >= LEAST_SCORE and np.isfinite(scores[i] + indices[i]):
            index = int(indices[i])
            found.append(Answer(index, _label(description, index), round(float(scores[i]), 6), box))
    return tuple(sorted(found, key=lambda answer: -answer.score)[:MOST_BOXES])


def _on_picture(corners: npt.NDArray[np.float64], view: View | None) -> tuple[float, float, float, float] | None:
    """The part of a box that lies on the picture; None where nothing does."""
    if not np.all(np.isfinite(corners)):
        return None
    top, left, bottom, right = (float(edge) for edge in corners)
    if view is not None:
        top, left, bottom, right = view.on_picture((top, left, bottom, right))
    top, left, bottom, right = (round(min(max(edge, 0.0), 1.0), 6) for edge in (top, left, bottom, right))
    return (top, left, bottom, right) if top < bottom and left < right else None


def top_class(graph: Graph, description: ModelDescription, outputs: Sequence[npt.NDArray[Any]]) -> int | None:
    """The index of the best class, None where the model is no classifier."""
    best = classes(graph, description, outputs)
    return best[0].index if best else None


def image_output(description: ModelDescription, outputs: Sequence[npt.NDArray[Any]]) -> int | None:
    """Which output is the picture; None where the model's answer is none.

    Networks with several maps, as edge detectors have, give their best one last.
    """
    if description.answer == "image":
        for index in reversed(range(len(outputs))):
            match outputs[index].shape:
                case (1, height, width, 1 | 3) if height and width:
                    return index
    return None


def picture(
    graph: Graph,
    description: ModelDescription,
    outputs: Sequence[npt.NDArray[Any]],
    size: tuple[int, int] | None = None,
) -> bytes | None:
    """The answer as a PNG, values in [0, 1] as brightness; None where the model's answer is no picture.

    `size` is (width, height) to resize to, where the network saw a picture of other proportions than its own.
    """
    index = image_output(description, outputs)
    if index is None:
        return None
    from PIL import Image  # noqa: PLC0415 — only who writes pictures needs Pillow

    values = np.nan_to_num(real_values(graph.tensors[graph.outputs[index]], outputs[index])[0])
    pixels = np.clip(np.rint(values * 255), 0, 255).astype(np.uint8)
    drawn = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    if size is not None and size != drawn.size:
        drawn = drawn.resize(size, Image.Resampling.BICUBIC)
    file = io.BytesIO()
    drawn.save(file, "PNG")
    return file.getvalue()


def real_values(tensor: Tensor, values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """The real numbers that (perhaps quantised) values stand for."""
    quantization = tensor.quantization
    if values.dtype.kind == "f" or quantization is None or len(quantization.scale) != 1:
        return values.astype(np.float64)
    return (values.astype(np.float64) - quantization.zero_point[0]) * quantization.scale[0]


def digests(graph: Graph, outputs: Sequence[npt.NDArray[Any]], most_values: int = 0) -> tuple[OutputDigest, ...]:
    """What is needed to compare the outputs with another run's to the bit; with the numbers, where they are so few."""
    return tuple(
        OutputDigest(
            graph.tensors[index].name,
            tuple(values.shape),
            str(values.dtype),
            hashlib.sha256(np.ascontiguousarray(values).data).hexdigest(),
            _numbers(graph.tensors[index], values) if values.size <= most_values else None,
        )
        for index, values in zip(graph.outputs, outputs, strict=True)
    )


def most_values(description: ModelDescription) -> int:
    """How many numbers an output may have that are given as they are."""
    return MOST_VALUES if description.answer == "tensors" else FEW_VALUES


def _numbers(tensor: Tensor, values: npt.NDArray[Any]) -> tuple[float | None, ...]:
    """The real values, in the fewest digits that tell them from others of their precision."""
    real = real_values(tensor, values).ravel()
    is_double = values.dtype.itemsize == 8
    numbers = (float(value) if is_double else float(str(np.float32(value))) for value in real)
    return tuple(number if math.isfinite(number) else None for number in numbers)
