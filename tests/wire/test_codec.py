"""Every message survives the wire; whatever is none raises ProtocolError, costs little, and raises nothing else."""

from __future__ import annotations

import dataclasses
import json
import random
import struct
import tracemalloc
import typing
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from legion_iot.errors import ProtocolError
from legion_iot.planning.links import Link
from legion_iot.planning.samples import Sample
from legion_iot.wire import codec
from legion_iot.wire.messages import (
    AgentState,
    AssignedStep,
    Assignment,
    Chunk,
    ChunkRequest,
    Command,
    Failed,
    Fragment,
    ModelReference,
    Parcel,
    PartTime,
    PeerRegion,
    Profile,
    ProfilePart,
    Ready,
    Receipt,
    TensorRegion,
)
from legion_iot.wire.tensors import INBOX
from tests.wire.strategies import MESSAGES, any_of

MODEL = ModelReference("vgg16", "0f" * 32, 59_000_000)
ASSIGNMENT = Assignment(
    7,
    MODEL,
    (AssignedStep(0, (0, 3), (TensorRegion(0, (0, 9, 0, 9)),), (TensorRegion(4, (0, 4, 0, 9)),)),),
    (PeerRegion(0, 0, (0, 9, 0, 9), "orchestrator"),),
    (PeerRegion(1, 4, (0, 4, 0, 9), "kitchen-pi"),),
)
COMMAND = Command("profile", MODEL, 3, (ProfilePart((0, 3), (0, 4, 0, 9)), ProfilePart()), 1.5)
PROFILE = Profile("pi", Link(0.001, 1e6, 2e6), (Sample("pi", ("a", "b"), (4.0, 6.0), 0.25, 0.01, 5),))
FRAGMENT = Fragment("r-1", 1, 7, 2, 4, (0, 4, 0, 9), 8, "float32")


def test_no_message_is_left_out_of_these_tests() -> None:
    assert {Fragment, Assignment, Command, AgentState, Chunk} <= set(MESSAGES)
    assert len(MESSAGES) >= 18


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_json_round_trip(kind: type[Any], data: st.DataObject) -> None:
    message = data.draw(any_of(kind))
    payload = codec.to_json(message)
    assert codec.from_json(kind, payload) == message
    assert json.loads(payload)["schema"] == codec.SCHEMA


@pytest.mark.parametrize("kind", INBOX.values(), ids=lambda kind: kind.__name__)
@settings(max_examples=60, deadline=None)
@given(data=st.data(), body=st.binary(max_size=300))
def test_binary_round_trip(kind: type[Any], data: st.DataObject, body: bytes) -> None:
    message = data.draw(any_of(kind))
    read, rest = codec.unpack(INBOX, codec.pack(message, body))
    assert read == message
    assert bytes(rest) == body


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_each_field_is_demanded_and_of_its_type(kind: type[Any], data: st.DataObject) -> None:
    document = json.loads(codec.to_json(data.draw(any_of(kind))))
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        without = {key: value for key, value in document.items() if key != field.name}
        if field.default is dataclasses.MISSING:
            _refused(kind, without)
        else:
            codec.from_json(kind, json.dumps(without).encode())
        for wrong in _values_that_are_not(hints[field.name]):
            _refused(kind, {**document, field.name: wrong})


def _values_that_are_not(hint: Any) -> list[Any]:
    values: list[Any] = [
        [],
        {},
        "text",
        True,
        3,
        2.5,
        None,
        [[]],
        {"a": 1},
        ["x"],
        2**63,
        float("nan"),
        float("inf"),
        "\ud800",
    ]
    if hint is int:
        return [v for v in values if type(v) is not int or v == 2**63]
    if hint is float:
        return [v for v in values if type(v) not in (int, float) or not -1e9 < v < 1e9]
    if hint in (float | None, int | None):
        return [v for v in _values_that_are_not(typing.get_args(hint)[0]) if v is not None]
    if hint is str:
        return [v for v in values if not isinstance(v, str) or v == "\ud800"]
    if hint is bool:
        return [v for v in values if not isinstance(v, bool)]
    # A list of anything, a message, or a pair that may be absent.
    absent = [None] if type(None) in typing.get_args(hint) else []
    texts = [["x"]] if typing.get_args(hint)[:1] == (str,) else []
    return [v for v in values if v not in ([], *absent, *texts)]


def _refused(kind: type[Any], document: Any) -> None:
    with pytest.raises(ProtocolError) as caught:
        codec.from_json(kind, json.dumps(document).encode())
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("schema", [0, 2, -1, "1", None, [1], {}])
def test_another_schema_is_refused(schema: object) -> None:
    _refused(Ready, {"schema": schema, "epoch": 1})
    header = msgpack.packb({"schema": schema, "kind": "Chunk", "sha256": "a", "offset": 0})
    with pytest.raises(ProtocolError):
        codec.unpack(INBOX, struct.pack("<I", len(header)) + header)


def test_a_missing_schema_is_refused() -> None:
    _refused(Ready, {"epoch": 1})


@pytest.mark.parametrize("document", [[], "x", 3, None, True, [{"schema": 1, "epoch": 1}]])
def test_what_is_no_map_is_refused(document: object) -> None:
    _refused(Ready, document)


def test_fields_of_a_newer_sender_are_left_out() -> None:
    assert codec.from_json(Ready, b'{"schema":1,"epoch":3,"mood":{"deep":[1,2]}}') == Ready(3)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'{"schema":1,"epoch":1e999}',
        b'{"schema":1,"epoch":NaN}',
        b'{"schema":1,"epoch":' + b"9" * 100 + b"}",
        b'{"schema":1,"epoch":' + b"9" * 9000 + b"}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
    ids=lambda payload: repr(payload[:30]),
)
def test_hostile_json_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        codec.from_json(Ready, payload)


@pytest.mark.parametrize(
    "number", ["1" + "0" * 400, "-" + "9" * 4000, "NaN", "Infinity", "-Infinity", "1e999", str(2**64)]
)
def test_numbers_that_are_no_finite_float_are_refused(number: str) -> None:
    with pytest.raises(ProtocolError):
        codec.from_json(PartTime, f'{{"schema":1,"seconds":{number},"deviation":0.0,"runs":1}}'.encode())


def test_nan_is_never_written() -> None:
    with pytest.raises(ValueError, match="JSON"):
        codec.to_json(PartTime(float("nan"), 0.0, 1))


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(ProtocolError):
        codec.from_json(Failed, b'{"schema":1,"epoch":1,"request":"r","reason":"\\ud800"}')


def test_limits_of_size() -> None:
    fitting = b'{"schema":1,"epoch":3' + b" " * (codec.MAX_JSON - 22) + b"}"
    assert len(fitting) == codec.MAX_JSON
    assert codec.from_json(Ready, fitting) == Ready(3)
    with pytest.raises(ProtocolError):
        codec.from_json(Ready, fitting + b" ")
    parts = ",".join(["{}"] * (codec.MAX_ITEMS + 1))
    with pytest.raises(ProtocolError):
        codec.from_json(Command, f'{{"schema":1,"operation":"profile","parts":[{parts}]}}'.encode())


@pytest.mark.parametrize(
    "sha256",
    [
        "",
        "0f" * 31,
        "0f" * 32 + "0",
        "0F" * 32,
        "../" * 21 + "a",
        "/etc/passwd",
        "0f" * 31 + "/a",
        "0f" * 32 + "\n",
        "\0" * 64,
    ],
)
def test_a_model_is_named_by_a_hash_and_nothing_else(sha256: str) -> None:
    """It becomes a file's name on the device."""
    document = json.loads(codec.to_json(COMMAND))
    document["model"]["sha256"] = sha256
    _refused(Command, document)


@pytest.mark.parametrize("size", [0, -1, 2**40])
def test_a_model_has_a_size_within_the_limit(size: int) -> None:
    document = json.loads(codec.to_json(COMMAND))
    document["model"]["size"] = size
    _refused(Command, document)


@pytest.mark.parametrize("peer", ["", "a/b", "+", "#", "a\0", "../x", "A", "x" * 33, "-a", "bee\n"])
def test_a_peer_cannot_smuggle_a_level_into_a_topic(peer: str) -> None:
    document = json.loads(codec.to_json(ASSIGNMENT))
    document["sends"][0]["peer"] = peer
    _refused(Assignment, document)


# --- fuzzing ---

JSON_SEEDS: list[tuple[type[Any], bytes]] = [
    (type(m), codec.to_json(m)) for m in (ASSIGNMENT, COMMAND, AgentState("online", "s"), PROFILE)
]
BINARY_SEEDS = [
    codec.pack(Parcel(1, 3, 2, 7, True, (FRAGMENT, FRAGMENT)), bytes(64)),
    codec.pack(Receipt(1, 7, 2, (4, 5))),
    codec.pack(ChunkRequest("0f" * 32, 0, 9)),
    codec.pack(Chunk("a", 0), b"x"),
]


def mutated(payload: bytes, draw: random.Random) -> bytes:
    """The payload with a few bytes changed, cut, repeated or put elsewhere."""
    data = bytearray(payload)
    for _ in range(draw.randrange(1, 5)):
        at = draw.randrange(len(data) + 1)
        match draw.randrange(5):
            case 0 if at < len(data):
                data[at] = draw.randrange(256)
            case 1:
                del data[at : at + draw.randrange(1, 9)]
            case 2:
                data[at:at] = draw.randbytes(draw.randrange(1, 9))
            case 3:
                data[at:at] = data[at : at + draw.randrange(1, 40)]
            case _:
                data[at:at] = draw.choice(
                    [b"null", b"[", b"{", b'"', b"1e400", b"-1", b"\xc1", b"\xdf\xff\xff\xff\xff"]
                )
    return bytes(data)


def test_mutated_json_raises_protocol_errors_only() -> None:
    draw, refused = random.Random(1), 0
    for _ in range(6000):
        kind, payload = draw.choice(JSON_SEEDS)
        try:
            assert isinstance(codec.from_json(kind, mutated(payload, draw)), kind)
        except ProtocolError:
            refused += 1
    assert 3000 < refused < 6000, "too few or all were refused: the fuzz shows nothing"


def test_mutated_binary_messages_raise_protocol_errors_only() -> None:
    draw, refused = random.Random(2), 0
    for _ in range(8000):
        try:
            message, _ = codec.unpack(INBOX, mutated(draw.choice(BINARY_SEEDS), draw))
            assert type(message) in INBOX.values()
        except ProtocolError:
            refused += 1
    assert 3000 < refused < 8000


def test_random_bytes_raise_protocol_errors_only() -> None:
    draw = random.Random(3)
    for _ in range(4000):
        noise = draw.randbytes(draw.randrange(0, 90))
        header = struct.pack("<I", len(noise)) + noise
        for attempt in (noise, header):
            with pytest.raises(ProtocolError):
                codec.unpack(INBOX, attempt)
        with pytest.raises(ProtocolError):
            codec.from_json(Ready, noise)


BOMBS = {
    "nested arrays": b"\x91" * 4000,
    "array of 2**32": b"\xdd\xff\xff\xff\xff",
    "map of 2**32": b"\xdf\xff\xff\xff\xff",
    "string of 2**32": b"\xdb\xff\xff\xff\xff",
    "bytes of 2**32": b"\xc6\xff\xff\xff\xff",
    "arrays that promise 3,800 entries each": b"\xdd\x00\x00\x0e\xd8" * 500,
    "extension": b"\xc9\xff\xff\xff\xff\x01",
    "timestamp": b"\xd6\xff\x00\x00\x00\x00",
    "nested wide arrays": (b"\xdc\x00\x40" + b"\xc0" * 63) * 60,
    "keys that cannot be hashed": b"\x81\x91\x01\x01",
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
def test_a_hostile_header_costs_little(bomb: bytes) -> None:
    _within(1 << 20, lambda: codec.unpack(INBOX, struct.pack("<I", len(bomb)) + bomb))


@pytest.mark.parametrize("claimed", [0, codec.MAX_HEADER + 1, 2**31, 2**32 - 1])
def test_a_header_length_that_cannot_be_is_refused(claimed: int) -> None:
    _within(1 << 20, lambda: codec.unpack(INBOX, struct.pack("<I", claimed) + bytes(codec.MAX_HEADER + 1)))


@pytest.mark.parametrize("filler", [b"[],", b"{},", b"0,", b'"",'])
def test_json_costs_a_bounded_multiple_of_its_size(filler: bytes) -> None:
    payload = (
        b'{"schema":1,"samples":[' + filler * ((codec.MAX_JSON - 60) // len(filler)) + b'0],"board":"a","link":null}'
    )
    assert len(payload) <= codec.MAX_JSON
    _within(32 * codec.MAX_JSON, lambda: codec.from_json(Profile, payload))


def _within(most: int, act: Any) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            act()
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("fields", "fits"), [(15, True), (30, False)])
def test_a_sound_header_is_read_up_to_its_limit(fields: int, fits: bool) -> None:
    extra = {f"newer-{n}": "y" * 200 for n in range(fields)}
    header = msgpack.packb({"schema": codec.SCHEMA, "kind": "Chunk", "sha256": "a", "offset": 0, **extra})
    assert (len(header) <= codec.MAX_HEADER) == fits
    payload = struct.pack("<I", len(header)) + header
    if fits:
        assert codec.unpack(INBOX, payload)[0] == Chunk("a", 0)
    else:
        with pytest.raises(ProtocolError):
            codec.unpack(INBOX, payload)
