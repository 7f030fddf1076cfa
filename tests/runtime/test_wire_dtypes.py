"""Which maps travel in fewer bytes, and which never do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from legion_iot.errors import ProtocolError
from legion_iot.files import sha256_of
from legion_iot.model import tflite
from legion_iot.model.comparison import difference
from legion_iot.model.geometry import Interval, Region
from legion_iot.runtime import agent as machine
from legion_iot.runtime.exchange import Exchange, TensorForm, wire_between
from legion_iot.runtime.simulation.behaviour import Behaviour
from legion_iot.runtime.simulation.broker import Line
from legion_iot.runtime.simulation.group import Group
from legion_iot.wire.dtypes import WIRES
from legion_iot.wire.messages import Assignment, Fragment, ModelReference, PeerRegion
from legion_iot.wire.tensors import fragments
from legion_iot_agent.executor import seeded_inputs
from legion_iot_agent.interpreter import Interpreter
from tests.runtime.group import at_least
from tests.runtime.networks import GRAPHS, NETWORKS
from tests.runtime.test_group_exact import RealWorker
from tests.runtime.test_timing import MODEL, STEPS

WHOLE = Region(Interval(0, 4), Interval(0, 4))


def test_only_float32_between_agents_is_quantised() -> None:
    assert wire_between("float32", "bee", "int8") == "int8"
    assert wire_between("float32", "bee", "float32") == ""
    assert wire_between("float32", "orchestrator", "int8") == ""
    for dtype in ("int8", "uint8", "int16", "int32", "float64", "bool"):
        assert wire_between(dtype, "bee", "float16") == ""


@pytest.mark.parametrize("plan", WIRES)
@pytest.mark.parametrize("sent", ["", "float16", "int8"])
@pytest.mark.parametrize("sender", ["bee", "orchestrator"])
def test_a_receiver_takes_what_the_plan_says(plan: str, sent: str, sender: str) -> None:
    receives = [PeerRegion(0, 0, (0, 4, 0, 4), sender)]
    exchange = Exchange(1, {0: {0: WHOLE}}, receives, {0: TensorForm(3, "float32")}, plan)
    values = np.ones((4, 4, 3), np.float32)
    header = Fragment("r", 1, 1, 0, 0, (0, 4, 0, 4), 3, "float32", sent)
    (piece,) = fragments(header, values, WHOLE)
    content, body = piece.header, piece.body
    if sent == "" or (sent == plan and sender == "bee"):
        inputs = exchange.put_fragment(sender, content, body)
        assert inputs is not None
        np.testing.assert_array_equal(inputs[0], values)
    else:
        with pytest.raises(ProtocolError, match="is not to send"):
            exchange.put_fragment(sender, content, body)


def test_an_agent_says_what_it_really_sends() -> None:
    sends = (PeerRegion(1, 1, (0, 4, 0, 3), "bee"), PeerRegion(2, 2, (0, 4, 0, 3), "orchestrator"))
    receives = (PeerRegion(0, 0, (0, 4, 0, 3), "orchestrator"), PeerRegion(1, 1, (0, 4, 0, 3), "bee"))
    state = machine.State("ant", {MODEL.sha256})
    assigned = Assignment(7, MODEL, STEPS, receives, sends, "float16")
    machine.step(state, machine.AssignmentArrived(assigned), 90.0)
    machine.step(state, machine.Loaded(7, {t: TensorForm(1, "float32") for t in range(3)}), 100.0)
    sizes = {}
    for step, tensor in ((0, 1), (1, 2)):
        outputs = {tensor: np.zeros((4, 3, 1), np.float32)}
        effects = machine.step(state, machine.StepDone(7, "r", 1, step, outputs, 0.1, 101.0), 101.0)
        (send,) = [e for e in effects if isinstance(e, machine.SendRegion)]
        (report,) = [e for e in effects if isinstance(e, machine.ReportTiming)]
        sizes[send.target] = (send.header.wire, report.timing.bytes_sent)
    assert sizes == {"bee": ("float16", 24), "orchestrator": ("", 48)}


def test_an_unknown_wire_dtype_is_refused() -> None:
    with pytest.raises(ProtocolError, match="update the older side"):
        Assignment(7, MODEL, (), (), (), "bfloat16")


@pytest.mark.parametrize(("wire", "bound"), [("float32", 0.0), ("float16", 0.01), ("int8", 0.2)])
@pytest.mark.parametrize("name", ["residual", "mixed"])
def test_a_group_answers_nearly_as_one_device_does(name: str, wire: str, bound: float, tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    graph = GRAPHS[name]()
    tflite.write_file(graph, path)
    reference = ModelReference(name, sha256_of(path), path.stat().st_size)
    group = Group(NETWORKS[name], model=reference, line=Line(duplicates=0.2), least_agents=3, make_plan=at_least(2))
    group.state.wire = wire
    for number, agent in enumerate(("ant", "bee", "cat")):
        group.start(agent, Behaviour(speed=1.0 + number), RealWorker(path, tmp_path / agent))
    group.run_until("serving")
    inputs = {group.ask(tuple(seeded_inputs(graph, seed))): seeded_inputs(graph, seed) for seed in range(3)}
    group.run(10)
    whole = Interpreter(path)
    differences = []
    for request, arrays in inputs.items():
        ended = group.ended[request]
        assert not ended.error, ended.reason
        for actual, expected in zip(ended.outputs, whole.run(arrays), strict=True):
            assert actual.dtype == expected.dtype
            differences.append(difference(actual, expected)[1])
    assert max(differences) <= bound
    if bound:
        assert max(differences) > 0
