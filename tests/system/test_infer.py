"""`legion infer` on a real group: what it answers is what the whole model says, and every mistake is one line."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from legion_iot.lab.whole_model import run_whole_model
from tests.cli.schemas import check

from .conftest import PATIENCE, SCRIPTS
from .served import Served, serve


@pytest.fixture(scope="module")
def served(cache: Path) -> Iterator[Served]:
    with serve(cache, "efficientnet-lite0", "hed", "detector") as made:
        yield made


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twice as wide as high, of all colours; every pixel of it is known."""
    rows, columns = np.mgrid[0:64, 0:128]
    pixels = np.stack([rows * 4, columns * 2, (rows + columns) % 256], axis=2).astype(np.uint8)
    path = tmp_path_factory.mktemp("pictures") / "known.png"
    Image.fromarray(pixels).save(path)
    return path


def infer(served: Served, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = served.stage.run("infer", *arguments, "--broker", served.url)
    assert done.returncode == code, done.stderr
    return done


def answer(served: Served, *arguments: str) -> dict[str, Any]:
    return check("infer", infer(served, *arguments, "--json").stdout)


def as_input(picture: Path, width: int, height: int, box: tuple[int, int, int, int]) -> npt.NDArray[np.float32]:
    """What a network without metadata is given of a picture: the usual guess, reckoned here."""
    with Image.open(picture) as image:
        resized = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC, box=box)
    return ((np.asarray(resized, np.float32) - 127.5) / 127.5)[np.newaxis]


def approximately(value: Any) -> Any:
    """As far as the six digits of a result go."""
    return pytest.approx(value, abs=1e-6)


def test_a_classifier(served: Served, picture: Path) -> None:
    found = answer(served, "efficientnet-lite0", str(picture))
    # The largest central part in the network's proportions, 83 × 61.
    width = 64 * 83 / 61
    value = as_input(picture, 83, 61, ((128 - width) / 2, 0, (128 + width) / 2, 64))  # type: ignore[arg-type]
    (scores,), _ = run_whole_model(served.files["efficientnet-lite0"], value, 1)
    best = np.argsort(-scores[0])[:5]
    assert [each["index"] for each in found["result"]["answer"]] == list(best)
    assert [each["score"] for each in found["result"]["answer"]] == pytest.approx(scores[0][best], abs=1e-6)
    assert found["result"]["outputs"][0]["values"] == pytest.approx(scores[0], rel=1e-6)
    assert (found["ok"], found["answered"], found["failed"]) == (True, 1, {})
    assert set(found["agents"]) <= {"left", "right"}
    shown = infer(served, "efficientnet-lite0", str(picture))
    assert f"class {best[0]}" in shown.stdout.splitlines()[0]
    assert shown.stdout.splitlines()[-1].startswith("answered in ")
    assert shown.stderr == ""


def test_a_detector(served: Served, picture: Path, tmp_path: Path) -> None:
    """It sees the whole picture, so that fractions of its input are fractions of the picture."""
    saved = tmp_path / "boxes.png"
    found = answer(served, "detector", str(picture), "--save", str(saved))
    value = as_input(picture, 64, 64, (0, 0, 128, 64))
    (corners, classes, scores, count), _ = run_whole_model(served.files["detector"], value, 1)
    expected = [
        (int(classes[0, i]), approximately(scores[0, i]), approximately(np.clip(corners[0, i], 0, 1)))
        for i in range(int(count[0]))
        if scores[0, i] >= 0.25
    ]  # fmt: skip
    assert expected, "the network finds nothing, so that nothing is tested"
    result = found["result"]
    assert result["kind"] == "boxes"
    assert [each["score"] for each in result["answer"]] == sorted((a["score"] for a in result["answer"]), reverse=True)
    for each in result["answer"]:
        assert any((each["index"], each["score"], each["box"]) == one for one in expected), each
    assert len(result["answer"]) == len(expected)
    with Image.open(saved) as drawn, Image.open(picture) as original:
        assert drawn.size == original.size
        assert drawn.tobytes() != original.tobytes()
    shown = infer(served, "detector", str(picture)).stdout.splitlines()
    assert shown[0].split() == ["score", "object", "top", "left", "bottom", "right"]
    assert len(shown) == len(expected) + 2
    array = tmp_path / "array.npy"
    np.save(array, value)
    refused = infer(served, "detector", str(array), "--save", str(tmp_path / "none.png"))
    assert "boxes can be drawn on a picture only" in refused.stderr
    assert not (tmp_path / "none.png").exists()


def test_a_picture_as_answer(served: Served, picture: Path, tmp_path: Path) -> None:
    saved = tmp_path / "edges.png"
    found = answer(served, "hed", str(picture), "--save", str(saved))
    width = 64 * 64 / 48
    value = as_input(picture, 64, 48, ((128 - width) / 2, 0, (128 + width) / 2, 64))  # type: ignore[arg-type]
    (edges,), _ = run_whole_model(served.files["hed"], value, 1)
    with Image.open(saved) as drawn:
        np.testing.assert_array_equal(np.asarray(drawn), np.clip(np.rint(edges[0, ..., 0] * 255), 0, 255))
    assert found["saved"] == str(saved)
    assert found["result"]["image"].endswith("/image")


def test_many_requests_and_standard_input(served: Served, picture: Path) -> None:
    found = answer(served, "efficientnet-lite0", str(picture), "--count", "20", "--window", "4")
    assert (found["answered"], found["failed"]) == (20, {})
    times = found["latency_ms"]
    assert times["min"] <= times["median"] <= times["p95"] <= times["max"]
    line = [str(SCRIPTS / "legion"), "infer", "efficientnet-lite0", "-", "--json", "--broker", served.url]
    piped = subprocess.run(line, input=picture.read_bytes(), capture_output=True, timeout=PATIENCE, check=True)
    assert json.loads(piped.stdout)["result"]["outputs"] == found["result"]["outputs"]


def test_mistakes_are_one_line(served: Served, picture: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.jpg"
    text.write_text("no picture")
    for arguments, code, says in (
        (("hedd", str(picture)), 8, "no model hedd; did you mean hed? served are: efficientnet-lite0, hed, detector"),
        (("hed", str(text)), 8, "bad-input: the payload is no JPEG"),
        (("hed", "-"), 3, "standard input is empty"),
        (("hed", str(picture), "--base-topic", "elsewhere"), 8, "no orchestrator is online below 'elsewhere'"),
    ):
        done = infer(served, *arguments, code=code)
        assert (done.stdout, done.stderr.count("\n")) == ("", 1), done.stderr
        assert says in done.stderr


def test_many_requests_that_fail(served: Served, tmp_path: Path) -> None:
    file = io.BytesIO()
    np.save(file, np.zeros((1, 2), np.float32))
    (tmp_path / "small.npy").write_bytes(file.getvalue())
    done = infer(served, "hed", str(tmp_path / "small.npy"), "--count", "9", "--json", code=8)
    report = check("infer", done.stdout)
    assert (report["ok"], report["answered"], report["failed"], report["latency_ms"]) == (
        False,
        0,
        {"bad-input": 1},
        None,
    )
    assert "the model takes float32" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("form", ["--json", "--count=2"])
def test_a_reader_that_has_gone(served: Served, picture: Path, form: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    line = [str(SCRIPTS / "legion"), "infer", "hed", str(picture), form, "--broker", served.url]
    try:
        done = subprocess.run(line, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=PATIENCE, check=False)
    finally:
        os.close(writer)
    assert done.returncode == 0, done.stderr


def test_ctrl_c(served: Served, picture: Path) -> None:
    program = served.stage.start("legion", "infer", "hed", str(picture), "--count", "100000", "--broker", served.url)
    program.wait_for_line("of 100000 answered")
    program.process.send_signal(signal.SIGINT)
    assert program.wait(PATIENCE) == 130
    assert program.lines[-1] == "legion: interrupted"
