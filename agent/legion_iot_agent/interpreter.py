"""One TFLite interpreter, whichever runtime is installed: `ai_edge_litert` first, `tflite_runtime` second.

Both offer the same `Interpreter` class; results of integer models are equal bit for bit only within one runtime and
kernel path, so both are named in `runtime_info`.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from legion_iot.errors import ModelError, RuntimeMissingError

_FAILURES = (ValueError, RuntimeError, MemoryError)
RUNTIMES = (("ai_edge_litert", "ai-edge-litert"), ("tflite_runtime", "tflite-runtime"))


@dataclass(frozen=True, slots=True)
class RuntimeInfo:
    """The runtime in use: distribution name, version, and whether XNNPACK's kernels are used."""

    name: str
    version: str
    kernel_path: str


@functools.cache
def _module() -> tuple[Any, str]:
    causes = []
    for package, distribution in RUNTIMES:
        try:
            return importlib.import_module(f"{package}.interpreter"), distribution
        except ImportError as error:
            causes.append(f"{distribution}: {error}")
    raise RuntimeMissingError(
        f"no TFLite runtime can be imported ({'; '.join(causes)}); install one with: pip install 'legion-iot[agent]'"
    )


def runtime_info(xnnpack: bool = True) -> RuntimeInfo:
    """Which runtime computes here. Raises RuntimeMissingError where none is installed."""
    _, distribution = _module()
    # Not from the distribution's metadata, the reading of which takes memory and time on every device.
    package = next(package for package, name in RUNTIMES if name == distribution)
    version = str(importlib.import_module(package).__version__)
    return RuntimeInfo(distribution, version, "xnnpack" if xnnpack else "builtin")


class Interpreter:
    """A loaded model, ready to run on inputs of fixed shapes.

    `threads` are compute threads; `xnnpack` chooses the kernel path. The file is loaded by path, so that weights stay
    file-backed pages. Raises ModelError where the runtime refuses the model.
    """

    def __init__(self, path: Path, threads: int = 1, xnnpack: bool = True) -> None:
        module, _ = _module()
        resolver = module.OpResolverType.AUTO if xnnpack else module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        try:
            self._interpreter = module.Interpreter(
                model_path=str(path), num_threads=threads, experimental_op_resolver_type=resolver
            )
            self._interpreter.allocate_tensors()
        except _FAILURES as error:
            raise ModelError(f"the TFLite runtime refuses the model ({_first_line(error)})") from None
        self._inputs = [detail["index"] for detail in self._interpreter.get_input_details()]
        self._outputs = [detail["index"] for detail in self._interpreter.get_output_details()]

    def run(self, inputs: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """The outputs for `inputs`, both in the order of the model; outputs are copies.

        Raises ModelError where shapes or dtypes do not fit, or the runtime fails.
        """
        try:
            for index, value in zip(self._inputs, inputs, strict=True):
                self._interpreter.set_tensor(index, value)
            self._interpreter.invoke()
            return [self._interpreter.get_tensor(index) for index in self._outputs]
        except _FAILURES as error:
            raise ModelError(f"the TFLite runtime cannot run the model ({_first_line(error)})") from None

    def delegate_nodes(self) -> int:
        """How many parts of the graph a delegate (XNNPACK) runs; one is best, since parts hand over by copies."""
        return sum(op["op_name"] == "DELEGATE" for op in self._interpreter._get_ops_details())


def allocated_shapes(path: Path, input_shapes: Mapping[int, tuple[int, ...]]) -> dict[int, tuple[int, ...]]:
    """The shape of every tensor of a model's file, once its inputs have the given shapes (by input position).

    Raises ModelError where the runtime refuses them.
    """
    module, _ = _module()
    try:
        # Delegates take tensors away; the builtin kernels keep the file's numbering.
        interpreter = module.Interpreter(
            model_path=str(path), experimental_op_resolver_type=module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        )
        inputs = interpreter.get_input_details()
        for position, shape in input_shapes.items():
            interpreter.resize_tensor_input(inputs[position]["index"], list(shape))
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ModelError(f"the TFLite runtime refuses the input shape ({_first_line(error)})") from None
    return {detail["index"]: tuple(int(n) for n in detail["shape"]) for detail in interpreter.get_tensor_details()}


def _first_line(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "there is too little memory"
    # Without a text it is mostly memory that could not be allocated.
    return str(error).strip().splitlines()[0] if str(error).strip() else "it gives no reason; is there memory left?"
