"""`legion bench fleet`: what it counts, keeps and refuses, and its smallest cell with real processes."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion_iot.bench.fleet import bench, document, published, quantised
from legion_iot.bench.fleet.account import Account
from legion_iot.bench.fleet.bench import Options, wanted
from legion_iot.bench.fleet.cells import OFFLOAD, Cell, Cost, Figures, Outcome, Rate, Record, read_record
from legion_iot.bench.fleet.checks import FLOAT16_TARGETS, TARGETS, checks, profiling_ratios
from legion_iot.bench.fleet.experiment import AUTO_FOR_THROUGHPUT, FRAMES
from legion_iot.bench.fleet.figures import behind_fastest, gap, loss, noise, prediction_error, speedup
from legion_iot.bench.fleet.groups import FIREFLY, MOST_CORES, Calibration, Fleet, calibrate, lab_of, parse_fleet
from legion_iot.bench.fleet.schedule import EXPERIMENTS, GROWN, cells
from legion_iot.bench.fleet.spending import Spent
from legion_iot.bench.fleet.tables import tables
from legion_iot.bench.report import BenchReport
from legion_iot.bench.verify import Question, verify_file
from legion_iot.cli import fleet_pictures
from legion_iot.errors import InputError, UsageError
from legion_iot.model import tflite
from legion_iot.model.builder import GraphBuilder
from legion_iot.model.graph import Graph
from legion_iot_agent.executor import seeded_inputs
from legion_iot_agent.interpreter import Interpreter

CELL = Cell("latency", "vgg16", "6F", ("single", "auto"), "float32", 100.0, 1)
CALIBRATION = Calibration("vgg16", 0.3, 1e11, 0.18, 0.14)


def figures(planner: str, *seconds: float, predicted: float = 0.0, cost: Cost = Cost()) -> Figures:  # noqa: B008
    return Figures(planner, planner, 1, 1, (seconds,), predicted, cost=cost)


def outcome(*found: Figures, bound: float = 0.0, requests: int = 8, exact: int = 8) -> Outcome:
    return Outcome(found, (), bound, bound / 2, requests, exact, 0.0, 1.1, 0.1)


# --- figures ---


def test_ratios_of_a_cell() -> None:
    measured = outcome(
        figures("single", 1.0, 2.0, 3.0), figures("auto", 0.5, predicted=0.4), figures("fss", 0.4), bound=0.4
    )
    assert speedup(measured, "auto") == 4.0
    assert speedup(measured, "halo") is None
    assert loss(measured, "auto") == pytest.approx(0.25)
    assert gap(measured, "auto") == pytest.approx(0.25)
    assert prediction_error(measured.figures[1]) == pytest.approx(-0.2)


@given(st.lists(st.floats(0.01, 10.0), min_size=2, max_size=20))
def test_the_spread_is_that_of_the_middle_half(seconds: list[float]) -> None:
    spread = figures("auto", *seconds).spread
    assert 0 <= spread <= (max(seconds) - min(seconds)) * 2 / min(seconds)
    assert figures("auto", *[3.0 * each for each in seconds]).spread == pytest.approx(spread)


def test_a_planner_is_as_fast_as_another_within_the_noise() -> None:
    wide = outcome(figures("auto", 0.9, 1.0, 1.1, 1.2), figures("halo", 0.8, 0.95, 1.0, 1.15), figures(OFFLOAD, 0.1))
    assert noise(wide) > 0.02
    behind = behind_fastest(wide, "auto")
    assert behind is not None
    assert behind <= 1
    close = outcome(figures("auto", 1.0, 1.0), figures("halo", 0.9, 0.9))
    assert behind_fastest(close, "auto") == pytest.approx(1 / 0.9 - 0.02)


# --- checks ---


def named(found: Outcome, cell: Cell = CELL) -> dict[str, bool]:
    return {check.name: check.ok for check in checks({cell: found})}


@pytest.mark.parametrize("network", TARGETS)
def test_targets_are_above_what_was_published(network: str) -> None:
    for group, target in TARGETS[network].items():
        assert target > published.SPEEDUP[network][group]
        for seconds, ok in ((1 / target - 0.001, True), (1 / target + 0.001, False)):
            found = named(
                outcome(figures("single", 1.0), figures("auto", seconds)), replace(CELL, network=network, group=group)
            )
            assert found[f"auto: speed-up, {network} on {group}, float32"] is ok
    assert set(FLOAT16_TARGETS) <= set(TARGETS)


def test_targets_hold_for_the_links_they_were_set_for() -> None:
    found = outcome(figures("single", 1.0), figures("auto", 0.9))
    assert not any("speed-up, vgg16" in name for name in named(found, replace(CELL, mbit=50.0)))


def test_every_kind_of_failure_is_told() -> None:
    bad = outcome(figures("single", 1.0), figures("auto", 1.1, predicted=0.5), bound=0.5, exact=7)
    assert [name for name, ok in named(replace(bad, cores=1.3)).items() if ok] == []
    good = outcome(figures("single", 1.0), figures("auto", 0.25, predicted=0.24), bound=0.22)
    assert [name for name, ok in named(good).items() if not ok] == []


def test_profiling_is_compared_with_really_run_fss() -> None:
    cell = replace(CELL, experiment="profiling", planners=("auto", "fss"))
    found = outcome(
        figures("auto", 1.0, cost=Cost(4, 16, 2.0, 0, 10.0)), figures("fss", 1.1, cost=Cost(400, 1600, 150.0, 0, 90.0))
    )
    assert profiling_ratios([found], "auto") == [(75.0, 9.0)]
    assert all(check.ok for check in checks({cell: found}))
    slow = replace(found, figures=(figures("auto", 2.0), found.figures[1]))
    assert not all(check.ok for check in checks({cell: slow}))


def test_throughput_is_compared_with_frames_and_with_workers() -> None:
    cell = replace(CELL, experiment="throughput", planners=(OFFLOAD,))
    rates = tuple(
        Rate(name, 16, (rate,)) for name, rate in ((AUTO_FOR_THROUGHPUT, 9.0), (FRAMES, 9.1), (OFFLOAD, 10.0))
    )
    found = named(replace(outcome(), rates=rates), cell)
    assert found["auto for throughput / frames, vgg16 on 6F, 16 in flight"]
    assert not found["auto for throughput / offload, vgg16 on 6F, 16 in flight"]


# --- what is kept ---


def test_a_record_outlives_the_run(tmp_path: Path) -> None:
    path = tmp_path / "cells.jsonl"
    record = read_record(path)
    assert record.finished == {}
    record.begin(CALIBRATION, "legion bench fleet")
    auto = replace(
        figures("auto", 0.5, cost=Cost(1, 2, 3.0, 0, 4.0)), traced=Account(client=0.1, links=0.4),
        expected=Account(computing=0.3), spent=(Spent("f1", 0.18, 0.05, 0.03, 1e6, 2e6),),
    )  # fmt: skip
    first = outcome(figures("single", 1.0, 1.1), auto, bound=0.4)
    other = replace(CELL, experiment="throughput", wire="float16")
    record.add(CELL, first)
    record.add(other, replace(outcome(), rates=(Rate("frames", 4, (1.0, 2.0)),)))
    again = read_record(path)
    again.begin(CALIBRATION, "legion bench fleet")
    assert again == record
    assert again.commands == ["legion bench fleet"]
    assert again.calibration == CALIBRATION
    assert list(again.finished) == [CELL, other]
    assert [name.name for name in tmp_path.iterdir()] == ["cells.jsonl"]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "no json",
        '{"schema": 0, "calibration": {}}',
        '{"schema": 2, "calibration": {}, "commands": []}',
        "[]",
        '{"schema": 2}\n{}',
    ],
)
def test_another_file_is_no_record(tmp_path: Path, content: str) -> None:
    path = tmp_path / "other.jsonl"
    path.write_text(content)
    with pytest.raises(InputError, match="--resume"):
        read_record(path)


def test_a_record_of_which_a_line_lacks_figures(tmp_path: Path) -> None:
    path = tmp_path / "cells.jsonl"
    record = Record(path)
    record.begin(CALIBRATION, "legion bench fleet")
    record.add(CELL, outcome(figures("auto", 1.0)))
    head, line = path.read_text().splitlines()
    table = json.loads(line)
    del table["outcome"]["bound"]
    path.write_text(f"{head}\n{json.dumps(table)}\n")
    with pytest.raises(InputError, match="--resume"):
        read_record(path)


# --- groups and cells ---


@given(st.integers(0, 6), st.integers(0, 6))
def test_groups_by_name(fireflies: int, odroids: int) -> None:
    fleet = Fleet(fireflies, odroids)
    if fleet.size:
        assert parse_fleet(fleet.label.lower()) == fleet
        devices = lab_of(fleet, CALIBRATION, 50.0).devices
        assert [device.board for device in devices] == ["rk3399"] * fireflies + ["xu4"] * odroids
        assert len({device.name for device in devices}) == fleet.size


@pytest.mark.parametrize("name", ["", "F", "0F", "2X", "2F+2F", "13F", "7F+6O", "2F3O"])
def test_what_names_no_group(name: str) -> None:
    with pytest.raises(UsageError, match="--groups"):
        parse_fleet(name)


@given(st.floats(1e9, 1e12))
def test_devices_are_as_fast_as_boards_where_the_machine_allows(speed: float) -> None:
    made = calibrate("vgg16", 30.7e9, 30.7e9 / speed)
    assert made.firefly <= MOST_CORES / 6 + 1e-4
    assert made.firefly * speed <= FIREFLY * 1.01 or made.odroid <= 0.051
    assert made.odroid < made.firefly
    lab_of(Fleet(3, 3), made, 100.0)


def test_a_full_run_shares_labs_and_finds_room_for_all_devices() -> None:
    made = cells(wanted(Options()), CALIBRATION, offload=True)
    groups = [cell.group for cell in made if cell.experiment == "latency"]
    assert len(set(groups)) == sum(one != other for one, other in itertools.pairwise(groups)) + 1
    assert {cell.experiment for cell in made} == set(EXPERIMENTS)
    assert len(set(made)) == len(made)
    for cell in made:
        assert lab_of(parse_fleet(cell.group), CALIBRATION, 100.0, cell.slower).load <= 1.1
    assert [cell.group for cell in made if cell.experiment == "growth"] == [f"{count}F" for count in GROWN]
    assert not any(OFFLOAD in cell.planners for cell in cells(wanted(Options()), CALIBRATION, offload=False))


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        (Options(planners="single,best"), "'best'"),
        (Options(wires="float8"), "'float8'"),
        (Options(experiments="speed"), "'speed'"),
        (Options(networks="vgg17"), "'vgg17'"),
        (Options(networks="vgg17-int8"), "'vgg17'"),
        (Options(networks="yolov2-int8"), "only VGGs and ResNets"),
        (Options(rate="fast"), "--rate"),
        (Options(rate="0mbit"), "--rate"),
        (Options(rounds=0), "--rounds"),
        (Options(rounds=-1), "--rounds"),
    ],
)
def test_what_cannot_be_measured(options: Options, cause: str) -> None:
    with pytest.raises(UsageError, match=cause):
        wanted(options)


# --- integer networks ---


def test_integer_networks_are_measured_once_whatever_the_wire(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantised, "find_spec", lambda name: "there")
    what = wanted(Options(networks="vgg16-int8,vgg16-96px-int8,vgg16", groups="2F", experiments="latency"))
    made = [(cell.network, cell.wire) for cell in cells(what, CALIBRATION, offload=False)]
    assert made == [
        ("vgg16-int8", "float32"), ("vgg16-96px-int8", "float32"), ("vgg16", "float32"), ("vgg16", "float16")
    ]  # fmt: skip


def test_without_the_quantiser_its_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantised, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"vgg16-int8 needs .*legion-iot\[quantise\]"):
        wanted(Options(networks="vgg16,vgg16-int8"))


def test_a_quantised_network_answers_as_the_float32_one_about_does_and_is_cut_exactly(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_quantizer")
    net = GraphBuilder("small", 1)
    x = net.max_pool(net.conv2d(net.input((1, 32, 32, 3)), 8, 3, activation="relu"), 2)
    x = net.conv2d(x, 8, 3)
    source, target = tmp_path / "small.tflite", tmp_path / "small-int8.tflite"
    tflite.write_file(net.finish(x), source)
    quantised.quantise(source, target)
    graph = tflite.open_file(target)
    assert {graph.tensors[index].dtype for index in (*graph.inputs, *graph.outputs)} == {"int8"}
    (value,) = seeded_inputs(tflite.open_file(source))
    (whole,) = Interpreter(source).run([value])
    scale, zero = _affine(graph, graph.inputs[0])
    (answer,) = Interpreter(target).run([np.clip(np.round(value / scale) + zero, -128, 127).astype(np.int8)])
    scale, zero = _affine(graph, graph.outputs[0])
    assert np.abs((answer.astype(np.float32) - zero) * scale - whole).max() < 0.1 * np.abs(whole).max()
    assert verify_file(Question(target), lambda text, fraction: None).exact


def _affine(graph: Graph, index: int) -> tuple[float, int]:
    found = graph.tensors[index].quantization
    assert found is not None
    return found.scale[0], found.zero_point[0]


def test_a_file_is_shown_by_size_of_group_whatever_was_measured_first(tmp_path: Path) -> None:
    record = Record(tmp_path / "fleet.jsonl")
    record.begin(CALIBRATION, "legion bench fleet")
    figures = (Figures("single", "single", 1, 1, ((1.0,),)), Figures("auto", "single", 1, 1, ((1.0,),)))
    for group in ("2F", "1F+1O", "12F", "3O", "1F", "2F+1O", "1O"):
        record.add(replace(CELL, group=group), Outcome(figures))
    shown, _ = bench.report(tmp_path / "fleet.jsonl")
    assert [row["group"] for row in shown.rows] == ["1F", "2F", "12F", "1O", "3O", "1F+1O", "2F+1O"]


# --- for people ---


ACCOUNTED = replace(
    figures("auto", 0.25, predicted=0.24), traced=Account(computing=0.15, links=0.06, waiting=0.04),
    expected=Account(computing=0.14, links=0.1), spent=(Spent("f1", 0.1, 0.05, 0.03, 1.5e6, 2e6),) * 2,
)  # fmt: skip


def everything() -> dict[Cell, Outcome]:
    return {
        CELL: outcome(figures("single", 1.0), ACCOUNTED, bound=0.2),
        replace(CELL, experiment="throughput"): replace(outcome(), rates=(Rate("frames", 1, (2.0,)),)),
        replace(CELL, experiment="profiling"): outcome(
            figures("auto", 0.3, cost=Cost(1, 4, 2.0, 0, 5.0)), figures("fss", 0.4, cost=Cost(9, 36, 40.0, 0, 50.0))
        ),
        replace(CELL, experiment="growth", slower=2.0): outcome(figures("single", 2.0), ACCOUNTED, bound=0.2),
        replace(CELL, experiment="size", network="vgg16-320px"): outcome(figures("single", 2.0), ACCOUNTED),
        replace(CELL, experiment="size", network="vgg16-96px"): outcome(figures("single", 0.2), figures("auto", 0.1)),
        replace(CELL, experiment="depth"): outcome(figures("single", 2.0), ACCOUNTED, bound=0.2),
    }


def test_pictures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    drawn = fleet_pictures.draw(everything(), tmp_path)
    names = {"speedup.png", "predicted.png", "account.png", "growth.png", "size.png", "depth.png"}
    assert {path.name for path in drawn} == names
    assert {path.stem for path in drawn} == set(document.TITLES)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)
    assert fleet_pictures.draw({}, tmp_path) == []


def test_tables_and_document(tmp_path: Path) -> None:
    found = everything()
    made = tables(found)
    text = "\n".join(line for table in made for line in table.lines())
    assert "vgg16    6F     float32       2.38  4.00" in text
    assert "-25.0 %" in text
    assert len(made) == 11
    by_title = {table.title: table.rows for table in made}
    assert by_title["Where the time of `auto` goes"] == (
        ("vgg16", "6F", "float32", "measured", "0", "0", "150", "60", "0", "40", "0", "250"),
        ("vgg16", "6F", "float32", "predicted", "0", "0", "140", "100", "0", "0", "0", "240"),
        ("vgg16", "6F", "float32", "bound", "0", "0", "100", "100", "0", "0", "0", "200"),
    )
    (spent,) = by_title["What a request costs the devices"]
    assert spent[3:] == ("auto", "100", "60", "200–200", "3.00", "4.00")
    assert [row[0] for row in by_title["Growth: image size"]] == ["vgg16-96px", "vgg16-320px"]
    assert by_title["Growth: depth"][0][-3:] == ("150", "100", "0")
    path = tmp_path / "benchmarks.md"
    report = BenchReport("fleet", {"links": "100 Mbit/s each way"}, [], checks(found))
    pictures = [tmp_path / "pictures" / "depth.png"]
    document.write(path, "legion bench fleet --from-file", ["legion bench fleet --rounds 1"], report, made, pictures)
    written = path.read_text()
    assert (
        "    legion bench fleet --from-file\n\nThey were measured by:\n\n    legion bench fleet --rounds 1\n" in written
    )
    assert "| vgg16 | 6F | float32 | 2.38 | 4.00 |" in written
    assert all(check.name in written for check in report.checks)
    assert written.endswith("![latency by depth](pictures/depth.png)\n")


def test_a_file_is_shown_without_measuring(tmp_path: Path) -> None:
    path = tmp_path / "cells.jsonl"
    with pytest.raises(InputError, match="--resume"):
        bench.report(path)
    record = Record(path)
    record.begin(CALIBRATION, "legion bench fleet --groups 6F")
    record.add(CELL, outcome(figures("single", 1.0), ACCOUNTED, bound=0.2))
    record.add(replace(CELL, mbit=50.0), outcome(figures("single", 1.0), figures("auto", 0.5)))
    shown, again = bench.report(path)
    assert again.commands == ["legion bench fleet --groups 6F"]
    assert [row["planners"][-1]["median_ms"] for row in shown.rows] == [250.0, 500.0]
    assert sum(shown.rows[0]["planners"][1]["measured_parts_ms"].values()) == pytest.approx(250.0)
    assert shown.setting["links"] == "50, 100 Mbit/s each way"
    assert json.dumps(shown.rows)


def test_rows_that_are_compared_stand_below_each_other(tmp_path: Path) -> None:
    record = Record(tmp_path / "cells.jsonl")
    record.begin(CALIBRATION, "legion bench fleet")
    first = replace(CELL, group="2F")
    for cell in (
        first,
        replace(CELL, experiment="growth"),
        replace(first, network="yolov2"),
        replace(CELL, network="yolov2", wire="float16"),
        replace(CELL, network="yolov2"),
        CELL,
    ):
        record.add(cell, outcome(figures("auto", 1.0)))
    shown, _ = bench.report(tmp_path / "cells.jsonl")
    found = [(row["experiment"], row["network"], row["wire"], row["group"]) for row in shown.rows]
    assert found == [
        ("latency", "vgg16", "float32", "2F"),
        ("latency", "vgg16", "float32", "6F"),
        ("latency", "yolov2", "float32", "2F"),
        ("latency", "yolov2", "float32", "6F"),
        ("latency", "yolov2", "float16", "6F"),
        ("growth", "vgg16", "float32", "6F"),
    ]
