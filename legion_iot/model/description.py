"""What a model file says about itself: labels, preprocessing, and the kind of its answer.

A network of the zoo carries this as JSON in the metadata buffer `legion.model.json`, so that the file alone is
enough to use it:

    {"answer": "classes", "labels": ["tench", …], "preprocessing": {"mean": [127], "std": [128], …}}

Other runtimes ignore the buffer. A file from elsewhere has none; `describe` then guesses, as said there.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from types import MappingProxyType
from typing import Any, Literal, get_args

import numpy as np

from legion_iot.errors import ModelError
from legion_iot.model import tflite_metadata
from legion_iot.model.graph import Bytes, Graph
from legion_iot.model.preprocessing import Preprocessing

METADATA_NAME = "legion.model.json"
MAX_METADATA_BYTES = 1 << 20
MAX_LABELS = 100_000

Answer = Literal["classes", "boxes", "image", "tensors"]

DETECTION = "TFLite_Detection_PostProcess"  # the runtime's own op behind detectors, whose outputs are boxes


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """How to feed a model and how to read its answer.

    `labels` name the classes by index; None where nobody said. "classes" is a vector of scores, "boxes" what
    detectors find, "image" a map to be looked at (one value in [0, 1] per pixel, or three), "tensors" anything else.
    """

    answer: Answer
    preprocessing: Preprocessing
    labels: tuple[str, ...] | None = None


def describe(graph: Graph) -> ModelDescription:
    """What the file says about itself, in our metadata or in TFLite's, or the usual guess.

    The guess for a float input is value = byte / 127.5 − 1 (TensorFlow's convention for image networks); a uint8 or
    int8 input takes the picture's bytes as they are, which is what both usual quantisations of [0, 1] and [−1, 1]
    come to; one input channel means gray. A network that ends in `DETECTION` finds "boxes", and sees the whole picture,
    stretched, as detectors are trained to. Otherwise the first output decides the answer: [1, N] is "classes",
    [1, H, W, 1] or [1, H, W, 3] with H, W > 1 is "image". Raises ModelError where the metadata is there and cannot be
    read.
    """
    content = graph.metadata.get(METADATA_NAME)
    return _from_file_metadata(graph, _guess(graph)) if content is None else _parse(content)


def detection_outputs(graph: Graph) -> tuple[int, int, int, int] | None:
    """Where among the outputs are corners, classes, scores and count of a network that ends in `DETECTION`, else None.

    Source: TensorFlow Lite, kernels/detection_postprocess.cc; files list its outputs in any order.
    """
    for op in graph.ops:
        if op.custom_code == DETECTION and len(op.outputs) == 4 and set(op.outputs) <= set(graph.outputs):
            corners, classes, scores, count = (graph.outputs.index(tensor) for tensor in op.outputs)
            return corners, classes, scores, count
    return None


def embed(description: ModelDescription) -> bytes:
    """The metadata buffer for a description; the same bytes for the same description."""
    document = {
        "answer": description.answer,
        "labels": None if description.labels is None else list(description.labels),
        "preprocessing": asdict(description.preprocessing),
    }
    return json.dumps(document, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def with_description(graph: Graph, description: ModelDescription) -> Graph:
    """The same network, carrying the description."""
    content = np.frombuffer(embed(description), np.uint8)
    return replace(graph, metadata=MappingProxyType({**graph.metadata, METADATA_NAME: content}))


def _guess(graph: Graph) -> ModelDescription:
    if not graph.inputs or not graph.outputs:
        raise ModelError("the model has no input or no output; it cannot be run on anything")
    source = graph.tensors[graph.inputs[0]]
    gray = len(source.shape) == 4 and source.shape[3] == 1
    preprocessing = Preprocessing(channels="gray" if gray else "rgb", raw=source.dtype in {"uint8", "int8"})
    if detection_outputs(graph) is not None:
        return ModelDescription("boxes", replace(preprocessing, fit="stretch"))
    return ModelDescription(_guess_answer(graph.tensors[graph.outputs[0]].shape), preprocessing)


def _from_file_metadata(graph: Graph, guess: ModelDescription) -> ModelDescription:
    """The guess, corrected by the normalisation and labels in TFLite's own metadata, as far as they fit."""
    buffer = graph.metadata.get(tflite_metadata.METADATA_NAME)
    if buffer is None or graph.file is None:
        return guess
    found = tflite_metadata.read_metadata(buffer, graph.file)
    preprocessing = guess.preprocessing
    if found.mean and found.std and not preprocessing.raw:
        with contextlib.suppress(ValueError):  # figures that fit no picture
            preprocessing = replace(preprocessing, mean=found.mean, std=found.std)
    labels = found.labels if 0 < len(found.labels) <= MAX_LABELS else None
    return replace(guess, preprocessing=preprocessing, labels=labels)


def _guess_answer(shape: tuple[int, ...]) -> Answer:
    match shape:
        case (1, classes) if classes > 1:
            return "classes"
        case (1, height, width, 1 | 3) if height > 1 and width > 1:
            return "image"
        case _:
            return "tensors"


def _parse(content: Bytes) -> ModelDescription:
    if content.size > MAX_METADATA_BYTES:
        raise ModelError(f"the model's {METADATA_NAME} is larger than {MAX_METADATA_BYTES >> 10} KiB; take it out")
    try:
        document = json.loads(content.tobytes())
        return _checked(document)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelError(f"the model's {METADATA_NAME} cannot be read ({error}); take it out or mend it") from None


def _checked(document: Mapping[str, Any]) -> ModelDescription:
    answer, labels = document["answer"], document.get("labels")
    if answer not in get_args(Answer):
        raise ValueError(f"no such answer: {answer!r}")
    if labels is not None:
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise TypeError("labels are not a list of texts")
        if len(labels) > MAX_LABELS:
            raise ValueError(f"more than {MAX_LABELS} labels")
    names = None if labels is None else tuple(labels)
    return ModelDescription(answer, _preprocessing(document.get("preprocessing", {})), names)


def _preprocessing(document: Mapping[str, Any]) -> Preprocessing:
    known = {field.name for field in fields(Preprocessing)}
    values = {name: value for name, value in document.items() if name in known}
    for name in ("mean", "std"):
        if name in values:
            values[name] = tuple(float(number) for number in values[name])
    if "crop" in values:
        values["crop"] = float(values["crop"])
    if "raw" in values:
        values["raw"] = bool(values["raw"])
    return Preprocessing(**values)
