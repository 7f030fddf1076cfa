"""`legion verify` and `legion model show`, as a user types them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from legion_iot.model import tflite
from legion_iot.model.builder import GraphBuilder
from tests.cli.schemas import check
from tests.model.random_networks import RandomNetwork


def legion(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "legion_iot.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def answer(*arguments: object) -> dict[str, Any]:
    done = legion(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    words = " ".join(str(word) for word in arguments[:2])
    return check("verify" if arguments[0] == "verify" else words, done.stdout)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network: two convolutions, a pool, and a classifier that is not local."""
    net = GraphBuilder("small", seed=1)
    source = net.input((1, 24, 20, 3))
    branch = net.conv2d(source, 8, kernel=3, activation="relu")
    joined = net.add(branch, net.conv2d(branch, 8, kernel=3))
    pooled = net.max_pool(joined, 2)
    path = tmp_path_factory.mktemp("models") / "small.tflite"
    tflite.write_file(net.finish(net.softmax(net.fully_connected(net.global_mean(pooled), 5))), path)
    return path


def test_a_sound_network_is_exact(network: Path) -> None:
    report = answer("verify", network)
    assert report["ok"] is True
    assert report["exact"] is True
    assert report["max_abs_error"] == report["max_rel_error"] == 0.0
    assert (report["trunk_units"], report["units"]) == (3, 6)  # conv, residual pair, pool; mean, dense, softmax
    assert report["trunk_ended_by"] == "MEAN reduces over the whole image"
    assert report["live_tensors_max"] == 1
    assert report["tilings_tried"] == 4
    assert report["kernel_path"] == "xnnpack"
    assert report["runtime"]


@pytest.mark.parametrize("flags", [("--tiles", "3"), ("--tiles", "2x3", "--blocks", "all"), ("--blocks", "2")])
def test_blocks_and_tiles_are_cut_as_asked(network: Path, flags: tuple[str, ...]) -> None:
    assert answer("verify", network, *flags)["tilings_tried"] == 1


def test_a_network_without_a_trunk_runs_whole_and_says_why(tmp_path: Path) -> None:
    net = GraphBuilder("vector", seed=1)
    source = net.input((1, 8))
    path = tmp_path / "vector.tflite"
    tflite.write_file(net.finish(net.fully_connected(source, 4)), path)
    done = legion("verify", path)
    assert done.returncode == 0, done.stderr
    assert "FULLY_CONNECTED is not spatially local" in done.stderr
    assert "bit for bit" in done.stdout


def test_several_outputs_and_integers(tmp_path: Path) -> None:
    path = tmp_path / "integers.tflite"
    tflite.write_file(RandomNetwork(4, "int8").graph(), path)
    assert answer("verify", path, "--seed", 3)["exact"] is True


@pytest.mark.parametrize(
    ("flags", "code", "cause"),
    [
        (("--tiles", "0"), 2, "--tiles"),
        (("--tiles", "2x"), 2, "--tiles"),
        (("--blocks", "none"), 2, "--blocks"),
        (("--input-shape", "1xbig"), 2, "--input-shape"),
        (("--input-shape", "1x24x20x3x1"), 4, "refuses"),
        (("--image", "/nowhere.jpg"), 3, "/nowhere.jpg"),
    ],
)
def test_wrong_moves_are_one_line(network: Path, flags: tuple[str, ...], code: int, cause: str) -> None:
    done = legion("verify", network, *flags)
    complaints = [line for line in done.stderr.splitlines() if not line.startswith("·")]
    assert done.returncode == code, done.stderr
    assert len(complaints) == 1, done.stderr
    assert complaints[0].startswith("legion: ")
    assert cause in complaints[0]
    assert done.stdout == ""


@pytest.mark.parametrize(("wire", "bound"), [("float16", 0.01), ("int8", 0.1)])
def test_what_a_wire_dtype_does_to_the_answer(network: Path, wire: str, bound: float) -> None:
    report = answer("verify", network, "--wire", wire)
    assert report["ok"] is True
    assert report["exact"] is False
    assert report["wire"] == wire
    assert 0 < report["max_rel_error"] <= report["bound"] == bound
    assert report["top_class_stays"] is True
    said = legion("verify", network, "--wire", wire, "--blocks", "all").stdout
    assert f"with maps as {wire} at every cut" in said
    assert "the best class stays" in said


def test_integers_never_change_on_the_wire(tmp_path: Path) -> None:
    path = tmp_path / "integers.tflite"
    tflite.write_file(RandomNetwork(4, "int8").graph(), path)
    assert answer("verify", path, "--wire", "int8")["exact"] is True


def test_files_that_are_no_models_are_named(tmp_path: Path, network: Path) -> None:
    text, short = tmp_path / "text.tflite", tmp_path / "short.tflite"
    text.write_text("not a model, but long enough to be read")
    short.write_bytes(network.read_bytes()[:-500])
    for command in (("verify", text), ("verify", short), ("model", "show", text), ("model", "show", short)):
        done = legion(*command)
        complaints = [line for line in done.stderr.splitlines() if not line.startswith("·")]
        assert done.returncode == 4, command
        assert len(complaints) == 1, done.stderr
        assert str(command[-1]) in complaints[0]


def test_show_lists_what_a_cut_costs(network: Path) -> None:
    report = answer("model", "show", network)
    units = report["units"]
    assert [unit["output_shape"] for unit in units] == [[1, 24, 20, 8], [1, 24, 20, 8], [1, 12, 10, 8]]
    # 24·20 pixels, 8 channels out of 3·3·3 products; two operations each.
    assert units[0]["mflop"] == pytest.approx(2 * 24 * 20 * 8 * 27 / 1e6, abs=1e-3)
    assert units[0]["weight_bytes"] == 4 * (8 * 27 + 8)
    assert [unit["live_bytes"] for unit in units] == [4 * 24 * 20 * 8, 4 * 24 * 20 * 8, 4 * 12 * 10 * 8]
    # 3×3, then another 3×3, then 2×2 windows of both.
    assert [unit["receptive_field"] for unit in units] == [[3, 3], [5, 5], [6, 6]]
    assert report["tail"] == ["MEAN", "FULLY_CONNECTED", "SOFTMAX"]
    assert "MEAN reduces over the whole image" in legion("model", "show", network).stdout
