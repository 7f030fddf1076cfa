"""The agent's machine: fetching models, and assignments that come early, twice, or make no sense."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from legion_iot.runtime import agent as machine
from legion_iot.runtime.exchange import TensorForm
from legion_iot.runtime.fetch import CHUNK, CHUNK_ATTEMPTS, CHUNK_TIMEOUT, CHUNKS_AHEAD, CHUNKS_IN_FLIGHT
from legion_iot.runtime.ready import MOST_ATTEMPTS
from legion_iot.wire.messages import (
    AssignedStep,
    Assignment,
    Chunk,
    Command,
    Failed,
    Fragment,
    ModelReference,
    PeerRegion,
    ProfilePart,
    Ready,
    RegionBounds,
    TensorRegion,
)

CONTENT = random.Random(1).randbytes(CHUNK * 11 + 777)
FIRST = ModelReference("first", "a" * 64, len(CONTENT))
SECOND = ModelReference("second", "b" * 64, CHUNK // 2)
FORMS = {0: TensorForm(1, "float32"), 1: TensorForm(1, "float32")}


def assignment(
    epoch: int,
    model: ModelReference = FIRST,
    *,
    receives: tuple[PeerRegion, ...] | None = None,
    sends: tuple[PeerRegion, ...] | None = None,
) -> Assignment:
    """One step: rows 0 to 4 of tensor 0 become rows 0 to 2 of tensor 1."""
    step = AssignedStep(0, (0, 0), (TensorRegion(0, (0, 4, 0, 3)),), (TensorRegion(1, (0, 2, 0, 3)),))
    return Assignment(
        epoch,
        model,
        (step,),
        (PeerRegion(0, 0, (0, 4, 0, 3), "orchestrator"),) if receives is None else receives,
        (PeerRegion(1, 1, (0, 2, 0, 3), "orchestrator"),) if sends is None else sends,
    )


class Line:
    """The orchestrator's end of a fetch: what was asked, and the answers to it."""

    def __init__(self, state: machine.State) -> None:
        self.state, self.now = state, 100.0
        self.asked: list[machine.AskChunk] = []
        self.stored: dict[int, bytes] = {}
        self.others: list[machine.Effect] = []
        self.there = 0  # bytes that the disk holds from an earlier fetch
        self.removed: tuple[str, ...] = ()
        self.room: list[machine.MakeRoom] = []

    def tell(self, event: machine.Event) -> list[machine.Effect]:
        effects = machine.step(self.state, event, self.now)
        for effect in effects:
            match effect:
                case machine.MakeRoom(model=model):
                    self.room.append(effect)
                    self.tell(machine.RoomMade(model.sha256, self.there, self.removed))
                case machine.AskChunk():
                    self.asked.append(effect)
                case machine.StoreChunk(chunk=chunk, body=body):
                    self.stored[chunk.offset] = bytes(body)
                case _:
                    self.others.append(effect)
        fetch = self.state.fetch
        assert fetch is None or len(fetch.in_flight) <= CHUNKS_IN_FLIGHT
        return effects

    def wait(self, seconds: float) -> list[machine.Effect]:
        self.now += seconds
        return self.tell(machine.Tick())

    def answer(self, asked: machine.AskChunk) -> list[machine.Effect]:
        wanted = asked.request
        body = CONTENT[wanted.offset : wanted.offset + wanted.size]
        return self.tell(machine.ChunkArrived(Chunk(wanted.sha256, wanted.offset), memoryview(body)))

    def answer_all(self) -> None:
        while self.asked:
            self.answer(self.asked.pop(0))

    def failures(self) -> list[Failed]:
        return [e.message for e in self.others if isinstance(e, machine.Report) and isinstance(e.message, Failed)]


def line(*, models: tuple[ModelReference, ...] = ()) -> Line:
    return Line(machine.State("ant", {model.sha256 for model in models}))


def release(epoch: int) -> machine.CommandArrived:
    return machine.CommandArrived(Command("release", FIRST, epoch=epoch))


def fetch_command(model: ModelReference, operation: str = "fetch") -> machine.CommandArrived:
    return machine.CommandArrived(Command(operation, model, 7, (ProfilePart(),), 1.0))


@pytest.mark.parametrize("seed", range(25))
def test_a_model_arrives_whole_whatever_is_lost_repeated_or_late(seed: int) -> None:
    draw, end = random.Random(seed), line()
    end.tell(fetch_command(FIRST))
    answered: list[machine.AskChunk] = []
    for _ in range(3000):
        if not end.asked:
            if machine.FinishModel(FIRST) in end.others:
                break
            end.wait(CHUNK_TIMEOUT + 0.1)
            continue
        asked = end.asked.pop(draw.randrange(len(end.asked)))
        if draw.random() < 0.3:
            continue  # lost
        answered.append(asked)
        end.answer(asked)
        end.answer(draw.choice(answered))  # one that came before comes again
    assert b"".join(end.stored[offset] for offset in sorted(end.stored)) == CONTENT
    assert end.others == [machine.FinishModel(FIRST)]
    assert not end.failures()


def test_lost_chunks_are_asked_for_again_and_no_others() -> None:
    end = line()
    end.tell(fetch_command(FIRST))
    first = end.asked.copy()
    assert len(first) == CHUNKS_IN_FLIGHT
    end.asked.clear()
    end.answer(first[2])
    end.asked.clear()
    assert end.wait(CHUNK_TIMEOUT - 0.1) == []
    end.wait(0.2)
    lost = {a.request.offset for a in first} - {first[2].request.offset} | {CHUNK * CHUNKS_IN_FLIGHT}
    assert {a.request.offset for a in end.asked} == lost
    assert len(end.asked) == CHUNKS_IN_FLIGHT


def test_a_chunk_of_the_wrong_size_or_place_is_not_stored() -> None:
    end = line()
    end.tell(fetch_command(FIRST))
    for sha256, offset, size in (
        (FIRST.sha256, 0, CHUNK - 1),
        (FIRST.sha256, 0, CHUNK + 1),
        (FIRST.sha256, 0, 0),
        (FIRST.sha256, 1, CHUNK),
        (FIRST.sha256, -CHUNK, CHUNK),
        (FIRST.sha256, CHUNK * 9, CHUNK),  # not asked for yet
        (SECOND.sha256, 0, CHUNK),
    ):
        assert end.tell(machine.ChunkArrived(Chunk(sha256, offset), memoryview(bytes(size)))) == []
    assert end.stored == {}
    assert end.state.dropped == 7


def test_a_fetch_that_nobody_answers_is_given_up_with_a_report() -> None:
    end = line()
    end.tell(fetch_command(FIRST))
    for _ in range(CHUNK_ATTEMPTS):
        end.wait(CHUNK_TIMEOUT + 0.1)
        assert not end.failures()
    end.wait(CHUNK_TIMEOUT + 0.1)
    (failed,) = end.failures()
    assert failed.epoch == 0
    assert "first" in failed.reason
    assert end.state.fetch is None
    assert end.wait(100) == []


def test_progress_renews_the_attempts() -> None:
    end = line()
    end.tell(fetch_command(FIRST))
    for _ in range(CHUNK_ATTEMPTS + 3):
        end.answer(end.asked.pop())
        end.wait(CHUNK_TIMEOUT + 0.1)
    assert not end.failures()


def test_an_assignment_waits_for_its_model() -> None:
    end = line()
    end.tell(machine.AssignmentArrived(assignment(5)))
    end.answer_all()
    effects = end.tell(machine.ModelStored(FIRST.sha256))
    assert effects == [machine.PublishInfo(), machine.Load(assignment(5))]


def test_only_the_newest_assignment_is_loaded_after_a_fetch() -> None:
    end = line()
    end.tell(machine.AssignmentArrived(assignment(5)))
    end.tell(machine.AssignmentArrived(assignment(6)))
    end.answer_all()
    effects = end.tell(machine.ModelStored(FIRST.sha256))
    assert [e for e in effects if isinstance(e, machine.Load)] == [machine.Load(assignment(6))]


def test_an_assignment_taken_back_during_its_fetch_is_not_loaded() -> None:
    end = line()
    end.tell(machine.AssignmentArrived(assignment(5)))
    end.tell(machine.AssignmentArrived(Assignment(6, FIRST, (), (), ())))
    assert end.others[-1] == machine.Report(Ready(6))
    end.answer_all()
    assert end.tell(machine.ModelStored(FIRST.sha256)) == [machine.PublishInfo()]


def test_an_assignment_survives_a_command_to_fetch_another_model() -> None:
    end = line()
    end.tell(machine.AssignmentArrived(assignment(5)))
    end.asked.clear()
    end.tell(fetch_command(SECOND))
    assert {a.request.sha256 for a in end.asked} == {SECOND.sha256}
    end.answer_all()
    end.tell(machine.ModelStored(SECOND.sha256))
    assert {a.request.sha256 for a in end.asked} == {FIRST.sha256}, "the assignment's own model is fetched next"
    end.answer_all()
    assert machine.Load(assignment(5)) in end.tell(machine.ModelStored(FIRST.sha256))


def test_an_assignment_survives_another_model_that_cannot_be_stored() -> None:
    end = line()
    end.tell(machine.AssignmentArrived(assignment(5)))
    end.tell(fetch_command(SECOND))
    end.asked.clear()
    end.tell(machine.ModelStored(SECOND.sha256, "disk full"))
    assert end.failures() == [Failed(0, "", "disk full", model=SECOND.sha256)]
    assert {a.request.sha256 for a in end.asked} == {FIRST.sha256}


def test_an_assigned_model_that_cannot_be_stored_is_reported_once_and_not_fetched_for_ever() -> None:
    end = line()
    end.tell(machine.AssignmentArrived(assignment(5)))
    end.asked.clear()
    end.tell(machine.ModelStored(FIRST.sha256, "disk full"))
    end.tell(machine.ModelStored(FIRST.sha256, "disk full"))
    assert end.failures() == [Failed(5, "", "disk full", model=FIRST.sha256)]
    assert end.asked == []


def test_a_fetch_goes_on_where_an_earlier_one_was_cut() -> None:
    end = line()
    end.there = 3 * CHUNK + 5
    end.tell(fetch_command(FIRST))
    end.answer_all()
    assert b"".join(end.stored[offset] for offset in sorted(end.stored)) == CONTENT[end.there :]
    assert end.others == [machine.FinishModel(FIRST)]


def test_a_model_that_was_all_there_is_only_checked() -> None:
    end = line()
    end.there = len(CONTENT)
    end.tell(fetch_command(FIRST))
    assert end.asked == []
    assert end.others == [machine.FinishModel(FIRST)]


def test_what_was_resumed_and_does_not_match_is_fetched_once_more_before_anybody_is_told() -> None:
    end = line()
    end.there = CHUNK
    end.tell(fetch_command(FIRST))
    end.answer_all()
    end.there = 0
    end.tell(machine.ModelStored(FIRST.sha256, "it does not match"))
    assert not end.failures()
    assert min(a.request.offset for a in end.asked) == 0
    end.answer_all()
    end.tell(machine.ModelStored(FIRST.sha256, "it does not match"))
    assert end.failures() == [Failed(0, "", "it does not match", model=FIRST.sha256)]
    assert end.state.fetch is None


def test_nothing_is_asked_for_before_there_is_room() -> None:
    state = machine.State("ant")
    (room,) = machine.step(state, fetch_command(FIRST), 1.0)
    assert room == machine.MakeRoom(FIRST, frozenset())
    assert machine.step(state, fetch_command(FIRST), 2.0) == []
    assert machine.step(state, machine.Tick(), 1000.0) == []
    assert machine.step(state, machine.RoomMade(SECOND.sha256), 1000.0) == []
    asked = machine.step(state, machine.RoomMade(FIRST.sha256), 1000.0)
    assert len(asked) == CHUNKS_IN_FLIGHT
    assert machine.step(state, machine.RoomMade(FIRST.sha256, CHUNK), 1001.0) == [], "it has begun"


def test_that_there_is_no_room_is_reported() -> None:
    state = machine.State("ant")
    machine.step(state, fetch_command(FIRST), 1.0)
    effects = machine.step(state, machine.ModelStored(FIRST.sha256, "no room"), 1.0)
    assert effects == [machine.Report(Failed(0, "", "no room", model=FIRST.sha256))]


def test_models_that_assignments_need_stay_and_others_may_go() -> None:
    third = ModelReference("third", "c" * 64, 9)
    end = line(models=(FIRST, third))
    end.tell(machine.AssignmentArrived(assignment(5)))
    end.removed = (third.sha256,)
    end.tell(fetch_command(SECOND))
    assert end.room == [machine.MakeRoom(SECOND, frozenset({FIRST.sha256}))]
    assert machine.PublishInfo() in end.others
    assert end.state.models == {FIRST.sha256}


def test_a_model_that_is_lost_is_fetched_anew_for_what_needs_it() -> None:
    end = line(models=(FIRST,))
    profile = fetch_command(FIRST, "profile")
    end.tell(machine.AssignmentArrived(assignment(5)))
    end.tell(profile)
    end.tell(machine.ModelLost(FIRST))
    end.tell(machine.ModelLost(FIRST, profile.command))
    assert end.state.models == set()
    end.answer_all()
    effects = end.tell(machine.ModelStored(FIRST.sha256))
    assert effects == [
        machine.PublishInfo(),
        machine.StartMeasuring(profile.command),
        machine.Load(assignment(5)),
    ]
    assert not end.failures()


def test_no_chunk_is_asked_for_far_ahead_of_one_that_does_not_come() -> None:
    end = line()
    end.tell(fetch_command(ModelReference("large", FIRST.sha256, 100 * CHUNK)))
    lost = end.asked.pop(0)
    while end.asked:
        asked = end.asked.pop(0)
        end.tell(machine.ChunkArrived(Chunk(FIRST.sha256, asked.request.offset), memoryview(bytes(CHUNK))))
    assert max(end.stored) == (CHUNKS_AHEAD - 1) * CHUNK
    end.tell(machine.ChunkArrived(Chunk(FIRST.sha256, lost.request.offset), memoryview(bytes(CHUNK))))
    assert len(end.asked) == CHUNKS_IN_FLIGHT


def test_a_profile_command_during_the_fetch_runs_once_after_it() -> None:
    end = line()
    end.tell(fetch_command(FIRST))
    for _ in range(1000):
        end.tell(fetch_command(FIRST, "profile"))
    end.answer_all()
    effects = end.tell(machine.ModelStored(FIRST.sha256))
    assert effects == [machine.PublishInfo(), machine.StartMeasuring(fetch_command(FIRST, "profile").command)]


def test_a_profile_command_for_a_model_at_hand_runs_at_once() -> None:
    end = line(models=(FIRST,))
    command = fetch_command(FIRST, "profile")
    assert end.tell(command) == [machine.StartMeasuring(command.command)]
    assert end.tell(fetch_command(FIRST)) == [machine.PublishInfo()]


def test_what_was_measured_is_forgotten_once() -> None:
    end = line()
    forget = Command("forget", None, 8)
    assert end.tell(machine.CommandArrived(forget)) == [machine.ForgetMeasured()]
    assert end.tell(machine.CommandArrived(forget)) == [], "it came twice; what was measured since is kept"


def test_a_probe_needs_no_model_and_everything_else_does() -> None:
    end = line()
    probe = Command("probe", None, 8)
    assert end.tell(machine.CommandArrived(probe)) == [machine.StartMeasuring(probe)]
    assert end.tell(machine.CommandArrived(probe)) == [], "it came twice"
    assert end.tell(machine.CommandArrived(Command("fetch", None, 8))) == []
    assert end.state.dropped == 1


def test_an_agent_measures_only_while_nobody_waits_for_it() -> None:
    end = line(models=(FIRST,))
    assert machine.may_measure(end.state, 1.0)
    end.tell(fetch_command(SECOND))
    assert not machine.may_measure(end.state, 1000.0)


def test_a_repeated_assignment_does_nothing() -> None:
    end = line(models=(FIRST,))
    assert end.tell(machine.AssignmentArrived(assignment(5))) == [machine.Load(assignment(5))]
    assert end.tell(machine.AssignmentArrived(assignment(5))) == []
    assert end.tell(machine.Loaded(5, FORMS)) == [machine.Report(Ready(5))]
    assert end.tell(machine.AssignmentArrived(assignment(5))) == []
    assert [held.exchange is not None for held in end.state.epochs] == [True]


def test_what_was_loaded_for_an_older_epoch_counts_for_nothing() -> None:
    end = line(models=(FIRST,))
    for epoch in (5, 6, 7):
        end.tell(machine.AssignmentArrived(assignment(epoch)))
    assert end.tell(machine.Loaded(5, FORMS)) == [machine.Unload(5)]
    assert end.tell(machine.Loaded(5, {}, "no memory")) == [machine.Unload(5)]
    assert end.tell(machine.Loaded(7, FORMS)) == [machine.Report(Ready(7))]


def test_what_was_loaded_before_the_epoch_was_taken_back_is_freed() -> None:
    end = line(models=(FIRST,))
    end.tell(machine.AssignmentArrived(assignment(5)))
    end.tell(machine.AssignmentArrived(Assignment(5, FIRST, (), (), ())))
    assert end.tell(machine.Loaded(5, FORMS)) == [machine.Unload(5)]
    assert end.tell(input_rows(5)) == []
    assert end.state.dropped == 1


def test_a_step_of_an_older_epoch_sends_nothing() -> None:
    end = line(models=(FIRST,))
    end.tell(machine.AssignmentArrived(assignment(5)))
    end.tell(machine.Loaded(5, FORMS))
    end.tell(machine.AssignmentArrived(assignment(6)))
    end.tell(machine.Loaded(6, FORMS))
    end.tell(release(6))
    outputs = {1: np.zeros((2, 3, 1), np.float32)}
    assert end.tell(machine.StepDone(5, "r", 1, 0, outputs, 0.1, 100.0)) == []
    effects = end.tell(machine.StepDone(6, "r", 1, 0, outputs, 0.1, 100.0))
    assert [e.target for e in effects if isinstance(e, machine.SendRegion)] == ["orchestrator"]


def input_rows(epoch: int, attempt: int = 1, rows: tuple[int, int] = (0, 4), request: str = "r") -> machine.Event:
    header = Fragment(request, attempt, epoch, 0, 0, (*rows, 0, 3), 1, "float32")
    return machine.FragmentArrived("orchestrator", header, memoryview(bytes((rows[1] - rows[0]) * 3 * 4)))


def loaded(end: Line, *assignments: Assignment) -> Line:
    for each in assignments:
        end.tell(machine.AssignmentArrived(each))
        assert end.tell(machine.Loaded(each.epoch, FORMS)) == [machine.Report(Ready(each.epoch))]
    return end


def test_a_plan_is_loaded_beside_the_one_in_force_and_both_compute() -> None:
    end = loaded(line(models=(FIRST,)), assignment(5), assignment(6))
    end.tell(input_rows(5, request="old"))
    end.tell(input_rows(6, request="new"))
    (first,), (second,) = end.tell(machine.Idle()), end.tell(machine.Idle())
    assert isinstance(first, machine.Compute)
    assert isinstance(second, machine.Compute)
    assert [(first.epoch, first.request), (second.epoch, second.request)] == [(5, "old"), (6, "new")]


def test_released_epochs_are_freed_with_their_steps() -> None:
    end = loaded(line(models=(FIRST,)), assignment(5), assignment(6))
    end.tell(input_rows(5))
    assert end.tell(release(6)) == [machine.Unload(5)]
    assert end.tell(release(6)) == []
    assert end.tell(machine.Idle()) == []
    end.tell(input_rows(5, request="late"))
    assert end.state.dropped == 1


def test_a_third_epoch_pushes_out_the_first() -> None:
    end = loaded(line(models=(FIRST,)), assignment(5), assignment(6))
    assert end.tell(machine.AssignmentArrived(assignment(7))) == [machine.Unload(5), machine.Load(assignment(7))]
    assert len(end.state.epochs) == 2


def test_the_plan_in_force_stays_when_the_one_to_come_is_replaced_by_another() -> None:
    end = loaded(line(models=(FIRST,)), assignment(5), assignment(6))
    effects = end.tell(machine.AssignmentArrived(replace(assignment(7), beside=5)))
    assert effects == [machine.Unload(6), machine.Load(replace(assignment(7), beside=5))]
    effects = end.tell(machine.AssignmentArrived(replace(assignment(8), beside=5)))
    assert effects == [machine.Unload(7), machine.Load(replace(assignment(8), beside=5))]


def test_a_plan_that_is_to_be_alone_replaces_all_others_of_its_model() -> None:
    other = assignment(4, SECOND)
    end = loaded(line(models=(FIRST, SECOND)), other, assignment(5), assignment(6))
    alone = replace(assignment(7), alone=True)
    assert end.tell(machine.AssignmentArrived(alone)) == [machine.Unload(5), machine.Unload(6), machine.Load(alone)]
    assert [held.assignment.epoch for held in end.state.epochs] == [4, 7]


def test_a_cleared_assignment_frees_its_model() -> None:
    end = loaded(line(models=(FIRST, SECOND)), assignment(4, SECOND), assignment(5), assignment(6))
    assert end.tell(machine.AssignmentCleared("first")) == [machine.Unload(5), machine.Unload(6)]
    assert end.tell(machine.AssignmentCleared("first")) == []


@pytest.mark.parametrize("epoch", [5, 6])
def test_a_newer_attempt_displaces_an_older_one(epoch: int) -> None:
    end = loaded(line(models=(FIRST,)), assignment(5), assignment(6))
    end.tell(input_rows(5, rows=(0, 2)))
    end.tell(input_rows(epoch, attempt=2, rows=(0, 2)))
    end.tell(input_rows(5, rows=(2, 4)))
    assert end.state.dropped == 1
    assert end.tell(machine.Idle()) == []
    end.tell(input_rows(epoch, attempt=2, rows=(2, 4)))
    (compute,) = end.tell(machine.Idle())
    assert isinstance(compute, machine.Compute)
    assert (compute.epoch, compute.attempt) == (epoch, 2)


def test_a_ready_step_of_an_older_attempt_is_not_computed() -> None:
    end = loaded(line(models=(FIRST,)), assignment(5))
    end.tell(input_rows(5))
    end.tell(input_rows(5, attempt=2, rows=(0, 2)))
    assert end.tell(machine.Idle()) == []


def test_a_failed_step_is_forgotten_with_its_attempt_only() -> None:
    end = loaded(line(models=(FIRST,)), assignment(5))
    end.tell(input_rows(5, attempt=2))
    report = machine.Report(Failed(5, "r", "it burns", attempt=1))
    assert end.tell(machine.StepFailed(5, "r", "it burns", 1)) == [report]
    assert len(end.tell(machine.Idle())) == 1


def test_before_anything_is_loaded_events_of_steps_do_nothing() -> None:
    end = line()
    assert end.tell(machine.StepDone(5, "r", 1, 0, {}, 0.1, 100.0)) == []
    assert end.tell(machine.Loaded(5, FORMS)) == [machine.Unload(5)]
    assert end.tell(machine.Tick()) == []


WRONG: list[tuple[int, RegionBounds]] = [
    (1, (0, 3, 0, 3)),
    (1, (1, 0, 0, 3)),
    (1, (-1, 2, 0, 3)),
    (0, (0, 1, 0, 1)),
    (9, (0, 1, 0, 1)),
]


@pytest.mark.parametrize(("tensor", "region"), WRONG)
@pytest.mark.parametrize("peer", ["ant", "orchestrator"])
def test_an_assignment_that_sends_what_it_does_not_make_is_reported(
    tensor: int, region: RegionBounds, peer: str
) -> None:
    end = line(models=(FIRST,))
    end.tell(machine.AssignmentArrived(assignment(5, sends=(PeerRegion(1, tensor, region, peer),))))
    (effect,) = end.tell(machine.Loaded(5, FORMS))
    assert isinstance(effect, machine.Report)
    assert isinstance(effect.message, Failed)
    assert "contradicts itself" in effect.message.reason
    assert all(held.exchange is None for held in end.state.epochs)


@pytest.mark.parametrize(
    ("step", "tensor", "region"), [(0, 1, (0, 1, 0, 1)), (2, 0, (0, 1, 0, 1)), (0, 0, (0, 5, 0, 3))]
)
def test_an_assignment_that_receives_what_it_does_not_need_is_reported(
    step: int, tensor: int, region: RegionBounds
) -> None:
    end = line(models=(FIRST,))
    end.tell(machine.AssignmentArrived(assignment(5, receives=(PeerRegion(step, tensor, region, "bee"),))))
    (effect,) = end.tell(machine.Loaded(5, FORMS))
    assert isinstance(effect, machine.Report)
    assert isinstance(effect.message, Failed)


def several_steps() -> machine.State:
    """Ready for steps 0, 1 and 2, each of which needs a row of its own from the orchestrator."""
    rows = [(row, row + 1, 0, 3) for row in range(3)]
    steps = [AssignedStep(n, (0, 0), (TensorRegion(0, row),), (TensorRegion(1, row),)) for n, row in enumerate(rows)]
    state = machine.State("ant", {FIRST.sha256})
    receives = tuple(PeerRegion(number, 0, row, "orchestrator") for number, row in enumerate(rows))
    sends = tuple(PeerRegion(9, 1, row, "orchestrator") for row in rows)
    machine.step(state, machine.AssignmentArrived(Assignment(5, FIRST, tuple(steps), receives, sends)), 90.0)
    machine.step(state, machine.Loaded(5, FORMS), 91.0)
    return state


def arrive(state: machine.State, request: str, step: int) -> list[machine.Effect]:
    header = Fragment(request, 1, 5, step, 0, (step, step + 1, 0, 3), 1, "float32")
    return machine.step(state, machine.FragmentArrived("orchestrator", header, memoryview(bytes(12))), 100.0)


def next_work(state: machine.State) -> tuple[str, int] | None:
    effects = machine.step(state, machine.Idle(), 100.0)
    if not effects:
        return None
    (compute,) = effects
    assert isinstance(compute, machine.Compute)
    return compute.request, compute.step


def test_what_the_plan_puts_first_is_computed_first_of_what_is_ready() -> None:
    state = several_steps()
    assert next_work(state) is None
    for step in (2, 0):
        assert arrive(state, "r", step) == []
    assert [next_work(state), next_work(state), next_work(state)] == [("r", 0), ("r", 2), None]
    arrive(state, "r", 1)
    assert next_work(state) == ("r", 1)


def test_the_request_that_began_first_goes_first() -> None:
    state = several_steps()
    arrive(state, "old", 1)
    assert next_work(state) == ("old", 1)
    for step in (0, 2):
        arrive(state, "new", step)
    arrive(state, "old", 2)
    assert [next_work(state) for _ in range(4)] == [("old", 2), ("new", 0), ("new", 2), None]


def test_no_more_requests_wait_to_be_computed_than_may() -> None:
    """The orchestrator keeps to its window; whoever does not is refused, and what waits is computed."""
    end = loaded(line(models=(FIRST,)), assignment(5))
    for number in range(MOST_ATTEMPTS):
        assert end.tell(input_rows(5, request=f"r{number}")) == []
    (refused,) = end.tell(input_rows(5, request="one more"))
    assert isinstance(refused, machine.Report)
    assert isinstance(refused.message, Failed)
    assert refused.message.request == "one more"
    for number in range(MOST_ATTEMPTS):
        (work,) = end.tell(machine.Idle())
        assert isinstance(work, machine.Compute)
        assert work.request == f"r{number}"
    assert end.tell(input_rows(5, request="later")) == []


def test_a_request_that_failed_is_not_computed_on() -> None:
    state = several_steps()
    for request in ("r", "s"):
        for step in (0, 1):
            arrive(state, request, step)
    assert next_work(state) == ("r", 0)
    machine.step(state, machine.StepFailed(5, "r", "it burns"), 100.0)
    assert [next_work(state) for _ in range(3)] == [("s", 0), ("s", 1), None]


def test_nothing_of_an_older_epoch_is_computed() -> None:
    state = several_steps()
    arrive(state, "r", 0)
    machine.step(state, machine.AssignmentArrived(replace(assignment(6), alone=True)), 101.0)
    assert next_work(state) is None


def test_each_step_sends_what_it_made() -> None:
    state = several_steps()
    effects = machine.step(
        state, machine.StepDone(5, "r", 1, 1, {1: np.ones((1, 3, 1), np.float32)}, 0.1, 100.0), 100.0
    )
    (send,) = (effect for effect in effects if isinstance(effect, machine.SendRegion))
    assert (send.header.region, send.origin) == ((1, 2, 0, 3), (1, 2, 0, 3))


def test_gathering_makes_what_it_needs_and_nothing_else() -> None:
    gathers = AssignedStep(0, None, (TensorRegion(0, (0, 4, 0, 3)),), (TensorRegion(1, (0, 4, 0, 3)),), gathers=True)
    receives = (PeerRegion(0, 0, (0, 4, 0, 3), "orchestrator"),)
    end = line(models=(FIRST,))
    end.tell(machine.AssignmentArrived(Assignment(5, FIRST, (gathers,), receives, ())))
    end.tell(machine.Loaded(5, FORMS))
    (failed,) = end.failures()
    assert "gathers" in failed.reason
