"""`legion bench footprint`: its figures beside those taken in other ways."""

from __future__ import annotations

import importlib.metadata
import subprocess
from pathlib import Path

import pytest

from legion_iot.bench import footprint
from tests.cli.schemas import check
from tests.cli.test_commands import run

pytest.importorskip("ai_edge_litert.interpreter")


def test_what_the_agent_brings_and_how_large_it_is() -> None:
    sizes = footprint.disk_sizes()
    # What the environment markers choose here, and what those need.
    assert {"legion-iot", "numpy", "paho-mqtt", "msgpack", "flatbuffers", "tflite", "ai-edge-litert"} <= set(sizes)
    assert not {"typer", "rich", "matplotlib", "pillow", "cryptography", "zeroconf", "pytest"} & set(sizes)
    (package,) = (Path(str(f.locate())).parent for f in importlib.metadata.files("msgpack") or () if f.name == "ext.py")
    counted = subprocess.run(
        ["du", "--summarize", "--apparent-size", "--bytes", "--exclude=__pycache__", str(package)],
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    # `du` counts the directory itself, and not the distribution's metadata.
    assert abs(sizes["msgpack"] - int(counted.stdout.split()[0])) < 20_000


def test_the_bench_holds_what_is_promised() -> None:
    done = run("legion", "bench", "footprint", "--quick", "--json")
    report = check("bench footprint", done.stdout)
    assert (done.returncode, done.stderr) == (0, ""), report["checks"]
    assert [check["ok"] for check in report["checks"]] == [True, True]
    rows = {row["what"]: row for row in report["rows"]}
    # Nothing that runs Python and the runtime has less, and nothing that idles has this much.
    assert 20e6 < rows["bare runtime"]["resident"] < rows["idle agent"]["resident"] < 200e6
    total = rows.pop("on disk: all")["bytes"]
    assert total == sum(row["bytes"] for row in rows.values() if "bytes" in row)
