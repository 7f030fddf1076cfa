"""`legion cost`: tables, JSON, pictures, and what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from legion_iot.model import tflite
from tests.cli.schemas import check
from tests.runtime.networks import GRAPHS

DEVICES = """
[[device]]
name = "pi"
count = 2
board = "pi-4"
speed = { conv = 0.02, other = 0.01 }
link = { latency_ms = 0.5, up = "1 mbit", down = "2 mbit" }

[[device]]
name = "slug"
speed = 0.00015
link = { latency_ms = 0.5, up = "1 mbit", down = "2 mbit" }
"""


def cost(directory: Path, *arguments: str, model: str = "residual", **environment: str) -> Any:
    """Run the command on a small network and the devices above, in a directory that has both."""
    tflite.write_file(GRAPHS[model](), directory / "model.tflite")
    (directory / "group.toml").write_text(DEVICES)
    return subprocess.run(
        [Path(sys.executable).with_name("legion"), "cost", "model.tflite", *arguments],
        cwd=directory, env={**os.environ, "COLUMNS": "80", "NO_COLOR": "1", **environment},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_for_programs_the_matrices_agree_with_each_other(tmp_path: Path) -> None:
    """T follows from S, E, R and A by the paper's formula."""
    done = cost(tmp_path, "--devices", "group.toml", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    shown = check("cost", done.stdout)
    assert [device["name"] for device in shown["devices"]] == ["pi1", "pi2", "slug"]
    units = len(shown["T"])
    assert units == 3
    for first in range(units):
        assert shown["T"][first][:first] == [None] * first
        for last in range(first, units):
            seconds = [
                d["S"][first] * d["A"][first][last]
                + sum(d["E"][k] * d["A"][k][last] for k in range(first, last + 1))
                + d["R"][last]
                for d in shown["devices"]
                if d["rows"][last][0] < d["rows"][last][1]
            ]
            assert shown["T"][first][last] == pytest.approx(max(seconds))
    # Stated speeds are taken to be right to a quarter.
    fast = shown["devices"][0]
    assert fast["E_deviation"] == pytest.approx([0.25 * run for run in fast["E"]])


def test_for_people_tables_fit_the_terminal_and_there_is_a_picture(tmp_path: Path) -> None:
    group = cost(tmp_path, "--devices", "group.toml")
    assert (group.returncode, group.stderr) == (0, "")
    assert all(word in group.stdout for word in ("pi1", "slug", "S ms", "E ms", "R ms", "25%", "T: cost of the block"))
    one = cost(tmp_path, "--devices", "group.toml", "--device", "slug", "--picture", "cost.png")
    assert (one.returncode, one.stderr) == (0, "")
    assert "pi1" not in one.stdout
    assert "A: rows a unit needs on slug" in one.stdout
    assert max(map(len, (group.stdout + one.stdout).splitlines())) <= 80
    assert one.stdout.splitlines()[-1] == "picture saved as cost.png"
    with Image.open(tmp_path / "cost.png") as picture:
        assert min(picture.size) > 600
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 50


def test_without_matplotlib_the_cure_is_named(tmp_path: Path) -> None:
    (tmp_path / "matplotlib.py").write_text("raise ImportError")
    done = cost(tmp_path, "--devices", "group.toml", "--picture", "cost.png", PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr == "legion: --picture needs matplotlib; install it with: pip install 'legion-iot[plot]'\n"


def test_a_network_without_a_trunk_has_no_matrices(tmp_path: Path) -> None:
    done = cost(tmp_path, "--devices", "group.toml", "--picture", "cost.png", model="flat")
    assert done.returncode == 0
    assert "nothing of model can be tiled" in done.stderr
    assert not (tmp_path / "cost.png").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--broker", "mqtt://127.0.0.1:1"), 5, "nobody listens"),
        (("--devices", "none.toml"), 3, "none.toml"),
        (("--devices", "group.toml", "--device", "ant"), 2, "pi1, pi2, slug"),
        (("--devices", "group.toml", "--picture", "cost.jpg"), 2, ".png"),
        (("--devices", "group.toml", "--picture", "nowhere/cost.png"), 3, "nowhere"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, arguments: tuple[str, ...], code: int, words: str) -> None:
    done = cost(tmp_path, *arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1)
    assert words in done.stderr
