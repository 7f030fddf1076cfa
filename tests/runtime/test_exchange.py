"""What a participant takes in, refuses, remembers and forgets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from legion_iot.errors import ProtocolError
from legion_iot.model.geometry import Interval, Region
from legion_iot.runtime.attempts import Attempt
from legion_iot.runtime.exchange import (
    FEW_REQUESTS,
    MAX_REQUESTS,
    MOST_BYTES,
    REMEMBERED,
    Exchange,
    TensorForm,
    UnplannedFragmentError,
)
from legion_iot.runtime.requests import WINDOW, WINDOW_OF_REPLICA
from legion_iot.wire.messages import Fragment, PeerRegion
from legion_iot.wire.tensors import Array, bounds

WHOLE = Region(Interval(0, 4), Interval(0, 3))
FORMS = {5: TensorForm(2, "float32"), 6: TensorForm(1, "int8")}
VALUES = np.arange(24, dtype=np.float32).reshape(4, 3, 2)


def exchange() -> Exchange:
    """Step 1 needs tensor 5, its upper half from ant and its lower from bee; step 2 needs tensor 6 from ant."""
    receives = [PeerRegion(1, 5, (0, 2, 0, 3), "ant"), PeerRegion(1, 5, (2, 4, 0, 3), "bee"),
                PeerRegion(2, 6, (0, 1, 0, 1), "ant")]  # fmt: skip
    needs = {1: {5: WHOLE}, 2: {6: Region(Interval(0, 1), Interval(0, 1))}}
    return Exchange(7, needs, receives, FORMS)


def put(
    to: Exchange,
    sender: str,
    rows: tuple[int, int],
    *,
    request: str = "r",
    attempt: int = 1,
    epoch: int = 7,
    step: int = 1,
    tensor: int = 5,
    channels: int = 2,
    dtype: str = "float32",
) -> dict[int, Array] | None:
    header = Fragment(request, attempt, epoch, step, tensor, (*rows, 0, 3), channels, dtype)
    body = VALUES[rows[0] : rows[1]].astype(dtype)[..., :channels]
    return to.put_fragment(sender, header, memoryview(body.tobytes()))


def test_a_step_is_complete_with_its_last_element() -> None:
    box = exchange()
    assert put(box, "ant", (0, 1)) is None
    assert put(box, "bee", (2, 4)) is None
    inputs = put(box, "ant", (1, 2))
    assert inputs is not None
    np.testing.assert_array_equal(inputs[5], VALUES)


def test_duplicates_neither_complete_a_step_nor_repeat_it() -> None:
    box = exchange()
    for _ in range(3):
        assert put(box, "ant", (0, 2)) is None
    assert put(box, "bee", (2, 4)) is not None
    assert put(box, "bee", (2, 4)) is None
    assert put(box, "ant", (0, 2)) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"epoch": 6},
        {"epoch": 8},
        {"sender": "bee"},
        {"sender": "cat"},
        {"step": 2},
        {"step": 3},
        {"tensor": 6},
        {"tensor": -1},
        {"rows": (1, 3)},
        {"channels": 1},
        {"dtype": "float16"},
        {"dtype": "complex64"},
    ],
    ids=str,
)
def test_what_the_plan_does_not_say_is_refused_and_takes_no_memory(wrong: dict[str, object]) -> None:
    box = exchange()
    arguments = {"sender": "ant", "rows": (0, 2), **wrong}
    with pytest.raises(ProtocolError) as caught:
        put(box, **arguments)  # type: ignore[arg-type]
    assert len(box) == 0
    if "epoch" in wrong:
        assert not isinstance(caught.value, UnplannedFragmentError), "it is late, which is nobody's fault"
    else:
        assert isinstance(caught.value, UnplannedFragmentError)
        assert caught.value.sender == arguments["sender"]
        assert str(caught.value).startswith(f"{caught.value.sender} ")


def test_an_empty_or_oversized_body_is_refused() -> None:
    box = exchange()
    for region, body in (
        ((0, 0, 0, 3), b""),
        ((0, 2, 0, 0), b""),
        ((0, 2, 0, 3), bytes(47)),
        ((0, 2, 0, 3), bytes(49)),
    ):
        with pytest.raises(UnplannedFragmentError, match="ant sent"):
            box.put_fragment("ant", Fragment("r", 1, 7, 1, 5, region, 2, "float32"), memoryview(body))
    assert len(box) == 0


def test_what_was_once_in_order_is_checked_again_where_it_differs() -> None:
    receives = [PeerRegion(1, 5, (0, 4, 0, 3), "ant"), PeerRegion(2, 5, (0, 4, 0, 3), "bee")]
    box = Exchange(7, {1: {5: WHOLE}, 2: {5: WHOLE}}, receives, FORMS, nan_allowed=False)
    good = Fragment("q", 1, 7, 1, 5, (0, 2, 0, 3), 2, "float32")
    body = VALUES[:2].tobytes()
    assert box.put_fragment("ant", good, memoryview(body)) is None
    nan = np.full_like(VALUES[:2], np.nan).tobytes()
    header = replace(good, request="r")
    for sender, wrong, elements in (
        ("bee", header, body),
        ("ant", replace(header, step=2), body),
        ("ant", replace(header, dtype="int32"), body),
        ("ant", replace(header, wire="int8"), body),
        ("ant", replace(header, codec="zeros", packed=8), body[:8]),
        ("ant", replace(header, packed=47), body[:47]),
        ("ant", header, body[:-1]),
        ("ant", header, nan),
    ):
        with pytest.raises(UnplannedFragmentError):
            box.put_fragment(sender, wrong, memoryview(elements))
    assert box.put_fragment("ant", header, memoryview(body)) is None
    assert put(box, "ant", (2, 4), request="r") is not None


def test_two_requests_do_not_mix() -> None:
    box = exchange()
    assert put(box, "ant", (0, 2), request="a") is None
    assert put(box, "bee", (2, 4), request="b") is None
    assert put(box, "bee", (2, 4), request="a") is not None
    assert put(box, "ant", (0, 2), request="b") is not None


def test_memory_is_freed_when_all_steps_had_their_inputs() -> None:
    box = exchange()
    put(box, "ant", (0, 2))
    put(box, "bee", (2, 4))
    assert len(box) == 1, "step 2 still waits"
    header = Fragment("r", 1, 7, 2, 6, (0, 1, 0, 1), 1, "int8")
    assert box.put_fragment("ant", header, memoryview(b"\x05")) is not None
    assert len(box) == 0


def test_the_late_fragments_of_a_forgotten_request_take_no_memory() -> None:
    box = exchange()
    put(box, "ant", (0, 2))
    box.forget(Attempt("r", 1))
    assert len(box) == 0
    assert put(box, "bee", (2, 4)) is None
    assert len(box) == 0


def test_attempts_at_a_request_do_not_mix_and_a_newer_one_displaces() -> None:
    box = exchange()
    put(box, "ant", (0, 2))
    assert put(box, "bee", (2, 4), attempt=2) is None
    box.displace(Attempt("r", 2))
    assert len(box) == 1
    assert put(box, "bee", (2, 4)) is None
    assert put(box, "ant", (0, 2), attempt=2) is not None


def test_nan_from_an_agent_is_refused_once_and_allowed_where_the_plan_says_so() -> None:
    receives = [PeerRegion(1, 5, (0, 4, 0, 3), "ant"), PeerRegion(2, 5, (0, 4, 0, 3), "orchestrator")]
    values = VALUES.copy()
    values[3, 2, 1] = np.nan
    header = Fragment("r", 1, 7, 1, 5, (0, 4, 0, 3), 2, "float32")
    needs = {1: {5: WHOLE}, 2: {5: WHOLE}}
    with pytest.raises(UnplannedFragmentError, match="ant sent NaN in tensor 5"):
        Exchange(7, needs, receives, FORMS, nan_allowed=False).put_fragment("ant", header, values.data.cast("B"))
    box = Exchange(7, needs, receives, FORMS, nan_allowed=True)
    assert box.put_fragment("ant", header, values.data.cast("B")) is not None
    box = Exchange(7, needs, receives, FORMS, nan_allowed=False)
    assert box.put_fragment("orchestrator", replace(header, step=2), values.data.cast("B")) is not None


def two_replicas() -> Exchange:
    """Steps 1 and 2 are of one replica, step 5 of another; all get tensor 5 from ant, in two halves."""
    receives = [PeerRegion(step, 5, rows, "ant") for step in (1, 2, 5) for rows in ((0, 2, 0, 3), (2, 4, 0, 3))]
    return Exchange(7, {step: {5: WHOLE} for step in (1, 2, 5)}, receives, FORMS, replicas={5: 1})


def test_a_request_is_over_with_the_steps_of_its_replica() -> None:
    box = two_replicas()
    assert put(box, "ant", (0, 2), step=5) is None
    assert len(box) == 1
    assert put(box, "ant", (2, 4), step=5) is not None
    assert len(box) == 0
    for step in (1, 2):
        put(box, "ant", (0, 2), step=step, request="s")
        assert len(box) == 1
        assert put(box, "ant", (2, 4), step=step, request="s") is not None
    assert len(box) == 0


def test_a_request_goes_through_one_replica() -> None:
    box = two_replicas()
    put(box, "ant", (0, 2), step=5)
    with pytest.raises(ProtocolError, match="replica") as caught:
        put(box, "ant", (0, 2), step=1)
    assert not isinstance(caught.value, UnplannedFragmentError), "the orchestrator chose the replica"
    assert put(box, "ant", (2, 4), step=5) is not None


def test_each_replica_adds_to_the_bound() -> None:
    box = two_replicas()
    for number in range(3 * MAX_REQUESTS):
        put(box, "ant", (0, 2), request=f"r{number}", step=number % 2 * 4 + 1)
    assert len(box) == 2 * MAX_REQUESTS


def test_one_that_goes_on_is_not_dropped() -> None:
    """Beyond the bound it is the one that has been silent for longest, not the oldest."""
    box = two_replicas()
    put(box, "ant", (0, 2), request="old", step=1)
    for number in range(4 * MAX_REQUESTS):
        put(box, "ant", (0, 2), request=f"r{number}", step=1)
        put(box, "ant", (0, 2), request="old", step=1)
    assert put(box, "ant", (2, 4), request="old", step=1) is not None


def test_the_oldest_request_is_dropped_beyond_the_bound() -> None:
    box = exchange()
    for number in range(MAX_REQUESTS + 5):
        put(box, "ant", (0, 2), request=f"r{number}")
        assert len(box) <= MAX_REQUESTS
    assert len(box) == MAX_REQUESTS
    for number in range(5):
        assert put(box, "bee", (2, 4), request=f"r{number}") is None, "it was dropped, and stays so"
    assert put(box, "bee", (2, 4), request=f"r{MAX_REQUESTS + 4}") is not None


def test_ended_requests_are_remembered_up_to_a_bound() -> None:
    box = exchange()
    for number in range(REMEMBERED):
        box.forget(Attempt(f"r{number}", 1))
    put(box, "ant", (0, 2), request="r0")
    assert len(box) == 0
    box.forget(Attempt("one more", 1))
    put(box, "ant", (0, 2), request="r0")
    assert len(box) == 1


@pytest.mark.parametrize(
    "part", [(3, 5, (0, 2, 0, 3)), (1, 6, (0, 1, 0, 1)), (1, 5, (3, 5, 0, 3)), (1, 5, (2, 1, 0, 3))], ids=str
)
def test_a_plan_that_contradicts_itself_is_refused(part: tuple[int, int, tuple[int, int, int, int]]) -> None:
    with pytest.raises(ProtocolError):
        Exchange(7, {1: {5: WHOLE}}, [PeerRegion(*part, "ant")], FORMS)


def test_a_tensor_without_a_form_is_refused() -> None:
    with pytest.raises(ProtocolError):
        Exchange(7, {1: {9: WHOLE}}, [PeerRegion(1, 9, (0, 4, 0, 3), "ant")], FORMS)


def test_the_bytes_of_many_requests_are_bounded_and_those_of_a_few_are_not() -> None:
    """Maps of 12 MB: the few requests that may be under way have theirs, whatever they take."""
    assert FEW_REQUESTS >= WINDOW
    assert FEW_REQUESTS >= WINDOW_OF_REPLICA
    whole = Region(Interval(0, 1000), Interval(0, 1000))
    box = Exchange(7, {1: {5: whole}}, [PeerRegion(1, 5, bounds(whole), "ant")], {5: TensorForm(3, "float32")})
    row = memoryview(bytes(4 * 3 * 1000))
    for number in range(12):
        header = Fragment(f"r{number}", 1, 7, 1, 5, (0, 1, 0, 1000), 3, "float32")
        assert box.put_fragment("ant", header, row) is None
        assert box.bytes == 12_000_000 * len(box)
        assert box.bytes <= max(MOST_BYTES, 12_000_000 * FEW_REQUESTS)
    assert len(box) == MOST_BYTES // 12_000_000
    large = Region(Interval(0, 4000), Interval(0, 1000))
    box = Exchange(7, {1: {5: large}}, [PeerRegion(1, 5, bounds(large), "ant")], {5: TensorForm(3, "float32")})
    for number in range(12):
        box.put_fragment("ant", Fragment(f"r{number}", 1, 7, 1, 5, (0, 1, 0, 1000), 3, "float32"), row)
        assert len(box) <= FEW_REQUESTS
    assert len(box) == FEW_REQUESTS
    for number in range(12):
        box.forget(Attempt(f"r{number}", 1))
    assert box.bytes == 0


def test_what_is_complete_is_not_counted_any_more() -> None:
    box = exchange()
    put(box, "ant", (0, 2))
    assert box.bytes == VALUES.nbytes
    put(box, "bee", (2, 4))
    assert box.bytes == 0
