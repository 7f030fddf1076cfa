"""How sub-models run on this device: with so many threads, by these kernels, as fast as it may."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from legion_iot_agent.interpreter import Interpreter
from legion_iot_agent.throttle import Throttle

Array = npt.NDArray[Any]
Run = Callable[[Sequence[Array]], list[Array]]


class Engine:
    """Loads models. `threads` and `xnnpack` are the interpreter's; a `cpu_share` stretches computing to those cores."""

    def __init__(self, threads: int = 1, xnnpack: bool = True, cpu_share: float | None = None) -> None:
        self.threads = threads
        self.xnnpack = xnnpack
        self._throttle = None if cpu_share is None else Throttle(cpu_share, threads)

    def load(self, path: Path, inputs: Sequence[Array]) -> Run:
        """Load a model and run it on `inputs`, since the first run allocates and packs; how to run it from now on.

        Raises ModelError where the runtime refuses the model, or cannot run it.
        """
        interpreter = Interpreter(path, self.threads, self.xnnpack)
        interpreter.run(inputs)
        if self._throttle is None:
            return interpreter.run
        work = self._throttle.learn(lambda: interpreter.run(inputs))
        return lambda values: work.stretch(lambda: interpreter.run(values))
