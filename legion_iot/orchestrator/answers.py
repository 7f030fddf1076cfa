"""From a network's outputs to what a person reads: labels with scores, or a picture."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from legion_iot.model.description import ModelDescription
from legion_iot.model.graph import Graph, Tensor
from legion_iot.wire.messages import Answer, OutputDigest

TOP = 5  # classes in an answer
_ROUNDING = 1e-3  # above 1 that a probability may be


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
    labels = description.labels or ()
    return tuple(
        Answer(int(i), labels[i] if i < len(labels) else f"class {i}", round(float(values[i]), 6)) for i in best
    )


def top_class(graph: Graph, description: ModelDescription, outputs: Sequence[npt.NDArray[Any]]) -> int | None:
    """The index of the best class, None where the model is no classifier."""
    best = classes(graph, description, outputs)
    return best[0].index if best else None


def picture(
    graph: Graph,
    description: ModelDescription,
    outputs: Sequence[npt.NDArray[Any]],
    size: tuple[int, int] | None = None,
) -> bytes | None:
    """The last output as a PNG, values in [0, 1] as brightness; None where the model's answer is no picture.

    Networks with several maps, as edge detectors have, give their best one last. `size` is (width, height) to resize
    to, where the network saw a picture of other proportions than its own.
    """
    if description.answer != "image" or not outputs:
        return None
    from PIL import Image  # noqa: PLC0415 — only who writes pictures needs Pillow

    values = np.nan_to_num(real_values(graph.tensors[graph.outputs[-1]], outputs[-1])[0])
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


def digests(graph: Graph, outputs: Sequence[npt.NDArray[Any]]) -> tuple[OutputDigest, ...]:
    """What is needed to compare the outputs with another run's to the bit."""
    return tuple(
        OutputDigest(
            graph.tensors[index].name,
            tuple(values.shape),
            str(values.dtype),
            hashlib.sha256(np.ascontiguousarray(values).data).hexdigest(),
        )
        for index, values in zip(graph.outputs, outputs, strict=True)
    )
