"""Requests between the broker and the models: their names, and where their answers go.

Theory. A request has a name and a note in the journal before the broker is told that it has arrived, and is noted as
ended once the broker has its answer. So whatever happens to this process in between, it or the next one answers.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from legion_iot.errors import BrokerError, ProtocolError
from legion_iot.orchestrator.journal import Journal, OpenRequest
from legion_iot.transport.connection import Connection, Message
from legion_iot.transport.matching import is_topic_name
from legion_iot.wire import codec
from legion_iot.wire.messages import Result
from legion_iot.wire.topics import InferTopic, Topics, image_topic

log = logging.getLogger("legion-orchestrator")

RESULT_EXPIRY = 3600  # seconds for which a broker keeps a result for a client that is away


class Replies:
    """Names requests, and answers each of them once over `control`."""

    def __init__(self, topics: Topics, session: str, journal: Journal, control: Connection) -> None:
        self._topics, self._journal, self._control = topics, journal, control
        self._names = (f"{session[:8]}-{number}" for number in itertools.count(1))
        self._open: dict[str, OpenRequest] = {}

    def admit(self, message: Message, crowded: bool) -> str | None:
        """The name of the request that a message is; None where it is none, or was answered at once.

        Called on the network's thread, one message after the other.
        """
        if message.retain or (model := self._model(message.topic)) is None:
            return None
        request = OpenRequest(next(self._names), model, message.response_topic, message.correlation.hex())
        if request.response_topic and not self._may_answer_on(request.response_topic):
            reason = f"the response topic is none for answers; use one below {self._topics.base}/answers/ or elsewhere"
            self._send(OpenRequest(request.request, request.model), _refused(request, "bad-input", reason))
            return None
        if crowded:
            self._send(request, _refused(request, "busy", "too much waits already; send it again later"))
            return None
        self._journal.opened(request)
        self._open[request.request] = request
        return request.request

    def answer(self, result: Result, picture: Callable[[], bytes | None] | None = None) -> None:
        """Publish the one end of a request, and the PNG that belongs to it, which is made after that."""
        request = self._open.pop(result.request, None) or OpenRequest(result.request, result.model)
        if picture is None:
            self._send(request, result)
            return
        image = image_topic(self._place(request))
        self._send(request, replace(result, image=image))
        content = picture()
        if content is not None:
            self._publish(request, image, content)

    def answer_left(self) -> None:
        """Answer what the last process left open; what cannot be sent is left to the next one."""
        for request in self._journal.left:
            reason = "the orchestrator was restarted before it had an answer; send the request again"
            self._send(request, _refused(request, "restarted", reason))

    def answer_open(self) -> None:
        """Answer what is still open, since this process ends."""
        reason = "the orchestrator ended before it had an answer; send the request again"
        for request in list(self._open.values()):
            self.answer(_refused(request, "restarted", reason))

    def _model(self, topic: str) -> str | None:
        try:
            place = self._topics.parse(topic)
        except ProtocolError as error:
            log.warning("dropped a request: %s", error)
            return None
        return place.model if isinstance(place, InferTopic) else None

    def _may_answer_on(self, topic: str) -> bool:
        """Not on topics by which the group is told something, as those of commands are."""
        own = f"{topic}/".startswith((f"{self._topics.base}/", "$"))
        return is_topic_name(image_topic(topic)) and (not own or topic.startswith(f"{self._topics.base}/answers/"))

    def _place(self, request: OpenRequest) -> str:
        return request.response_topic or self._topics.result(request.model)

    def _send(self, request: OpenRequest, result: Result) -> None:
        ended = partial(self._journal.ended, request.request)
        self._publish(request, self._place(request), codec.to_json(result), ended)

    def _publish(
        self, request: OpenRequest, topic: str, content: bytes, on_acknowledged: Callable[[], None] | None = None
    ) -> None:
        correlation = bytes.fromhex(request.correlation)
        try:
            self._control.publish(
                topic, content, correlation=correlation, expiry=RESULT_EXPIRY, on_acknowledged=on_acknowledged
            )
        except BrokerError as error:
            log.warning("request %s has no answer: %s", request.request, error)


def _refused(request: OpenRequest, error: str, reason: str) -> Result:
    return Result(request.request, False, request.model, 0, 0.0, error=error, reason=reason)
