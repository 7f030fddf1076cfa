"""`legion orchestrator run` where it cannot run."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from legion_iot.model import tflite
from tests.model.random_networks import RandomNetwork


def test_a_broker_out_of_reach_is_one_line(tmp_path: Path) -> None:
    model = tmp_path / "random.tflite"
    tflite.write_file(RandomNetwork(1).graph(), model)
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # taken, and nobody listens
        address = f"mqtt://127.0.0.1:{reserved.getsockname()[1]}"
        command = [sys.executable, "-m", "legion_iot.cli", "orchestrator", "run", str(model), "--broker", address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 5
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("legion: nobody listens at 127.0.0.1:")
