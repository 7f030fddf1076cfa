"""One contract, three brokers: in memory, embedded, and Mosquitto."""

from __future__ import annotations

import queue
import statistics
import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest

from legion_iot.errors import BrokerError
from legion_iot.transport import Connected, Message, QueueLimits, Will

from .conftest import PATIENCE, Client

Connect = Callable[..., Client]


def test_open_emits_connected_before_it_returns(connect: Connect) -> None:
    client = connect("a", opened=False)
    client.connection.open(PATIENCE)
    assert client.pending() == [Connected()]


def test_open_is_refused_when_the_broker_is_away(broker, connect: Connect) -> None:
    broker.stop()
    client = connect("a", opened=False)
    with pytest.raises(BrokerError):
        client.connection.open(PATIENCE)
    assert client.pending() == []
    broker.start()
    client.connection.open(PATIENCE)
    client.connected()


@pytest.mark.parametrize("when", ["before", "after"])
def test_nothing_is_published_without_open(connect: Connect, when: str) -> None:
    client = connect("a", opened=when == "after")
    client.connection.close()
    with pytest.raises(BrokerError, match="cannot publish on t"):
        client.connection.publish("t", b"x")


def test_close_and_abort_may_come_twice(connect: Connect) -> None:
    client = connect("a")
    client.connection.close()
    client.connection.close()
    client.connection.abort()
    assert client.pending() == []


@pytest.mark.parametrize("qos", [0, 1])
def test_messages_arrive_in_order(connect: Connect, qos: int) -> None:
    sender, receiver = connect("sender"), connect("receiver")
    receiver.connection.subscribe([("t/#", qos)])
    for number in range(300):
        sender.connection.publish(f"t/{number % 3}", str(number).encode(), qos=qos)
    got = [int(receiver.message().payload) for _ in range(300)]
    assert all(a < b for remainder in range(3) for a, b in pairwise(n for n in got if n % 3 == remainder))
    assert sorted(got) == list(range(300))


def test_retained_is_handed_to_later_subscribers_until_it_is_cleared(connect: Connect) -> None:
    sender, early = connect("sender"), connect("early")
    early.connection.subscribe([("state/+", 1)])
    sender.connection.publish("state/a", b"online", retain=True)
    assert early.message() == Message("state/a", b"online", retain=False)
    assert sender.connection.flush(PATIENCE)

    late = connect("late")
    late.connection.subscribe([("state/#", 1)])
    assert late.message() == Message("state/a", b"online", retain=True)

    sender.connection.publish("state/a", b"", retain=True)
    assert early.message() == Message("state/a", b"", retain=False)
    assert late.message() == Message("state/a", b"", retain=False)
    last = connect("last")
    last.connection.subscribe([("state/a", 1), ("end", 1)])
    sender.connection.publish("end", b"")
    assert last.message().topic == "end"


def test_wildcards(connect: Connect) -> None:
    sender, receiver = connect("sender"), connect("receiver")
    receiver.connection.subscribe([("a/+/c", 1), ("deep/#", 1), ("end", 1)])
    for topic in ("a/b/c", "a/c", "a/b/b/c", "a//c", "deep", "deep/x/y", "deeper", "end"):
        sender.connection.publish(topic, b"")
    topics = []
    while not topics or topics[-1] != "end":
        topics.append(receiver.message().topic)
    assert topics == ["a/b/c", "a//c", "deep", "deep/x/y", "end"]


def test_overlapping_filters_deliver_at_least_once(connect: Connect) -> None:
    client = connect("a")
    client.connection.subscribe([("t/#", 0), ("t/+", 1), ("t/x", 1)])
    client.connection.publish("t/x", b"1")
    client.connection.publish("t/x", b"2")
    got = [client.message().payload]
    while got[-1] != b"2":
        got.append(client.message().payload)
    assert got == [b"1"] * (len(got) - 1) + [b"2"]


@pytest.mark.parametrize("pattern", ["", "a/#/b", "a+", "x\0y"])
def test_impossible_filters_and_topics_are_refused(connect: Connect, pattern: str) -> None:
    client = connect("a")
    with pytest.raises(BrokerError, match="correct"):
        client.connection.subscribe([(pattern, 1)])
    with pytest.raises(BrokerError, match="correct"):
        client.connection.publish(pattern, b"")


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
def test_payloads_of_every_kind_are_copied_when_they_can_change(connect: Connect, make: Callable[..., bytes]) -> None:
    client = connect("a")
    client.connection.subscribe([("t", 1)])
    backing = bytearray(b"payload")
    payload = make(backing) if make is not bytearray else backing
    client.connection.publish("t", payload)
    backing[:] = b"changed"
    assert client.message().payload == b"payload"


@pytest.mark.parametrize("qos", [0, 1])
def test_thirteen_megabytes_whole_and_in_pieces(connect: Connect, qos: int) -> None:
    sender, receiver = connect("sender"), connect("receiver")
    receiver.connection.subscribe([("big", qos)])
    payload = bytes(range(256)) * (13 * 4096)
    sender.connection.publish("big", payload, qos=qos)
    assert receiver.message().payload == payload
    piece = 256 << 10
    for start in range(0, len(payload), piece):
        sender.connection.publish("big", memoryview(payload)[start : start + piece], qos=qos)
    assert b"".join(receiver.message().payload for _ in range(0, len(payload), piece)) == payload


@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("size", [0, 10, 300_000, 9_000_000])
def test_buffers_that_are_given_away_arrive_as_one(connect: Connect, qos: int, size: int) -> None:
    sender, receiver = connect("sender"), connect("receiver")
    receiver.connection.subscribe([("t", qos)])
    body = bytes(range(250)) * (size // 250)
    for _ in range(3):
        sender.connection.publish("t", (b"head", memoryview(body), b"", b"tail"), qos=qos)
    for _ in range(3):
        assert receiver.message().payload == b"head" + body + b"tail"


def test_buffers_are_sent_again_after_the_broker_restarted(broker, connect: Connect) -> None:
    receiver, sender = connect("receiver"), connect("sender")
    receiver.connection.subscribe([("t", 1)])
    broker.stop()
    receiver.disconnected()
    sender.disconnected()
    body = bytes(range(250)) * 2000
    for number in range(20):
        sender.connection.publish("t", (bytes([number]), memoryview(body)))
    broker.start()
    receiver.connected()
    sender.connected()
    assert sender.connection.flush(PATIENCE)
    sender.connection.publish("t", b"end")
    got = []
    while not got or got[-1] != b"end":
        got.append(receiver.message().payload)
    # The sender may have been back before the receiver subscribed.
    assert got[:-1] == [bytes([number]) + body for number in range(21 - len(got), 20)]


@pytest.mark.parametrize("retain", [True, False])
def test_abort_publishes_the_will(connect: Connect, retain: bool) -> None:
    watcher = connect("watcher")
    watcher.connection.subscribe([("state", 1)])
    mortal = connect("mortal", will=Will("state", b"offline", retain=retain))
    mortal.connection.abort()
    assert watcher.message() == Message("state", b"offline")
    late = connect("late")
    late.connection.subscribe([("state", 1), ("end", 1)])
    watcher.connection.publish("end", b"")
    assert late.message() == (Message("state", b"offline", retain=True) if retain else Message("end", b""))
    assert mortal.pending() == []


def test_close_publishes_no_will_and_loses_nothing(connect: Connect) -> None:
    watcher = connect("watcher")
    watcher.connection.subscribe([("#", 1)])
    client = connect("client", will=Will("state", b"offline"))
    for number in range(50):
        client.connection.publish("t", str(number).encode())
    client.connection.close()
    watcher.connection.publish("end", b"")
    seen = [watcher.message() for _ in range(51)]
    assert [message.payload for message in seen[:50]] == [str(number).encode() for number in range(50)]
    assert seen[50].topic == "end"


def test_a_second_client_with_the_same_id_takes_over(broker, connect: Connect) -> None:
    watcher = connect("watcher")
    watcher.connection.subscribe([("state", 1), ("t", 1)])
    first = connect("twin", will=Will("state", b"first is gone"))
    second = connect("twin")
    reason = first.disconnected().reason
    assert watcher.message().payload == b"first is gone"
    if broker.kind == "mosquitto" and "same id" not in reason:
        first.connection.abort()  # 2.0.11 does not say why it closes a link, so the first would come back
    else:
        assert "same id" in reason
    with pytest.raises(BrokerError, match=r"same id|aborted"):
        first.connection.publish("t", b"1")
    second.connection.publish("t", b"2")
    assert watcher.message().payload == b"2"
    assert second.pending() == []


def test_what_is_attached_arrives_with_the_message(connect: Connect) -> None:
    asker, receiver = connect("asker"), connect("receiver")
    receiver.connection.subscribe([("t", 1)])
    asker.connection.publish("t", b"q", response_topic="answers/asker", correlation=b"\0\xff7", expiry=60)
    message = receiver.message()
    assert (message.response_topic, message.correlation) == ("answers/asker", b"\0\xff7")
    assert 55 <= message.expiry <= 60
    asker.connection.publish("t", b"q" * 50_000, qos=0, response_topic="answers/asker")
    assert receiver.message() == Message("t", b"q" * 50_000, response_topic="answers/asker")
    asker.connection.publish("t", b"plain")
    assert receiver.message() == Message("t", b"plain")


def test_what_is_attached_to_a_retained_message_is_kept_with_it(connect: Connect) -> None:
    sender = connect("sender")
    sender.connection.publish("t", b"kept", retain=True, correlation=b"7")
    assert sender.connection.flush(PATIENCE)
    late = connect("late")
    late.connection.subscribe([("t", 1)])
    assert late.message() == Message("t", b"kept", retain=True, correlation=b"7")


def test_a_message_that_waited_for_too_long_is_not_sent(broker, connect: Connect) -> None:
    receiver, sender = connect("receiver"), connect("sender")
    receiver.connection.subscribe([("t", 1)])
    broker.stop()
    receiver.disconnected()
    sender.disconnected()
    sender.connection.publish("t", b"stale", expiry=1)
    sender.connection.publish("t", b"fresh", expiry=60)
    time.sleep(1.1)
    broker.start()
    receiver.connected()
    sender.connected()
    assert sender.connection.flush(PATIENCE)
    sender.connection.publish("t", b"end")
    got = []
    while not got or got[-1] != b"end":
        got.append(receiver.message().payload)
    assert b"stale" not in got


def test_who_published_is_told_once_the_broker_has_it(broker, connect: Connect) -> None:
    sender = connect("sender")
    told: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(200):
        payload = b"x" * (100_000 if number == 100 else 1)
        sender.connection.publish("t", payload, on_acknowledged=partial(told.put, number))
    assert sorted(told.get(timeout=PATIENCE) for _ in range(200)) == list(range(200))
    broker.stop()
    sender.disconnected()
    sender.connection.publish("t", b"stale", expiry=1, on_acknowledged=partial(told.put, -1))
    sender.connection.publish("t", b"y", on_acknowledged=partial(told.put, -2))
    time.sleep(1.1)
    assert told.empty()
    broker.start()
    assert told.get(timeout=PATIENCE) == -2
    assert sender.connection.flush(PATIENCE)
    assert told.empty()


def test_subscriptions_come_back_after_the_broker_restarted(broker, connect: Connect) -> None:
    receiver, sender = connect("receiver"), connect("sender")
    receiver.connection.subscribe([("t", 1)])
    broker.stop()
    receiver.disconnected()
    sender.disconnected()
    receiver.connection.subscribe([("later", 1)])
    for number in range(150):  # more than one window
        sender.connection.publish("t", str(number).encode())
    sender.connection.publish("t", b"lost", qos=0)
    assert not sender.connection.flush(0.0)
    broker.start()
    receiver.connected()
    sender.connected()
    assert sender.connection.flush(PATIENCE)
    # The sender may have been back before the receiver subscribed; what it sends from now on must arrive.
    sender.connection.publish("t", b"again")
    sender.connection.publish("later", b"end")
    got = []
    while not got or got[-1] != b"end":
        got.append(receiver.message().payload)
    assert got[-2:] == [b"again", b"end"]
    assert b"lost" not in got
    assert got[:-2] == [str(number).encode() for number in range(150 - len(got[:-2]), 150)]


def test_the_queue_is_bounded_while_the_broker_is_away(broker, connect: Connect) -> None:
    client = connect("a", limits=QueueLimits(messages=10, bytes=10_000))
    broker.stop()
    client.disconnected()
    for _ in range(10):
        client.connection.publish("t", b"x")
    with pytest.raises(BrokerError, match="10 messages wait"):
        client.connection.publish("t", b"x")
    assert not client.connection.flush(0.0)
    broker.start()
    assert client.connection.flush(PATIENCE)
    client.connection.publish("t", b"x" * 9_000_000)
    assert client.connection.flush(PATIENCE)


def test_bytes_are_bounded_too(broker, connect: Connect) -> None:
    client = connect("a", limits=QueueLimits(bytes=1000))
    broker.stop()
    client.disconnected()
    client.connection.publish("t", b"x" * 900)
    with pytest.raises(BrokerError, match="1 messages wait"):
        client.connection.publish("t", b"x" * 101)


def test_flush_waits_for_every_acknowledgement(connect: Connect) -> None:
    client, other = connect("a"), connect("b")
    assert client.connection.flush(0.0)
    other.connection.subscribe([("t", 1)])
    for _ in range(500):
        client.connection.publish("t", b"x" * 1000)
    assert client.connection.flush(PATIENCE)
    for _ in range(500):
        other.message()


def test_a_failing_handler_changes_nothing(broker) -> None:
    seen = threading.Event()

    def handler(event: object) -> None:
        if isinstance(event, Message) and event.payload == b"good":
            seen.set()
        raise RuntimeError("a defect in the handler")

    connection = broker.connect("a", handler)
    connection.open(PATIENCE)
    try:
        connection.subscribe([("t", 1)])
        connection.publish("t", b"bad")
        connection.publish("t", b"good")
        assert seen.wait(PATIENCE)
    finally:
        connection.close()


def test_the_handler_may_publish_and_subscribe(broker, connect: Connect) -> None:
    asker = connect("asker")
    asker.connection.subscribe([("answer", 1)])

    def handler(event: object) -> None:
        if isinstance(event, Message) and event.topic == "question":
            echo.subscribe([("more", 1)])
            echo.publish("answer", event.payload)
        elif isinstance(event, Message):
            echo.publish("answer", b"more")

    echo = broker.connect("echo", handler)
    echo.subscribe([("question", 1)])  # before open: in force when it returns
    echo.open(PATIENCE)
    try:
        asker.connection.publish("question", b"42")
        assert asker.message().payload == b"42"
        asker.connection.publish("more", b"")
        assert asker.message().payload == b"more"
    finally:
        echo.close()


def test_threads_may_publish_at_once(connect: Connect) -> None:
    sender, receiver = connect("sender"), connect("receiver")
    receiver.connection.subscribe([("t/+", 1)])

    def work(name: int) -> None:
        for number in range(100):
            sender.connection.publish(f"t/{name}", str(number).encode())

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    got: dict[str, list[int]] = {}
    for _ in range(400):
        message = receiver.message()
        got.setdefault(message.topic, []).append(int(message.payload))
    assert got == {f"t/{name}": list(range(100)) for name in range(4)}


def test_a_small_round_trip_does_not_wait_for_nagle(connect: Connect) -> None:
    asker, echo = connect("asker"), connect("echo")
    asker.connection.subscribe([("back", 1)])
    echo.connection.subscribe([("there", 1)])
    times = []
    for _ in range(20):
        start = time.perf_counter()
        asker.connection.publish("there", b"x" * 1024)
        echo.connection.publish("back", echo.message().payload)
        asker.message()
        times.append(time.perf_counter() - start)
    # With Nagle's wait anywhere on the way every trip takes 40 ms or more; a loaded machine slows only some.
    assert min(times) < 0.03, statistics.median(times)


def test_nothing_is_emitted_after_close(broker, connect: Connect) -> None:
    client = connect("a")
    broker.stop()
    client.disconnected()
    broker.start()
    client.connected()
    client.connection.close()
    broker.stop()
    assert client.pending() == []
