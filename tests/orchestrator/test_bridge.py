"""Models over MQTT: an operator and the orchestrator's bridge on the memory broker, with faults drawn from a seed."""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from legion_iot.errors import BrokerError, InputError, LegionError, ModelError, ProtocolError, RequestError, UsageError
from legion_iot.files import sha256_of
from legion_iot.orchestrator import bridge as bridge_module
from legion_iot.orchestrator import operator as operator_module
from legion_iot.orchestrator.background import Background
from legion_iot.orchestrator.bridge import Bridge
from legion_iot.orchestrator.model_store import ModelStore, StoreLimits
from legion_iot.orchestrator.models import ServedModels
from legion_iot.orchestrator.operator import Operator
from legion_iot.orchestrator.options import ModelFile, OrchestratorOptions
from legion_iot.orchestrator.serving import load
from legion_iot.planning.problem import Link
from legion_iot.planning.samples import Sample
from legion_iot.runtime import orchestrator as machine
from legion_iot.transport.connection import BrokerAddress, EventHandler, Message, TransportEvent
from legion_iot.transport.memory import MemoryBroker, MemoryConnection
from legion_iot.wire import codec
from legion_iot.wire.bridge import OPERATIONS, REQUESTS, BridgeData, BridgeResponse, UploadPiece
from legion_iot.wire.messages import AgentInfo, AgentState, Command, OrchestratorState, Profile
from legion_iot.wire.topics import BridgeTopic, Topics
from legion_iot.wire.trace import PAGE, RequestTrace, TraceFlow, TraceTile
from tests.orchestrator.surroundings import surroundings
from tests.system.networks import picture_to_picture, residual_classifier

TOPICS = Topics("kitchen")
ADDRESS = BrokerAddress("nowhere")
SMALL = 4096  # bytes of a piece, so that small files have many


def quiet(text: str, fraction: float | None) -> None:
    pass


class Sooner(Background):
    """Does its jobs when it is told to, in no thread."""

    def __init__(self) -> None:
        self.jobs: list[Callable[[], None]] = []

    def do(self, job: Any, done: Any) -> None:
        def run() -> None:
            try:
                outcome = job()
            except LegionError as error:
                outcome = error
            done(outcome)

        self.jobs.append(run)


class Orchestrator:
    """A bridge at the memory broker; `accident` is called before each message it takes."""

    def __init__(self, broker: MemoryBroker, directory: Path, limits: StoreLimits | None = None) -> None:
        self.broker, self.directory, self.limits = broker, directory, limits or StoreLimits()
        self.accident: Callable[[], None] = lambda: None
        self.connection = MemoryConnection(broker, "orchestrator", self.take)
        self.connection.open(1.0)
        self.start()
        self.connection.subscribe([(TOPICS.bridge_request("+"), 1)])

    def start(self, *given: ModelFile) -> None:
        """A new process of it, which knows only what the disk says."""
        self.models = ServedModels(OrchestratorOptions(ADDRESS, ()), surroundings(self.connection, TOPICS))
        for model in given:
            self.models.add(load(model))
        self.background = Sooner()
        store = ModelStore(self.directory, TOPICS.base, self.limits)
        self.bridge = Bridge(store, self.models, self.background, self.respond, lambda: None)
        self.bridge.serve_kept()
        self.connection.publish(TOPICS.orchestrator_state(), codec.to_json(OrchestratorState("idle", "s")), retain=True)

    def respond(self, operation: str, response: BridgeResponse) -> None:
        self.connection.publish(TOPICS.bridge_response(operation), codec.to_json(response))

    def take(self, event: TransportEvent) -> None:
        if not isinstance(event, Message):
            return
        self.accident()
        topic = TOPICS.parse(event.topic)
        assert isinstance(topic, BridgeTopic)
        self.bridge.take(topic.operation, event.payload)
        while self.background.jobs:
            self.background.jobs.pop(0)()

    @property
    def served(self) -> dict[str, str]:
        return {name: model.reference.sha256 for name, model in self.models.by_name.items()}


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
def orchestrator(broker: MemoryBroker, tmp_path: Path) -> Orchestrator:
    return Orchestrator(broker, tmp_path / "served")


def operator(broker: MemoryBroker, name: str = "chief") -> Operator:
    def connect(address: BrokerAddress, client_id: str, on_event: EventHandler) -> MemoryConnection:
        return MemoryConnection(broker, name, on_event)

    return Operator(ADDRESS, TOPICS.base, connect)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge_module, "PIECE", SMALL)
    monkeypatch.setattr(operator_module, "PIECE", SMALL)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("files")
    return {
        "strange": residual_classifier(directory / "strange.tflite"),
        "stranger": residual_classifier(directory / "stranger.tflite", seed=8),
        "edges": picture_to_picture(directory / "edges.tflite"),
    }


@pytest.mark.usefixtures("small_pieces")
def test_added_listed_kept_replaced_and_removed(
    broker: MemoryBroker, orchestrator: Orchestrator, files: dict[str, Path]
) -> None:
    shown: list[float] = []
    with operator(broker) as chief:
        assert chief.models() == ()
        chief.add(files["strange"], "cats", False, lambda text, fraction: shown.append(fraction or 0.0))
        chief.add(files["edges"], "edges", False, quiet)
        chief.add(files["edges"], "edges", False, quiet)  # again changes nothing
        assert (shown[0], max(shown)) == (0.0, 1.0)
        cats, edges = chief.models()
    assert (cats.name, cats.sha256, cats.kept) == ("cats", sha256_of(files["strange"]), True)
    assert (edges.input_shape, edges.input_dtype, edges.phase) == ((1, 48, 64, 3), "float32", "gathering")
    assert orchestrator.models.content(cats.sha256) == files["strange"].read_bytes()

    orchestrator.start()
    assert orchestrator.served == {"cats": cats.sha256, "edges": edges.sha256}
    with operator(broker) as chief:
        with pytest.raises(UsageError, match="--replace"):
            chief.add(files["stranger"], "cats", False, quiet)
        assert orchestrator.served["cats"] == cats.sha256
        chief.add(files["stranger"], "cats", True, quiet)
        chief.remove("edges")
        with pytest.raises(UsageError, match="served are: cats"):
            chief.remove("edges")
    assert orchestrator.served == {"cats": sha256_of(files["stranger"])}
    orchestrator.start()
    assert orchestrator.served == {"cats": sha256_of(files["stranger"])}
    assert len(list(orchestrator.directory.glob("*.tflite"))) == 1


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("seed", range(25))
def test_whatever_happens_to_the_link_and_the_orchestrator_the_file_arrives(
    tmp_path: Path, files: dict[str, Path], seed: int
) -> None:
    chance = random.Random(seed)
    broker = MemoryBroker(seed=seed, duplicate=0.2)
    orchestrator = Orchestrator(broker, tmp_path / "served")

    def accident() -> None:
        match chance.randrange(30):
            case 0:
                broker.cut("chief")
            case 1:
                broker.cut("orchestrator")
            case 2:
                orchestrator.start()
            case 3:
                broker.stop()
                broker.start()

    orchestrator.accident = accident
    with operator(broker) as chief:
        for name in ("strange", "stranger"):
            chief.add(files[name], name, False, quiet)
    orchestrator.start()
    assert orchestrator.served == {name: sha256_of(files[name]) for name in ("strange", "stranger")}


@pytest.mark.usefixtures("small_pieces")
def test_an_operator_that_was_killed_goes_on_where_it_was(
    broker: MemoryBroker, orchestrator: Orchestrator, files: dict[str, Path]
) -> None:
    class Killed(BaseException):
        pass

    def die_halfway(text: str, fraction: float | None) -> None:
        if (fraction or 0.0) > 0.5:
            raise Killed

    with pytest.raises(Killed), operator(broker) as chief:
        chief.add(files["strange"], "cats", False, die_halfway)
    assert orchestrator.served == {}
    orchestrator.start()
    shown: list[float] = []
    with operator(broker) as chief:
        chief.add(files["strange"], "cats", False, lambda text, fraction: shown.append(fraction or 1.0))
    assert min(shown) > 0.5
    assert orchestrator.served == {"cats": sha256_of(files["strange"])}


def test_an_agent_that_was_away_is_told_of_what_was_removed(
    broker: MemoryBroker, orchestrator: Orchestrator, files: dict[str, Path]
) -> None:
    told: list[Command] = []
    agent = MemoryConnection(
        broker, "ant", lambda e: told.append(codec.from_json(Command, e.payload)) if isinstance(e, Message) else None
    )
    agent.open(1.0)
    agent.subscribe([(TOPICS.agent("ant", "command"), 1)])
    with operator(broker) as chief:
        chief.add(files["strange"], "cats", False, quiet)
        epoch = orchestrator.models.by_name["cats"].state.epoch
        chief.remove("cats")
    for state in ("offline", "online"):
        orchestrator.models.tell(machine.AgentStateArrived("ant", AgentState(state, "s")))
    (command,) = told
    assert (command.operation, command.model and command.model.name) == ("release", "cats")
    assert command.epoch > epoch


def test_a_file_that_is_no_model_is_refused_and_not_kept(
    broker: MemoryBroker, orchestrator: Orchestrator, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong.tflite"
    wrong.write_bytes(b"\x1c\0\0\0TFL3" + bytes(100))
    with operator(broker) as chief:
        with pytest.raises(ModelError):
            chief.add(wrong, "wrong", False, quiet)
        with pytest.raises(InputError, match="cannot be read"):
            chief.add(tmp_path / "missing.tflite", "missing", False, quiet)
        with pytest.raises(UsageError):
            chief.add(wrong, "no/name", False, quiet)
    assert orchestrator.served == {}
    assert list(orchestrator.directory.glob("*.tflite")) == []


def test_above_a_limit_nothing_is_sent(broker: MemoryBroker, files: dict[str, Path], tmp_path: Path) -> None:
    orchestrator = Orchestrator(broker, tmp_path / "served", StoreLimits(file_bytes=1000))
    with operator(broker) as chief, pytest.raises(RequestError, match="1000 are allowed"):
        chief.add(files["strange"], "cats", False, quiet)
    assert list(orchestrator.directory.glob("*.part")) == []


def test_a_full_disk_is_said_to_the_operator(
    broker: MemoryBroker, orchestrator: Orchestrator, files: dict[str, Path]
) -> None:
    (orchestrator.directory / f"{sha256_of(files['strange'])}.part").symlink_to("/dev/full")
    with operator(broker) as chief, pytest.raises(RequestError, match="disk is full"):
        chief.add(files["strange"], "cats", False, quiet)
    assert orchestrator.served == {}


def test_a_damaged_file_is_told_of_and_can_be_added_again(
    broker: MemoryBroker, orchestrator: Orchestrator, files: dict[str, Path]
) -> None:
    with operator(broker) as chief:
        chief.add(files["strange"], "cats", False, quiet)
        (kept,) = orchestrator.directory.glob("*.tflite")
        content = bytearray(kept.read_bytes())
        content[-1] ^= 1
        kept.write_bytes(content)
        orchestrator.start()
        (status,) = chief.models()
        assert "not what was stored" in status.error
        chief.remove("cats")
        chief.add(files["strange"], "cats", False, quiet)
    assert orchestrator.served == {"cats": sha256_of(files["strange"])}


def test_a_model_given_at_the_start_comes_before_a_kept_one(
    broker: MemoryBroker, orchestrator: Orchestrator, files: dict[str, Path]
) -> None:
    with operator(broker) as chief:
        chief.add(files["strange"], "cats", False, quiet)
        orchestrator.start(ModelFile("cats", files["edges"]))
        (status,) = chief.models()
        assert (status.sha256, status.kept) == (sha256_of(files["edges"]), False)
        chief.add(files["edges"], "cats", False, quiet)  # now it is kept
        assert chief.models()[0].kept
    orchestrator.start()
    assert orchestrator.served == {"cats": sha256_of(files["edges"])}


class Member:
    """An agent at the memory broker that says it is there, and hears commands."""

    def __init__(self, broker: MemoryBroker, orchestrator: Orchestrator, name: str, board: str) -> None:
        self.told: list[Command] = []
        self.info = AgentInfo(board, 4, 1, 1 << 30, "runtime", "1", "xnnpack", "1", ())
        connection = MemoryConnection(broker, name, self.hear)
        connection.open(1.0)
        connection.subscribe([(TOPICS.agent(name, "command"), 1)])
        sample = Sample(self.info.board_class, ("0123456789abcdef",), (8.0,), 0.25)
        for event in (
            machine.AgentInfoArrived(name, self.info),
            machine.AgentStateArrived(name, AgentState("online", "s")),
            machine.ProfileArrived(name, Profile(self.info.board_class, Link(0.001, 1e6, 1e6), (sample,))),
        ):
            orchestrator.models.tell(event)

    def hear(self, event: TransportEvent) -> None:
        if isinstance(event, Message):
            self.told.append(codec.from_json(Command, event.payload))

    def forgets(self) -> int:
        return sum(command.operation == "forget" for command in self.told)


def test_planning_anew_concerns_one_model_or_all_and_measuring_again_a_class_of_boards(
    broker: MemoryBroker, orchestrator: Orchestrator, files: dict[str, Path]
) -> None:
    orchestrator.start(ModelFile("cats", files["strange"]), ModelFile("edges", files["edges"]))
    ant, bee, cat = (Member(broker, orchestrator, *each) for each in (("ant", "pi4"), ("bee", "pi4"), ("cat", "pi5")))
    asked: list[tuple[str, machine.ReplanAsked]] = []
    for name, model in orchestrator.models.by_name.items():
        heard = functools.partial(lambda name, event: asked.append((name, event)), name)
        model.step = heard  # type: ignore[method-assign]
    answers: list[BridgeResponse] = []
    orchestrator.respond = lambda operation, response: answers.append(response)  # type: ignore[method-assign]
    orchestrator.bridge._respond = orchestrator.respond

    def replan(transaction: str, **wanted: object) -> str:
        content = {"schema": 1, "transaction": transaction, **wanted}
        orchestrator.bridge.take("replan", json.dumps(content).encode())
        assert answers[-1].transaction == transaction
        return answers[-1].code or answers[-1].data.state

    assert replan("a") == "planning"
    assert asked == [("cats", machine.ReplanAsked()), ("edges", machine.ReplanAsked())]
    assert replan("a") == "planning"
    assert len(asked) == 2, "the same request has come twice"
    assert replan("b", name="edges") == "planning"
    assert asked[2:] == [("edges", machine.ReplanAsked())]
    assert replan("c", again=True, agents=["bee"]) == "planning"
    told = machine.ReplanAsked(frozenset({"ant", "bee"}))
    assert asked[3:] == [("cats", told), ("edges", told)]
    assert [each.forgets() for each in (ant, bee, cat)] == [1, 1, 0]
    assert replan("d", again=True) == "planning"
    assert asked[5] == ("cats", machine.ReplanAsked(frozenset({"ant", "bee", "cat"}), own_link=True))
    assert [each.forgets() for each in (ant, bee, cat)] == [2, 2, 1]
    assert replan("e", name="dogs") == "unknown-name"
    assert replan("f", again=True, agents=["cow"]) == "unknown-agent"
    assert replan("g", name="cats", again=True) == "bad-request"
    assert len(asked) == 7
    orchestrator.start()
    orchestrator.bridge._respond = orchestrator.respond
    assert replan("h") == "no-model"


def test_without_a_place_to_keep_models_they_are_listed_and_planned_but_none_is_added(
    broker: MemoryBroker, orchestrator: Orchestrator, files: dict[str, Path]
) -> None:
    orchestrator.start(ModelFile("cats", files["strange"]))
    orchestrator.bridge = Bridge(None, orchestrator.models, orchestrator.background, orchestrator.respond, lambda: None)
    orchestrator.bridge.serve_kept()
    with operator(broker) as chief:
        (status,) = chief.models()
        assert (status.name, status.kept) == ("cats", False)
        with pytest.raises(RequestError, match="--state-dir"):
            chief.add(files["edges"], "edges", False, quiet)
        with pytest.raises(RequestError, match="--state-dir"):
            chief.remove("cats")
        orchestrator.bridge.take("replan", b'{"schema":1,"transaction":"t"}')


def test_an_operator_waits_until_the_plan_is_in_force(broker: MemoryBroker, orchestrator: Orchestrator) -> None:
    """The phases come one after the other, as the orchestrator says them; `serving` from before does not count."""
    shown: list[str] = []

    def say(phase: str) -> None:
        state = OrchestratorState(phase, "s", "ant")
        orchestrator.connection.publish(TOPICS.orchestrator_state(), codec.to_json(state), retain=True)

    def take(operation: str, payload: bytes) -> None:
        request = codec.from_json(REQUESTS[operation], payload)
        say("profiling")
        orchestrator.respond(operation, BridgeResponse("ok", request.transaction, BridgeData("planning")))
        say("assigning")
        say("serving")

    say("serving")
    orchestrator.bridge.take = take  # type: ignore[method-assign]
    with operator(broker) as chief:
        chief.replan("", None, lambda text, fraction: shown.append(text))
    assert shown == ["profiling: ant", "assigning: ant"]


def test_what_became_of_a_request_comes_in_pages(broker: MemoryBroker, orchestrator: Orchestrator) -> None:
    trace = RequestTrace(
        "r", "cats", True, 1, 0, 1, 5.0, 34.0, 1.0, 1.0,
        tiles=tuple(TraceTile("ant", step, 0.0, 0.0, 0.0, 1.0, 0.0, 5, 5) for step in range(PAGE + 1)),
        flows=tuple(TraceFlow("ant", None, "bee", step) for step in range(PAGE + 1)),
    )  # fmt: skip
    made: list[str] = []

    def of(request: str) -> Callable[[], RequestTrace] | None:
        made.append(request)
        return (lambda: trace) if request in ("", "r") else None

    orchestrator.models.trace = of  # type: ignore[method-assign]
    with operator(broker) as chief:
        assert chief.trace() == trace
        assert made == [""], "it is made once for all pages"
        assert chief.trace("r") == trace
        with pytest.raises(RequestError, match="send one first"):
            chief.trace("s")


def test_nobody_answers(broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operator_module, "ABSENT", 0.05)
    with operator(broker) as chief, pytest.raises(RequestError, match="no orchestrator is online"):
        chief.models()


def test_a_link_that_stays_cut(
    broker: MemoryBroker, orchestrator: Orchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operator_module, "PATIENCE", 0.05)
    with operator(broker) as chief:
        broker.cut("chief", reconnect=False)
        with pytest.raises(BrokerError, match="cut"):
            chief.models()


_NAMES = st.sampled_from(["cats", "../cats", "", "a" * 40, "cats\0"])
_HASHES = st.sampled_from(["ab" * 32, "cd" * 32, "../../etc/passwd", ""])
_NUMBERS = st.sampled_from([-1, 0, 1, SMALL, 10_000, 1 << 34, 1 << 62])
_REQUESTS = st.one_of(
    st.tuples(st.sampled_from(OPERATIONS), st.binary(max_size=60)),
    st.builds(
        lambda name, sha256, size, replace: (
            "model-add",
            json.dumps(
                {"schema": 1, "transaction": "t", "model": {"name": name, "sha256": sha256, "size": size},
                 "replace": replace}
            ).encode(),
        ),
        _NAMES, _HASHES, _NUMBERS, st.booleans(),
    ),
    st.builds(
        lambda sha256, offset, body: ("model-upload", codec.pack(UploadPiece("t", sha256, offset), body)),
        _HASHES, _NUMBERS, st.binary(max_size=SMALL + 1),
    ),
    st.builds(
        lambda name: ("model-remove", json.dumps({"schema": 1, "transaction": "t", "name": name}).encode()), _NAMES
    ),
    st.just(("model-list", b'{"schema":1,"transaction":"t"}')),
    st.just(("replan", b'{"schema":1,"transaction":"t","again":true,"agents":["ant"]}')),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(_REQUESTS, max_size=20))
def test_whatever_is_asked_is_answered_or_refused(
    tmp_path_factory: pytest.TempPathFactory, asked: list[tuple[str, bytes]]
) -> None:
    """Nothing is served that is no model, nothing is written outside, and nothing but a refusal is raised."""
    directory = tmp_path_factory.mktemp("bridge") / "served"
    orchestrator = Orchestrator(MemoryBroker(), directory, StoreLimits(models=2, bytes=20_000, file_bytes=10_000))
    answers: list[BridgeResponse] = []
    orchestrator.respond = lambda operation, response: answers.append(response)  # type: ignore[method-assign]
    orchestrator.start()
    for operation, payload in asked:
        before = len(answers)
        try:
            orchestrator.bridge.take(operation, payload)
        except ProtocolError:
            assert len(answers) == before
        else:
            assert len(answers) == before + 1
        while orchestrator.background.jobs:
            orchestrator.background.jobs.pop(0)()
    assert orchestrator.served == {}
    assert [path.suffix for path in directory.iterdir() if path.suffix != ".part"] == []
    assert sum(path.stat().st_size for path in directory.iterdir()) <= 20_000
    assert [path.name for path in directory.parent.iterdir()] == ["served"]


@pytest.mark.parametrize(
    ("operation", "payload"),
    [
        ("model-list", b""),
        ("model-list", b"{}"),
        ("model-add", b'{"schema":1,"transaction":"x","model":{"name":"a","sha256":"..","size":1}}'),
        ("model-upload", b"\0\0\0\0"),
        ("model-upload", b'{"schema":1}'),
        ("model-steal", b"{}"),
    ],
)
def test_what_is_no_request_is_refused(orchestrator: Orchestrator, operation: str, payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        orchestrator.bridge.take(operation, payload)
