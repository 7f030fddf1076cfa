"""One run of the whole model in a process of its own, as a single device would run it.

What the runtime's native code prints stays out of the terminal, and what it dies of ends that process only. The input
goes in as `.npy` on standard input, which then stays open: when it closes, whoever asked is gone. The outputs come
back as `.npz` on standard output.
"""

from __future__ import annotations

import io
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from legion_iot.errors import LegionError, ModelError
from legion_iot_agent.interpreter import Interpreter

Array = npt.NDArray[Any]

TIMEOUT = 300.0  # seconds
_SECONDS = "seconds"  # the array of times beside the outputs


def run_whole_model(model: Path, value: Array, runs: int) -> tuple[list[Array], float]:
    """The outputs of the whole model for `value`, and the median milliseconds of `runs` runs on one thread.

    Raises ModelError where the model cannot be run.
    """
    file = io.BytesIO()
    np.save(file, value, allow_pickle=False)
    payload = file.getvalue()
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as errors:
        code = _run_child([str(model), str(runs), str(len(payload))], payload, answer, errors)
        if code != 0:
            raise ModelError(f"{model}: cannot be run whole ({_cause(code, errors)}); try another model")
        answer.seek(0)
        with np.load(io.BytesIO(answer.read()), allow_pickle=False) as arrays:
            outputs = [arrays[f"output-{n}"] for n in range(len(arrays.files) - 1)]
            return outputs, statistics.median(arrays[_SECONDS].tolist()) * 1e3


def _run_child(arguments: list[str], payload: bytes, answer: IO[bytes], errors: IO[bytes]) -> int | None:
    """The exit code of the child; None when it took too long."""
    child = subprocess.Popen(
        [sys.executable, "-m", __name__, *arguments],
        stdin=subprocess.PIPE,
        stdout=answer,
        stderr=errors,
        start_new_session=True,  # Ctrl-C is for us; the child ends with its standard input
        env={**os.environ, "PYTHONSAFEPATH": "1"},  # modules come from the installation, not from where the user is
    )
    assert child.stdin is not None
    try:
        child.stdin.write(payload)
        child.stdin.flush()
        return child.wait(TIMEOUT)
    except subprocess.TimeoutExpired:
        return None
    except BrokenPipeError:
        return child.wait(TIMEOUT)
    finally:
        child.kill()
        child.wait()


def _cause(code: int | None, errors: IO[bytes]) -> str:
    if code is None:
        return f"it took more than {TIMEOUT:g} s"
    if code < 0:
        return f"the TFLite runtime died of signal {-code}"
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"exit code {code}"


def main() -> None:
    """What the child does; arguments: the model's path, the number of runs, the bytes of the input."""
    model, runs, size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    value = np.load(io.BytesIO(sys.stdin.buffer.read(size)), allow_pickle=False)
    threading.Thread(target=_end_with_input, daemon=True).start()
    try:
        interpreter = Interpreter(model)
        outputs = interpreter.run([value])
        seconds = []
        for _ in range(runs):
            start = time.perf_counter()
            interpreter.run([value])
            seconds.append(time.perf_counter() - start)
    except LegionError as error:
        sys.exit(str(error))
    arrays: dict[str, Array] = {f"output-{number}": output for number, output in enumerate(outputs)}
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **{_SECONDS: np.array(seconds)}, **arrays)
    sys.stdout.buffer.write(file.getvalue())


def _end_with_input() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
