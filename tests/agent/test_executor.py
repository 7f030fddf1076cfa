"""Several epochs side by side: each computes what it is to, shares what it can, and frees what is its own."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from legion_iot.errors import ModelError
from legion_iot.files import sha256_of
from legion_iot.model import tflite
from legion_iot.model.geometry import Interval, Region
from legion_iot.planning.plan import Block, Plan, Tile
from legion_iot.planning.routing import route
from legion_iot.planning.strips import whole_map
from legion_iot.runtime.assignment import assignments_of
from legion_iot.wire.messages import AssignedStep, Assignment, ModelReference, TensorRegion
from legion_iot.wire.tensors import Array, as_map
from legion_iot_agent.engine import Engine, Run
from legion_iot_agent.executor import Executor, seeded_inputs
from legion_iot_agent.interpreter import Interpreter
from legion_iot_agent.limits import Memory
from tests.runtime.networks import GRAPHS, NETWORKS

pytest.importorskip("ai_edge_litert.interpreter")

NETWORK = NETWORKS["residual"]
LAST = len(NETWORK.units) - 1


class Counting(Engine):
    """Loads as the engine does, and knows what is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.loads = 0
        self._alive: weakref.WeakSet[Interpreter] = weakref.WeakSet()
        self.fails_at = 0

    @property
    def alive(self) -> int:
        gc.collect()
        return len(self._alive)

    def load(self, path: Path, inputs: Sequence[Array]) -> Run:
        self.loads += 1
        if self.loads == self.fails_at:
            raise ModelError("no memory")
        interpreter = Interpreter(path)
        self._alive.add(interpreter)
        return interpreter.run


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.tflite"
    tflite.write_file(GRAPHS["residual"](), path)
    return path


def assignment(model: Path, epoch: int, *blocks: tuple[int, int], rows: int | None = None) -> Assignment:
    """All of the network on one agent, in these blocks; or the first `rows` rows of each for it alone."""
    reference = ModelReference("residual", sha256_of(model), model.stat().st_size)
    tiles = []
    for first, last in blocks:
        whole = whole_map(NETWORK, last)
        cut = len(whole.rows) if rows is None else rows
        mine, others = (Region(Interval(a, b), whole.columns) for a, b in ((0, cut), (cut, len(whole.rows))))
        tiles.append(Block(first, last, (Tile("ant", mine), *((Tile("bee", others),) if others.area else ()))))
    plan = Plan("test", tuple(tiles), "ant")
    return assignments_of(epoch, reference, route(NETWORK, plan))["ant"]


def answer(executor: Executor, told: Assignment) -> list[Array]:
    """The outputs of an assignment that is all of the network."""
    graph = NETWORK.graph
    there = {t: as_map(v) for t, v in zip(graph.inputs, seeded_inputs(graph), strict=True)}
    for step in told.steps:
        outputs, seconds = executor.run(told.epoch, step.step, {i.tensor: there[i.tensor] for i in step.inputs})
        assert seconds >= 0
        there |= outputs
    return [there[t].reshape(graph.tensors[t].shape) for t in graph.outputs]


def test_two_epochs_side_by_side_answer_as_the_whole_model(model: Path, tmp_path: Path) -> None:
    expected = Interpreter(model).run(seeded_inputs(NETWORK.graph))
    executor = Executor(tmp_path / "plan")
    told = [assignment(model, 5, (0, LAST)), assignment(model, 6, (0, 1), (2, LAST))]
    for each in told:
        executor.load(model, each)
    for each in (*told, *told):
        for actual, wanted in zip(answer(executor, each), expected, strict=True):
            np.testing.assert_array_equal(actual, wanted)


def test_what_epochs_have_in_common_is_loaded_once_and_freed_with_the_last_of_them(model: Path, tmp_path: Path) -> None:
    engine = Counting()
    executor = Executor(tmp_path / "plan", engine)
    executor.load(model, assignment(model, 5, (0, 0), (1, LAST)))
    assert (engine.loads, engine.alive) == (3, 3), "two tiles and the tail"
    executor.load(model, assignment(model, 6, (0, 0), (1, 1), (2, LAST)))
    assert (engine.loads, engine.alive) == (5, 5), "the first tile and the tail are there"
    executor.unload(5)
    assert engine.alive == 4
    answer(executor, assignment(model, 6, (0, 0), (1, 1), (2, LAST)))
    executor.unload(6)
    assert engine.alive == 0


@pytest.mark.parametrize("other", ["rows", "model"])
def test_other_rows_or_another_model_are_not_shared(model: Path, tmp_path: Path, other: str) -> None:
    engine = Counting()
    executor = Executor(tmp_path / "plan", engine)
    executor.load(model, assignment(model, 5, (0, LAST), rows=2))
    before = engine.loads
    later = assignment(model, 6, (0, LAST), rows=3 if other == "rows" else 2)
    if other == "model":
        later = replace(later, model=replace(later.model, sha256="ab" * 32))
    executor.load(model, later)
    assert engine.loads - before == (1 if other == "rows" else before), "the tail is the same, whatever the rows"


def test_the_same_tile_in_two_replicas_is_loaded_once(model: Path, tmp_path: Path) -> None:
    engine = Counting()
    told = assignment(model, 5, (0, LAST))
    again = tuple(replace(step, step=step.step + len(told.steps), replica=1) for step in told.steps)
    Executor(tmp_path / "plan", engine).load(model, replace(told, steps=(*told.steps, *again)))
    assert engine.loads == len(told.steps)


def test_loading_an_epoch_again_replaces_it(model: Path, tmp_path: Path) -> None:
    engine = Counting()
    executor = Executor(tmp_path / "plan", engine)
    executor.load(model, assignment(model, 5, (0, 1), (2, LAST)))
    executor.load(model, assignment(model, 5, (0, LAST)))
    assert engine.alive == 2
    answer(executor, assignment(model, 5, (0, LAST)))


def test_an_epoch_that_cannot_be_loaded_leaves_nothing_and_harms_no_other(model: Path, tmp_path: Path) -> None:
    engine = Counting()
    executor = Executor(tmp_path / "plan", engine)
    first = assignment(model, 5, (0, LAST))
    executor.load(model, first)
    engine.fails_at = engine.loads + 2
    with pytest.raises(ModelError, match="no memory"):
        executor.load(model, assignment(model, 6, (0, 0), (1, 1), (2, LAST)))
    assert engine.alive == 2
    answer(executor, first)
    with pytest.raises(ModelError, match="epoch 6 is not loaded"):
        answer(executor, replace(first, epoch=6))


def test_an_assignment_of_units_the_model_has_not_is_refused(model: Path, tmp_path: Path) -> None:
    told = assignment(model, 5, (0, LAST))
    wrong = AssignedStep(0, (0, 99), told.steps[0].inputs, told.steps[0].outputs)
    with pytest.raises(ModelError, match="units 0–99"):
        Executor(tmp_path / "plan").load(model, replace(told, steps=(wrong,)))


@pytest.mark.parametrize(
    "output", [TensorRegion(10_000, (0, 1, 0, 1)), TensorRegion(-1, (0, 1, 0, 1)), TensorRegion(0, (0, 1, 0, 1))]
)
def test_an_assignment_of_outputs_the_block_does_not_make_is_refused(
    model: Path, tmp_path: Path, output: TensorRegion
) -> None:
    told = assignment(model, 5, (0, LAST))
    with pytest.raises(ModelError, match="planned by another version"):
        Executor(tmp_path / "plan").load(model, replace(told, steps=(replace(told.steps[0], outputs=(output,)),)))


def test_an_assignment_of_rows_beyond_the_map_is_refused(model: Path, tmp_path: Path) -> None:
    told = assignment(model, 5, (0, LAST))
    (made,) = told.steps[0].outputs
    wrong = replace(told.steps[0], outputs=(replace(made, region=(0, 1 << 40, 0, 1 << 20)),))
    with pytest.raises(ModelError, match="planned by another version"):
        Executor(tmp_path / "plan").load(model, replace(told, steps=(wrong,)))


class Left(Memory):
    """So many bytes."""

    def __init__(self, left: int) -> None:
        super().__init__(64_000_000)
        self.bytes_left = left

    def left(self) -> int:
        return self.bytes_left


def test_what_would_exceed_the_memory_is_refused_with_both_figures_and_harms_no_other(
    model: Path, tmp_path: Path
) -> None:
    engine, memory = Counting(), Left(10_000_000)
    executor = Executor(tmp_path / "plan", engine, memory)
    first, later = assignment(model, 5, (0, 0), (1, LAST)), assignment(model, 6, (0, 0), (1, 1), (2, LAST))
    executor.load(model, first)
    memory.bytes_left, loads = 1, engine.loads
    with pytest.raises(ModelError, match=r"needs 0 MB of memory, and 0 MB are left of the 64 MB.*--memory-mb"):
        executor.load(model, later)
    assert engine.loads == loads
    answer(executor, first)
    executor.load(model, replace(first, epoch=7))
    assert engine.loads == loads, "all of it is there already"


def test_an_allocation_that_fails_is_an_error_of_the_model(model: Path, tmp_path: Path) -> None:
    class Exhausted(Engine):
        def load(self, path: Path, inputs: Sequence[Array]) -> Run:
            raise MemoryError

    with pytest.raises(ModelError, match="more memory than there is"):
        Executor(tmp_path / "plan", Exhausted()).load(model, assignment(model, 5, (0, LAST)))


def test_files_are_gone_once_they_are_loaded_and_those_of_a_killed_process_at_start(
    model: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "plan"
    directory.mkdir()
    (directory / "step.tflite").write_bytes(b"left behind")
    executor = Executor(directory)
    assert not directory.exists()
    told = assignment(model, 5, (0, 0), (1, LAST))
    executor.load(model, told)
    assert list(directory.iterdir()) == []
    answer(executor, told)
    executor.close()
    assert not directory.exists()
    with pytest.raises(ModelError, match="epoch 5 is not loaded"):
        answer(executor, told)
