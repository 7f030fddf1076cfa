"""Integer relatives of float32 networks, quantised after training by Google's `ai-edge-quantizer` (extra `quantise`).

Weights are int8 by channel, maps int8 by tensor, input and output among them; the scales of maps come from one run of
the float32 network on the input that it is measured with.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from legion_iot.errors import ModelError, UsageError
from legion_iot.files import replace_file
from legion_iot.model import tflite
from legion_iot_agent.executor import seeded_inputs
from legion_iot_agent.isolation import run_isolated

TIMEOUT = 300.0  # seconds
_SIGNATURE = "serving_default"

Progress = Callable[[str, float | None], None]


def require(name: str) -> None:
    """Raises UsageError where what makes the network of that name is not installed."""
    if find_spec("ai_edge_quantizer") is None:
        cure = "install it with: pip install 'legion-iot[quantise]'"
        raise UsageError(f"{name} needs ai-edge-quantizer (on x86-64 only); {cure}")


def quantise(source: Path, target: Path) -> None:
    """Write the integer relative of a network with float32 input; raises ModelError where it cannot be made."""
    try:
        run_isolated(_quantise, (source, target), lambda text, fraction: None, TIMEOUT)
    except ModelError as error:
        raise ModelError(f"{source}: cannot be quantised ({error})") from None


def _quantise(source: Path, target: Path, progress: Progress) -> None:
    # An extra, and slow to import: where it is not needed, nobody waits for it.
    from ai_edge_quantizer import quantizer, recipe  # noqa: PLC0415

    graph = tflite.open_file(source)
    names = [f"input{place}" for place in range(len(graph.inputs))]
    picture = dict(zip(names, seeded_inputs(graph), strict=True))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that keeping all maps, which calibration does, takes memory
            made = quantizer.Quantizer(_with_signature(source), recipe.static_wi8_ai8())
            ranges = made.calibrate({_SIGNATURE: [picture]}, num_threads=1)
            result = made.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    except (ValueError, RuntimeError) as error:
        raise ModelError(str(error)) from None
    replace_file(target, bytes(result.quantized_model), 0o644)


def _with_signature(source: Path) -> bytes:
    """The model with its inputs and outputs named, without which calibration cannot address them."""
    from ai_edge_litert import schema_py_generated as schema  # noqa: PLC0415
    from ai_edge_litert.tools import flatbuffer_utils  # noqa: PLC0415

    model = flatbuffer_utils.read_model(str(source))
    for buffer in model.buffers:
        if buffer.data is not None:
            buffer.data = np.frombuffer(buffer.data, np.uint8)  # an array is written at once, bytes one by one
    (graph,) = model.subgraphs
    inputs, outputs = (
        [schema.TensorMapT(f"{kind}{place}", int(tensor)) for place, tensor in enumerate(tensors)]
        for kind, tensors in (("input", graph.inputs), ("output", graph.outputs))
    )
    model.signatureDefs = [schema.SignatureDefT(inputs, outputs, _SIGNATURE, 0)]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))
