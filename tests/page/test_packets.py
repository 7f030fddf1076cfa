"""The browser's MQTT packets against those of the embedded broker, written independently, and against bad bytes."""

from __future__ import annotations

import json
import random
import subprocess
from typing import Any

from legion_iot_broker import packets
from legion_iot_broker.packets import V5, decode
from legion_iot_broker.wire_format import Cursor, string, u16, varint

from .conftest import HERE, PATIENCE, STATIC, node


def run_node(told: dict[str, Any]) -> Any:
    """What the script makes of packets and bytes."""
    done = subprocess.run(
        [*node(), str(HERE / "packets_script.mjs")], input=json.dumps({**told, "static": STATIC.as_uri()}),
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_what_a_page_writes_is_what_the_broker_reads() -> None:
    draw = random.Random(3)
    wanted: list[tuple[str, dict[str, Any]]] = [("pingreq", {}), ("disconnect", {})]
    for _ in range(40):
        user = draw.choice([None, "phone", "kü-2"])
        wanted.append((
            "connect",
            {"clientId": _text(draw), "user": user, "password": _text(draw), "keepAlive": draw.randrange(65536),
             "sessionSeconds": draw.randrange(2**32)},
        ))  # fmt: skip
        filters = [f"a/{_text(draw)}/+" for _ in range(draw.randint(1, 5))]
        wanted.append(("subscribe", {"number": draw.randint(1, 65535), "filters": filters, "qos": draw.randint(0, 1)}))
        payload = draw.randbytes(draw.choice([0, 1, 100, 127, 128, 16_383, 20_000]))
        wanted.append((
            "publish",
            {"topic": f"a/{_text(draw)}", "payload": payload.hex(), "number": draw.choice([0, 1, 65535]),
             "responseTopic": draw.choice(["", "answers/x"]), "correlation": draw.choice([None, "0102ff"]),
             "expiry": draw.choice([0, 120])},
        ))  # fmt: skip
        wanted.append(("puback", {"number": draw.randint(1, 65535)}))
    for (kind, parameters), written in zip(wanted, run_node({"write": wanted, "read": []})["written"], strict=True):
        _compare(kind, parameters, bytes.fromhex(written))


def _compare(kind: str, wanted: dict[str, Any], written: bytes) -> None:
    cursor = Cursor(memoryview(written))
    first = cursor.u8()
    size = cursor.varint()
    body = memoryview(written)[len(written) - size :]
    assert len(written) == 1 + len(varint(size)) + size
    match decode(first, body, V5):
        case packets.Connect() as found:
            assert kind == "connect"
            assert (found.version, found.clean, found.will) == (V5, False, None)
            assert (found.client_id, found.user, found.keep_alive) == (
                wanted["clientId"], wanted["user"], wanted["keepAlive"],
            )  # fmt: skip
            assert found.password == (b"" if wanted["user"] is None else wanted["password"].encode())
            assert found.largest_packet == 32 << 20
        case packets.Subscribe() as found:
            assert (kind, found.number) == ("subscribe", wanted["number"])
            assert [(each.pattern, each.qos) for each in found.subscriptions] == [
                (pattern, wanted["qos"]) for pattern in wanted["filters"]
            ]
        case packets.Publish() as found:
            assert kind == "publish"
            assert (found.topic, found.payload.hex(), found.number, found.qos, found.retain) == (
                wanted["topic"], wanted["payload"], wanted["number"], int(wanted["number"] > 0), False,
            )  # fmt: skip
            assert (b"\x08" + string("answers/x") in found.properties) == bool(wanted["responseTopic"])
            assert (b"\x09\x00\x03\x01\x02\xff" in found.properties) == bool(wanted["correlation"])
            assert (b"\x02\x00\x00\x00\x78" in found.properties) == bool(wanted["expiry"])
        case packets.PubAck(number):
            assert (kind, number) == ("puback", wanted["number"])
        case other:
            assert {packets.PingReq: "pingreq", packets.Disconnect: "disconnect"}[type(other)] == kind


def test_what_a_broker_writes_is_read_in_pieces_of_any_size() -> None:
    draw = random.Random(4)
    streams, expected = [], []
    for _ in range(60):
        written, told = b"", []
        for _ in range(draw.randint(1, 6)):
            content, packet = _of_a_broker(draw)
            written += content
            told.append(packet)
        streams.append(_pieces(draw, written))
        expected.append(told)
    assert run_node({"write": [], "read": streams})["read"] == expected


def test_what_is_no_mqtt_is_an_error() -> None:
    bad = [
        b"\x30\xff\xff\xff\xff\x01",  # a length of five bytes
        b"\x30\xff\xff\xff\x7f",  # more than a page takes
        b"\x10\x00",  # CONNECT is not for a client
        b"\x30\x03\x00\x05a",  # a topic that ends outside
        b"\x30\x04\x00\x02\xff\xff",  # no UTF-8
        b"\x30\x05\x00\x01a\x09\x09",  # properties that end outside
        b"\x30\x06\x00\x01a\x02\x7f\x00",  # a property that there is not
        b"\x30\x07\x00\x01a\x01\x02\x00\x00",  # a property that overlaps the payload
        b"\x20\x01\x00",  # a CONNACK without a reason
    ]
    read = run_node({"write": [], "read": [[each.hex()] for each in bad]})["read"]
    assert read == [[{"kind": "error"}]] * len(bad)


def _text(draw: random.Random) -> str:
    return "".join(draw.choice("abcz-09äß€😀") for _ in range(draw.randint(1, 12)))


def _pieces(draw: random.Random, written: bytes) -> list[str]:
    pieces = []
    while written:
        size = draw.choice([1, 1, 2, 3, 5, 50, 5000])
        pieces.append(written[:size].hex())
        written = written[size:]
    return pieces


def _of_a_broker(draw: random.Random) -> tuple[bytes, dict[str, Any]]:
    number = draw.randint(1, 65535)
    match draw.randrange(6):
        case 0:
            reason = draw.choice([0, 0x87])
            written = packets.connack(V5, reason, largest_packet=1 << 20, assigned_id=draw.choice(["", "auto-1"]))
            # One that refuses says nothing of sizes.
            most = None if reason else 1 << 20
            return written, {"kind": "connack", "kept": False, "reason": reason, "mostBytes": most}
        case 1:
            return packets.suback(V5, number, [0, 1, 0x87]), {
                "kind": "suback",
                "number": number,
                "reasons": [0, 1, 0x87],
            }
        case 2:
            return packets.puback(V5, number, 0x87), {"kind": "puback", "number": number, "reason": 0x87}
        case 3:
            return packets.pingresp(), {"kind": "pingresp"}
        case 4:
            return packets.disconnect(0x8B), {"kind": "disconnect", "reason": 0x8B}
        case _:
            qos, retain, topic = draw.randint(0, 1), draw.random() < 0.5, f"legion/{_text(draw)}"
            payload = draw.randbytes(draw.choice([0, 3, 200, 20_000]))
            correlation = draw.choice([b"", b"17"])
            pair = b"\x26" + string("who") + string(_text(draw))  # a user property, which a page has no use for
            properties = pair + (b"\x09" + u16(len(correlation)) + correlation if correlation else b"")
            message = packets.Publish(topic, memoryview(payload), properties=properties)
            written = packets.publish_header(V5, message, qos, retain, number) + payload
            return written, {
                "kind": "publish", "topic": topic, "number": number if qos else 0, "payload": payload.hex(),
                "retain": retain, "correlation": correlation.hex() or None,
            }  # fmt: skip
