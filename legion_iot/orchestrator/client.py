"""What a client of a group does: publishes an input, and has the answer come to a topic of its own.

Theory. A request may get lost with a link or an orchestrator, or end as `restarted`. Asking again costs a computation
and changes nothing else, so that is done each time the link or the orchestrator is back; the first answer counts, and
correlation data say which request it is to. Time is over when the message has expired, for everybody alike.
"""

from __future__ import annotations

import contextlib
import math
import secrets
import statistics
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NoReturn

from legion_iot.errors import ProtocolError, RequestError
from legion_iot.orchestrator.asking import ABSENT, Asking, Connect, Progress
from legion_iot.orchestrator.latencies import at_95_percent
from legion_iot.transport.connection import BrokerAddress, Connected, Message, TransportEvent
from legion_iot.transport.paho import PahoConnection
from legion_iot.wire import codec
from legion_iot.wire.messages import ModelInfo, Result

MOST_REQUESTS = 100_000
MOST_WINDOW = 32  # requests under way; an orchestrator lets no more wait
LONGEST = 86_400.0  # seconds that a request may take
GRACE = 2.0  # seconds for the orchestrator to say that time is over
IMAGE_PATIENCE = 10.0  # seconds for a picture to come after its result; a broker with older rules lets none through
_HOPELESS = ("no-model", "bad-input")  # would be answered alike again


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """A request's end: the result, the PNG that belongs to it, and the seconds from published to answered."""

    result: Result
    seconds: float
    image: bytes | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What became of requests: the last answer, or the last error where there is none, and how long answers took.

    `failed` counts error codes; `agents` have computed the last one, as far as is known; `elapsed` are the seconds from
    the first request to the last end.
    """

    last: Answered
    seconds: tuple[float, ...]
    failed: Mapping[str, int]
    agents: tuple[str, ...]
    elapsed: float

    @property
    def latency_ms(self) -> dict[str, float]:
        """From published to answered: `median`, `p95`, `min` and `max`; empty without an answer."""
        times = sorted(1e3 * each for each in self.seconds)
        if not times:
            return {}
        return {"median": statistics.median(times), "p95": at_95_percent(times), "min": times[0], "max": times[-1]}

    @property
    def per_second(self) -> float:
        """Answers per second."""
        return len(self.seconds) / self.elapsed


@dataclass(slots=True, eq=False)
class _Request:
    """One that is under way."""

    since: float
    result: Result | None = None
    answered: float = 0.0
    image: bytes | None = None

    @property
    def is_over(self) -> bool:
        return self.result is not None and not (self.result.image and self.image is None)

    def due(self, timeout: float) -> float:
        """When it is waited for no longer."""
        return self.since + timeout + GRACE if self.result is None else self.answered + IMAGE_PATIENCE


@dataclass(slots=True, eq=False)
class _Work:
    """All that is asked for, and how far it has got."""

    model: str
    payload: bytes
    count: int
    window: int
    timeout: float
    sent: int = 0
    under_way: dict[bytes, _Request] = field(default_factory=dict)  # by correlation data
    seconds: list[float] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    last: Answered | None = None

    @property
    def ended(self) -> int:
        return len(self.seconds) + self.failed.total()


class Client(Asking):
    """Asks a group for inference; use it in `with`. Raises BrokerError where the broker cannot be used.

    `member` is the name of the group's member that we are, whose answers only we may read; empty where the broker has
    no members.
    """

    def __init__(
        self, address: BrokerAddress, base_topic: str, member: str = "", connect: Connect = PahoConnection
    ) -> None:
        own = secrets.token_hex(4)
        name = member or f"client-{own}"
        super().__init__(
            address, base_topic, f"legion-client-{own}",
            lambda topics: [topics.answer(name, own), topics.answer_image(name, own), topics.model("+")], connect,
        )  # fmt: skip
        self._place, self._image_place = self.topics.answer(name, own), self.topics.answer_image(name, own)
        self._models: dict[str, ModelInfo] = {}

    def infer(
        self, model: str, payload: bytes, progress: Progress, count: int = 1, window: int = 1, timeout: float = 120.0
    ) -> Answers:
        """Ask `count` times for the same, with `window` requests under way, each of which may take `timeout` seconds.

        A request that fails is counted; where all others would fail alike, no more are sent. Raises RequestError where
        no orchestrator is there, or none answers in time, and BrokerError where the link stays cut.
        """
        self._wait_for_orchestrator()
        work = _Work(model, payload, count, window, timeout)
        since = time.monotonic()
        while work.ended < work.count:
            while work.sent < work.count and len(work.under_way) < work.window:
                correlation = str(work.sent).encode()
                work.under_way[correlation] = _Request(time.monotonic())
                self._send(work, correlation)
                work.sent += 1
            self._take(work, progress)
        assert work.last is not None
        info = self._models.get(model)
        agents = info.agents if info is not None and info.epoch == work.last.result.epoch else ()
        return Answers(work.last, tuple(work.seconds), dict(work.failed), agents, time.monotonic() - since)

    def _wait_for_orchestrator(self) -> None:
        until = time.monotonic() + ABSENT
        while self._absent:
            if self._next(until) is None and time.monotonic() >= until:
                self._give_up()

    def _send(self, work: _Work, correlation: bytes) -> None:
        left = work.under_way[correlation].since + work.timeout - time.monotonic()
        if left > 0:
            self._connection.publish(
                self.topics.infer(work.model), work.payload, response_topic=self._place,
                correlation=correlation, expiry=math.ceil(left),
            )  # fmt: skip

    def _take(self, work: _Work, progress: Progress) -> None:
        """Wait for one event, and do what it asks for."""
        correlation, request = min(work.under_way.items(), key=lambda item: item[1].due(work.timeout))
        was_absent = self._absent
        event = self._next(request.due(work.timeout))
        if event is None and time.monotonic() >= request.due(work.timeout):
            if request.result is None:
                self._out_of_time(work.timeout)
            self._end(work, correlation)
        if isinstance(event, Connected) or (was_absent and not self._absent):
            for unanswered in work.under_way:
                self._send(work, unanswered)
        if isinstance(event, Message):
            self._read(work, event)
        text = f"{work.ended} of {work.count} answered"
        if self._state.state != "serving":
            text += f"; the group is {self._state.state}: {self._state.detail:.80}"
        progress(text, work.ended / work.count)

    def _read(self, work: _Work, message: Message) -> None:
        request = work.under_way.get(message.correlation)
        if request is None or message.topic not in (self._place, self._image_place):
            return
        if message.topic == self._image_place:
            request.image = message.payload
        elif request.result is None:
            result = codec.from_json(Result, message.payload)
            if result.error == "restarted":
                self._send(work, message.correlation)
                return
            request.result, request.answered = result, time.monotonic()
        if request.is_over:
            self._end(work, message.correlation)

    def _end(self, work: _Work, correlation: bytes) -> None:
        """A request has its result, and its picture unless that is lost."""
        request = work.under_way.pop(correlation)
        result = request.result
        assert result is not None
        answered = Answered(result, request.answered - request.since, request.image)
        if result.ok:
            work.seconds.append(answered.seconds)
        else:
            work.failed[result.error] += 1
            if result.error in _HOPELESS:
                work.count = work.sent
        if result.ok or not work.seconds:
            work.last = answered

    def _next(self, deadline: float) -> TransportEvent | None:
        event = super()._next(deadline)
        if isinstance(event, Message) and event.topic.startswith(self.topics.model("")):
            name = event.topic.rpartition("/")[2]
            self._models.pop(name, None)
            if event.payload:
                with contextlib.suppress(ProtocolError):  # of another version, which need not keep us from asking
                    self._models[name] = codec.from_json(ModelInfo, event.payload)
        return event

    def _out_of_time(self, timeout: float) -> NoReturn:
        if self._absent or not self._linked:
            self._give_up()
        doing = f"{self._state.state}: {self._state.detail}" if self._state.detail else self._state.state
        raise RequestError(f"no answer within {timeout:g} s; the orchestrator is {doing}; give it more (--timeout)")
