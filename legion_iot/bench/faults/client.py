"""A client that sends requests at a steady rate and knows every right answer.

Theory. MQTT promises a client at least once, as long as the broker lives: what a broker had when it was killed is gone.
So a client that lost its link asks again for whatever it has not heard of, once it hears the orchestrator's state:
before that, nobody may be there to ask. Each time it asks has a name of its own (the correlation data).

A request is *lost* when no asking for it was ever answered. What was asked with no link lost before the answer, nor the
orchestrator killed, is to be answered once: more than once is *twice*. And one and the same request of the
orchestrator's (`Result.request`) never ends in two ways, unless the orchestrator was killed between answer and note.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from legion_iot.bench.faults.network import NAME, Work
from legion_iot.errors import BrokerError, ProtocolError
from legion_iot.transport.connection import BrokerAddress, Disconnected, Message, TransportEvent
from legion_iot.transport.paho import PahoConnection
from legion_iot.wire import codec
from legion_iot.wire.messages import ModelInfo, OrchestratorState, Result
from legion_iot.wire.topics import Topics

OPEN_TIMEOUT = 15.0  # seconds


@dataclass(slots=True)
class Asking:
    """One publish of a request; `answers` are those heard, with when."""

    at: float
    answers: list[tuple[float, Result]] = field(default_factory=list)


@dataclass(slots=True)
class Asked:
    """One request of the client's, by the number of its input."""

    input: int
    askings: list[Asking] = field(default_factory=list)

    @property
    def at(self) -> float:
        return self.askings[0].at

    @property
    def answers(self) -> list[tuple[float, Result]]:
        return sorted((each for asking in self.askings for each in asking.answers), key=lambda each: each[0])

    @property
    def end(self) -> tuple[float, Result] | None:
        """The first result, or the last reason why there is none."""
        answers = self.answers
        return next((each for each in answers if each[1].ok), answers[-1] if answers else None)

    @property
    def latency(self) -> float:
        """Seconds to its end, infinity where there is none."""
        return self.end[0] - self.at if self.end else float("inf")


class Client:
    """Alive inside `with`; it sends while `rate` (requests per second) is not 0, and somebody is there."""

    def __init__(self, address: BrokerAddress, topics: Topics, work: Work) -> None:
        self.rate = 0.0
        self.asked: list[Asked] = []
        self.states: list[OrchestratorState] = []  # as they were said
        self.model: ModelInfo | None = None
        self._topics, self._work = topics, work
        self._answers = topics.answer("faults", "all")
        self._changed = threading.Condition()
        self._heard = self._asks_again = self._ends = False
        self._connection = PahoConnection(address, f"{topics.base}-client", self._on_event)
        self._thread = threading.Thread(target=self._run, name="client", daemon=True)

    def __enter__(self) -> Client:
        self._connection.open(OPEN_TIMEOUT)
        self._connection.subscribe(
            [(self._answers, 1), (self._topics.orchestrator_state(), 1), (self._topics.model(NAME), 1)]
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._ends = True
            self._changed.notify_all()
        self._thread.join(OPEN_TIMEOUT)
        self._connection.close()

    @property
    def state(self) -> OrchestratorState | None:
        """The orchestrator's, as it was last said."""
        return self.states[-1] if self.states else None

    def wait_for(self, what: Callable[[], object], seconds: float) -> bool:
        """Until `what()` is true, which may look at all of this; whether it was in time."""
        with self._changed:
            return bool(self._changed.wait_for(what, seconds))

    def ask(self) -> None:
        """Send one request now, if the connection has room for it."""
        with self._changed:
            request = Asked(len(self.asked) % len(self._work.payloads))
            self.asked.append(request)
            self._publish(len(self.asked) - 1)
            if not request.askings:
                self.asked.pop()

    def since(self, number: int) -> Sequence[Asked]:
        """The requests from that number on."""
        with self._changed:
            return self.asked[number:]

    def is_wrong(self, request: Asked) -> bool:
        """Whether any of its results is not what the whole model makes of the input."""
        return any(
            tuple(output.sha256 for output in result.outputs) != self._work.right[request.input]
            for _, result in request.answers
            if result.ok
        )

    def _publish(self, number: int) -> None:
        """_changed is held."""
        request = self.asked[number]
        request.askings.append(Asking(time.monotonic()))
        try:
            self._connection.publish(
                self._topics.infer(NAME), self._work.payloads[request.input], response_topic=self._answers,
                correlation=f"{number}.{len(request.askings) - 1}".encode(),
            )  # fmt: skip
        except BrokerError:
            request.askings.pop()  # too much waits already

    def _run(self) -> None:
        due = time.monotonic()
        while True:
            with self._changed:
                if self._ends:
                    return
                if self._asks_again:
                    self._asks_again = False
                    self._ask_again()
                now = time.monotonic()
                if not self.rate or not self._heard:
                    self._changed.wait(0.05)
                    due = time.monotonic()
                    continue
                if due > now:
                    self._changed.wait(due - now)
                    continue
                due += 1 / self.rate
            self.ask()

    def _ask_again(self) -> None:
        for number, request in enumerate(self.asked):
            if not request.answers:
                self._publish(number)

    def _on_event(self, event: TransportEvent) -> None:
        """On the connection's thread."""
        with self._changed:
            match event:
                case Disconnected():
                    self._heard = False
                case Message() if event.payload:
                    try:
                        self._take(event)
                    except ProtocolError:
                        return  # not of this protocol: an answer that is missing will be noticed
            self._changed.notify_all()

    def _take(self, message: Message) -> None:
        if message.topic == self._topics.orchestrator_state():
            self.states.append(codec.from_json(OrchestratorState, message.payload))
            if self.states[-1].state != "offline" and not self._heard:
                self._heard = self._asks_again = True
        elif message.topic == self._topics.model(NAME):
            self.model = codec.from_json(ModelInfo, message.payload)
        else:
            number, _, asking = message.correlation.decode().partition(".")
            answer = time.monotonic(), codec.from_json(Result, message.payload)
            self.asked[int(number)].askings[int(asking)].answers.append(answer)
