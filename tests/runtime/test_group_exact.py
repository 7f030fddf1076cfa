"""A group that computes with the real executor answers with the same bits as the whole model on one device."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from legion_iot.files import sha256_of
from legion_iot.model import tflite
from legion_iot.model.blocks import Network
from legion_iot.planning.plan import Plan
from legion_iot.planning.planners import planners
from legion_iot.runtime.agent_events import Compute
from legion_iot.runtime.exchange import TensorForm
from legion_iot.runtime.simulation.behaviour import Behaviour
from legion_iot.runtime.simulation.broker import Line
from legion_iot.runtime.simulation.group import Group
from legion_iot.wire.messages import Assignment, ModelReference
from legion_iot.wire.tensors import Array
from legion_iot_agent.executor import Executor, seeded_inputs
from legion_iot_agent.interpreter import Interpreter
from tests.planning.plans import random_plan
from tests.planning.problems import case
from tests.runtime.group import at_least, given_plan
from tests.runtime.networks import GRAPHS, NETWORKS

pytest.importorskip("ai_edge_litert.interpreter")


class RealWorker:
    """The executor a device uses."""

    def __init__(self, model: Path, directory: Path) -> None:
        self._model, self._executor = model, Executor(directory)

    def load(self, assignment: Assignment) -> dict[int, TensorForm]:
        return self._executor.load(self._model, assignment)

    def unload(self, epoch: int) -> None:
        self._executor.unload(epoch)

    def run(self, work: Compute) -> dict[int, Array]:
        return self._executor.run(work.epoch, work.step, work.inputs)[0]


def random_plans(network: Network) -> list[Plan]:
    return [random_plan(network, random.Random(seed)) for seed in range(12)]


def planned(network: Network) -> list[Plan]:
    """The plan of every planner, for devices so slow that sharing pays."""
    slow = case(network, {"ant": 3e6, "bee": 1e6, "cat": 1e6})
    plans = {name: slow.plan(planner) for name, planner in planners.items()}
    assert all(len(plans[name].agents) > 1 for name in plans if name != "single")
    return list(plans.values())


@pytest.mark.parametrize(
    ("name", "make"),
    [
        *((name, random_plans) for name in sorted(GRAPHS)),
        *((name, planned) for name in ("chain", "residual", "scales")),
    ],
)
def test_every_kind_of_plan_answers_as_one_device_does(
    name: str, make: Callable[[Network], list[Plan]], tmp_path: Path
) -> None:
    path = tmp_path / "model.tflite"
    graph = GRAPHS[name]()
    tflite.write_file(graph, path)
    reference = ModelReference(name, sha256_of(path), path.stat().st_size)
    whole = Interpreter(path)
    for seed, plan in enumerate(make(NETWORKS[name])):
        group = given_plan(
            NETWORKS[name], plan, seed=seed, duplicates=0.2, model=reference,
            worker=lambda agent: RealWorker(path, tmp_path / agent),
        )  # fmt: skip
        inputs = {group.ask(tuple(seeded_inputs(graph, number))): seeded_inputs(graph, number) for number in range(4)}
        group.run(10)
        for request, arrays in inputs.items():
            ended = group.ended[request]
            assert not ended.error, ended.reason
            for actual, expected in zip(ended.outputs, whole.run(arrays), strict=True):
                assert actual.dtype == expected.dtype
                np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("name", ["residual", "scales", "mixed"])
def test_the_group_answers_as_one_device_does(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    graph = GRAPHS[name]()
    tflite.write_file(graph, path)
    reference = ModelReference(name, sha256_of(path), path.stat().st_size)
    group = Group(NETWORKS[name], model=reference, line=Line(duplicates=0.2), least_agents=3, make_plan=at_least(2))
    for number, agent in enumerate(("ant", "bee", "cat")):
        group.start(agent, Behaviour(speed=1.0 + number), RealWorker(path, tmp_path / agent))
    group.run_until("serving")
    inputs = {group.ask(tuple(seeded_inputs(graph, seed))): seeded_inputs(graph, seed) for seed in range(5)}
    group.run(10)
    whole = Interpreter(path)
    for request, arrays in inputs.items():
        ended = group.ended[request]
        assert not ended.error, ended.reason
        for actual, expected in zip(ended.outputs, whole.run(arrays), strict=True):
            assert actual.dtype == expected.dtype
            np.testing.assert_array_equal(actual, expected)
    assert {agent for agent, _, _ in group.kept.computed.by_agent} == {"ant", "bee", "cat"}
