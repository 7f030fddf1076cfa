"""Planners see what they pay for, and nothing else; the bench says when a promise is not held."""

from __future__ import annotations

import dataclasses
import itertools
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from legion_iot.bench.planner import bench, campaign
from legion_iot.bench.planner.campaign import Cell
from legion_iot.bench.planner.growth import chain, planning_seconds
from legion_iot.bench.planner.recorded_network import RecordedNetwork, group_of, label
from legion_iot.bench.planner.trace import KINDS, Trace, load, save
from legion_iot.cli.main import app
from legion_iot.errors import InputError, LegionError
from legion_iot.model.blocks import divide
from legion_iot.planning.planners.auto import CARDS, MORE_CARDS, auto
from legion_iot.planning.planners.fss import fss
from legion_iot.planning.planners.legion import legion
from legion_iot.planning.planners.single import single
from legion_iot.planning.problem import Planning, PlanRun, Problem, TailRun, TileRun
from legion_iot.planning.strips import whole_map
from legion_iot.planning.whole import whole_plan
from tests.bench.recorded import made_up_record, quiet, small
from tests.cli.schemas import check

UNITS = 5


def _built(name: str, seed: int) -> Any:
    return small(name, seed, convolutions=UNITS - 1, channels=64)


def made_up_trace(*names: str) -> Trace:
    network = divide(_built("small", 0))
    records = {
        kind.name: made_up_record(network, fixed, rate, noise=0.2)
        for kind, fixed, rate in zip(KINDS, (1e-5, 2e-5), (1e-11, 3e-11), strict=True)
    }
    return Trace({"cpu": "made up"}, dict.fromkeys(names, records))


@pytest.fixture(scope="module")
def recorded() -> RecordedNetwork:
    return RecordedNetwork(divide(_built("small", 0)), made_up_trace("small").networks["small"])


@pytest.fixture
def _small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    built = {name: partial(_built, name) for name in campaign.ORDER}
    monkeypatch.setattr(campaign, "NETWORKS", built)


def test_groups_have_the_devices_they_are_called_by() -> None:
    assert [label(counts) for counts in ((3, 0), (0, 1), (2, 1))] == ["3F", "1O", "2F+1O"]
    group = group_of((2, 1))
    assert group.names == ("F1", "F2", "O1")
    assert [device.board for device in group.devices] == ["F", "F", "O"]
    assert group.devices[0].link.up == pytest.approx(100e6 / 8, rel=0.05)


def test_full_search_pays_for_every_block_on_every_device(recorded: RecordedNetwork) -> None:
    outcome = recorded.play(fss, group_of((2, 1)))
    blocks = UNITS * (UNITS + 1) // 2
    assert outcome.bill.wishes == outcome.bill.runs == 3 * blocks + 2  # and each board's speed
    assert outcome.bill.origins.total() == outcome.bill.runs
    cheaper = recorded.play(legion, group_of((2, 1))).bill
    assert 0 < cheaper.runs < outcome.bill.runs
    assert 0 < cheaper.device_seconds < outcome.bill.device_seconds


def test_every_wish_is_paid_for(recorded: RecordedNetwork) -> None:
    group = group_of((1, 1))
    plan = whole_plan("mine", recorded.network, "F1")
    wishes = (TileRun("O1", 1, 3, whole_map(recorded.network, 3)), TailRun("F1"), PlanRun(plan))
    seen = {}

    def curious(problem: Problem) -> Planning:
        seen.update((yield wishes))
        return plan

    outcome = recorded.play(curious, group)
    costs = recorded.costs(group)
    truth = (
        costs.tile_seconds("O1", 1, 3, whole_map(recorded.network, 3)),
        costs.tail_seconds("F1"),
        outcome.latency,
    )
    for wish, true in zip(wishes, truth, strict=True):
        assert seen[wish].seconds == pytest.approx(true, rel=0.2)
        assert seen[wish].seconds != true
        assert 0 < seen[wish].deviation < 0.2 * true
    assert outcome.bill.wishes == 3
    assert outcome.bill.runs == 2 + 2  # the plan has one tile and the tail
    profiled = sum(seen[wish].seconds for wish in wishes[:2])
    computing = costs.tile_seconds("F1", 0, UNITS - 1, whole_map(recorded.network, UNITS - 1)) + truth[1]
    assert outcome.bill.plan_seconds == pytest.approx(computing, rel=0.2)
    assert outcome.bill.device_seconds == pytest.approx(profiled + outcome.bill.plan_seconds)
    assert recorded.play(curious, group).bill == outcome.bill  # the same question has the same answer


def test_plans_are_judged_by_the_truth(recorded: RecordedNetwork) -> None:
    group = group_of((2, 1))
    alone = [recorded.latency(whole_plan("single", recorded.network, name), group) for name in group.names]
    assert recorded.single_seconds(group) == alone[0] == alone[1] < alone[2]
    outcome = recorded.play(single, group)
    assert outcome.latency == alone[0]
    assert outcome.predicted == pytest.approx(outcome.latency, rel=0.2)
    assert outcome.planning_seconds > 0


@pytest.mark.usefixtures("_small_networks")
def test_samples_are_kept_from_cell_to_cell() -> None:
    groups = ((1, 0), (2, 0), (1, 1), (2, 2))
    cells = list(campaign.cells(made_up_trace("vgg16", "vgg19"), ("vgg16", "vgg19"), groups, quiet))
    assert [(cell.network, cell.group) for cell in cells] == [
        (network, label(counts)) for network, counts in itertools.product(("vgg16", "vgg19"), groups)
    ]
    for cell in cells:
        assert 0 < cell.bound <= cell.optimum
        assert cell.optimum <= min(cell.fss.latency, cell.legion.latency, cell.cold.latency, cell.kept.latency)
    first, like_boards, new_board, *known = cells
    units = [cell.kept.bill.origins.total() for cell in cells]
    assert units[0] > 0
    assert units[1] == 0
    assert units[2] > 0
    assert units[3:] == [0] * 5
    assert like_boards.cold.bill.wishes >= first.cold.bill.wishes
    assert new_board.kept.bill.wishes < new_board.cold.bill.wishes
    assert all(cell.kept.bill.wishes <= CARDS + (MORE_CARDS if cell.devices > 1 else 0) for cell in known)


@pytest.fixture(scope="module")
def cell(recorded: RecordedNetwork) -> Cell:
    group = group_of((2, 1))
    full, cheap, own = recorded.play(fss, group), recorded.play(legion, group), recorded.play(auto, group)
    return Cell("vgg19", "2F+1O", 3, full, cheap, cheap, own, own, recorded.single_seconds(group), own.latency, 1e-4)


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda c: dataclasses.replace(c, legion=slower(c.legion, 2 * c.fss.latency)), "legion: mean loss against FSS"),
        (lambda c: dataclasses.replace(c, legion=c.fss), "legion: profiling cheaper than FSS, mean, device-seconds"),
        (lambda c: dataclasses.replace(c, within=slower(c.within, 1.02 * c.fss.latency)), "FSS's plans: mean loss"),
        (lambda c: dataclasses.replace(c, kept=slower(c.kept, c.fss.latency)), "time of FSS's plan, worst cell"),
        (lambda c: dataclasses.replace(c, single=0.99 * c.cold.latency), "time of one device alone"),
        (lambda c: dataclasses.replace(c, kept=c.fss), "auto: profiling cheaper than FSS, runs"),
        (lambda c: dataclasses.replace(c, kept=c.fss), "auto: runs for VGG-19 once VGG-16 is known, most"),
        (lambda c: dataclasses.replace(c, cold=slower(c.cold, 2 * c.cold.predicted)), "latency, worst error"),
    ],
)
def test_a_promise_that_is_not_held_is_named(cell: Cell, spoil: Any, named: str) -> None:
    checks = [*bench._legion_checks([spoil(cell)]), *bench._auto_checks([spoil(cell)])]
    assert any(named in check.name and not check.ok for check in checks)


def slower(outcome: Any, latency: float) -> Any:
    return dataclasses.replace(outcome, latency=latency)


def test_planning_time_is_that_of_the_planner() -> None:
    network = chain(8)
    assert len(network.units) == 8
    asked = []

    def planner(problem: Problem) -> Planning:
        wishes = tuple(TileRun("O1", 0, last, whole_map(network, last)) for last in range(8))
        readings = yield (*wishes, TailRun("F1"), PlanRun(whole_plan("whole", network, "F1")))
        asked.append([readings[wish].seconds for wish in wishes])
        return whole_plan("whole", network, "F1")

    seconds, wishes = planning_seconds(planner, network, 3, rounds=3)
    assert wishes == 10
    assert 0 < seconds < 5
    assert asked[0] == sorted(asked[0])


@pytest.mark.usefixtures("_small_networks")
def test_the_command_prints_cells_and_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "trace.json.gz"
    save(made_up_trace("vgg16"), path)
    monkeypatch.setattr(campaign, "QUICK_GROUPS", ((1, 0), (1, 1)))
    monkeypatch.setattr(bench, "_growth", lambda quick, progress: [
        {"planned": "vgg16", "units": 18, "devices": 6, "planning_s": 0.1, "wishes": 1},
        {"planned": "chain", "units": 100, "devices": 32, "planning_s": 1.0, "wishes": 1},
    ])  # fmt: skip
    result = CliRunner().invoke(app, ["bench", "planner", "--quick", "--json", "--trace", str(path)])
    answer = check("bench planner", result.stdout)
    assert list(answer)[-1] == "checks"
    assert result.exit_code == (0 if answer["ok"] else 1)
    assert [row["group"] for row in answer["rows"] if "group" in row] == ["1F", "1F+1O"]
    assert [row["planned"] for row in answer["rows"] if "planned" in row] == ["vgg16", "chain"]
    printed = CliRunner().invoke(app, ["bench", "planner", "--quick", "--trace", str(path)]).stdout
    assert sum(line.startswith("vgg16        1F") for line in printed.splitlines()) == 2 * 2  # in two tables
    assert max(map(len, printed[: printed.index("recorded")].splitlines())) <= 90
    assert "planning 100 units × 32 devices" in printed


def test_the_packaged_trace_has_every_network_on_every_kind() -> None:
    trace = load(bench.TRACE)
    assert set(trace.networks) == set(campaign.ORDER)
    assert set(campaign.QUICK_ORDER) <= set(campaign.ORDER)
    for records in trace.networks.values():
        assert set(records) == {kind.name for kind in KINDS}
        for record in records.values():
            units = max(last for _, last in record.blocks) + 1
            assert len(record.blocks) == units * (units + 1) // 2
    assert {"cpu", "date", "runtime"} <= set(trace.origin)
    assert bench.TRACE.stat().st_size < 1_500_000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--record", "new.json.gz", "--quick"], "leave --trace, --quick and --json out"),
        (["--trace", "absent.json.gz"], "absent.json.gz: cannot be read"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["bench", "planner", *arguments])
    assert isinstance(done.exception, LegionError)
    assert said in str(done.exception)
    assert not list(tmp_path.iterdir())


def test_a_trace_of_other_networks_is_refused(tmp_path: Path) -> None:
    save(made_up_trace("other"), tmp_path / "trace.json.gz")
    with pytest.raises(InputError, match="has none of vgg16"):
        bench.run(tmp_path / "trace.json.gz", True, quiet)
