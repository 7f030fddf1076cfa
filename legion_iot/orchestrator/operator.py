"""What an operator does from any machine: look at the models of a group, add one, remove one, have them planned anew.

Theory. A request without an answer is sent again when the link is back, since asking twice changes nothing more. A file
goes up in pieces, a window of them under way; when the link was cut, a piece was lost, or the orchestrator is another
one, the model is asked for once more, and the answer says where to go on.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Collection
from pathlib import Path

from legion_iot.errors import BrokerError, InputError, LegionError, ModelError, RequestError, UsageError
from legion_iot.files import sha256_of
from legion_iot.orchestrator.asking import ABSENT, Asking, Connect, Progress
from legion_iot.transport.connection import BrokerAddress, Connected, Disconnected, Message, TransportEvent
from legion_iot.transport.paho import PahoConnection
from legion_iot.wire import codec
from legion_iot.wire.bridge import (
    PIECE,
    PIECES_UNDER_WAY,
    UPLOAD,
    AddModel,
    BridgeResponse,
    ListModels,
    ModelStatus,
    OperatorRequest,
    RemoveModel,
    Replan,
    TraceRequest,
    UploadPiece,
)
from legion_iot.wire.messages import ModelReference
from legion_iot.wire.topics import Topics, check_model_name
from legion_iot.wire.trace import RequestTrace, put_together

PATIENCE = 60.0  # seconds without an answer otherwise, and for a link to come back
ASK_AGAIN = 10.0  # seconds after which a request without an answer is sent once more
PLANNING = 2000.0  # seconds for agents to be measured; a campaign may take 1800
DESCRIBING = 5.0  # seconds for a plan in force to be told of
PREPARING = 300.0  # seconds for a large model to be read on a slow machine

_ERRORS: dict[str, type[LegionError]] = {
    "not-servable": ModelError,
    "name-taken": UsageError,
    "bad-name": UsageError,
    "unknown-name": UsageError,
    "unknown-agent": UsageError,
}


class _CutOff(Exception):
    """An upload has to ask where to go on."""


class Operator(Asking):
    """Asks the orchestrator of a group; use it in `with`. Raises BrokerError where the broker cannot be used.

    Methods raise RequestError where no orchestrator answers, or it refuses; BrokerError where the link stays cut.
    """

    def __init__(self, address: BrokerAddress, base_topic: str, connect: Connect = PahoConnection) -> None:
        client_id = f"legion-operator-{secrets.token_hex(4)}"

        def heard(topics: Topics) -> list[str]:
            return [topics.bridge_response("+"), topics.plan("+")]

        super().__init__(address, base_topic, client_id, heard, connect)
        self._answered = False  # whether there has ever been an answer
        self._plans: dict[str, bool] = {}  # topics of plans, and whether one was told since the last answer

    # --- what can be done ---

    def models(self) -> tuple[ModelStatus, ...]:
        """The models that are served, or should be."""
        return self._ask("model-list", ListModels(_transaction())).data.models

    def remove(self, name: str) -> None:
        """Have a model served no more; raises UsageError where there is none of that name."""
        self._ask("model-remove", RemoveModel(_transaction(), name))

    def add(self, path: Path, name: str, replace: bool, progress: Progress) -> None:
        """Have the model in a file served, and kept.

        Raises InputError where it cannot be read, ModelError where it cannot be served, UsageError for a name that
        cannot be, or is another model's which it shall not `replace`.
        """
        try:
            model = ModelReference(check_model_name(name), sha256_of(path), path.stat().st_size)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); give a .tflite file") from None
        uploaded, since = -1, time.monotonic()
        while True:
            progress(f"asking for {name}", None)
            data = self._ask("model-add", AddModel(_transaction(), model, replace)).data
            if data.state == "served":
                return
            if data.offset > uploaded:
                uploaded, since = data.offset, time.monotonic()
            elif time.monotonic() - since > PATIENCE:
                raise BrokerError(f"the upload to {self._address} gets no further; add the model again to go on")
            try:
                self._upload(path, model, data.offset, progress)
            except _CutOff as reason:
                progress(f"{reason}; going on", None)

    def replan(self, name: str, again: Collection[str] | None, progress: Progress) -> None:
        """Have the plan of a model, or of all, found anew, and wait until it is in force, and told of.

        With `again`, these agents (none: all) are measured anew. Raises UsageError for a name that there is not.
        """
        request = Replan(_transaction(), name, again is not None, tuple(again or ()))
        self._ask("replan", request)
        self._plans = dict.fromkeys(self._plans, False)
        began, until = False, time.monotonic() + PLANNING
        while not began or self._state.state != "serving":
            if self._state.state != "serving":
                began = True
                progress(f"{self._state.state}: {self._state.detail}", None)
            waits = began and self._linked and not self._absent
            if self._next(until if waits else min(until, time.monotonic() + PATIENCE)) is None:
                self._give_up()
        until = time.monotonic() + DESCRIBING
        while not all(self._plans.values()) and self._next(until) is not None:
            progress("working out what the plan will take", None)

    def trace(self, request: str = "") -> RequestTrace:
        """What became of a request, or of the last one that has ended; raises RequestError where it is not kept."""
        pages: list[RequestTrace] = []
        offset = 0
        while True:
            data = self._ask("trace", TraceRequest(_transaction(), request, offset)).data
            if data.trace is None or (data.offset and data.offset <= offset):
                raise RequestError("the orchestrator tells nothing of the request; it is of another version")
            pages.append(data.trace)
            request, offset = data.trace.request, data.offset
            if not offset:
                return put_together(pages)

    # --- uploads ---

    def _upload(self, path: Path, model: ModelReference, offset: int, progress: Progress) -> None:
        """Send the file from `offset` on; raises _CutOff where it has to be asked how to go on."""
        transaction, sent, there = _transaction(), offset, offset
        with path.open("rb") as file:
            while there < model.size:
                while sent < model.size and sent - there < PIECES_UNDER_WAY * PIECE:
                    file.seek(sent)
                    body = file.read(PIECE)
                    if not body:
                        raise InputError(f"{path}: has become shorter; add it again")
                    header = codec.pack(UploadPiece(transaction, model.sha256, sent))
                    self._connection.publish(self.topics.bridge_request(UPLOAD), (header, body))
                    sent += len(body)
                reached = self._piece_answered(transaction)
                if reached <= there:
                    raise _CutOff("a piece was lost")
                there = reached
                progress(f"uploading {model.name}: {there / 1e6:.1f} of {model.size / 1e6:.1f} MB", there / model.size)

    def _piece_answered(self, transaction: str) -> int:
        deadline = time.monotonic() + PATIENCE
        while (event := self._next(deadline)) is not None:
            if isinstance(event, Disconnected | Connected):
                raise _CutOff("the link was cut")
            response = self._response(event, transaction)
            if response is None:
                continue
            if response.code == "no-upload":
                raise _CutOff("the orchestrator was started anew")
            self._check(response)
            return response.data.offset
        raise _CutOff("no answer")

    # --- questions and answers ---

    def _ask(self, operation: str, request: OperatorRequest) -> BridgeResponse:
        """The last answer to a request, which is sent again when the link was cut, or the orchestrator came later."""
        asked, patience = self._send(operation, request), PATIENCE
        since = asked
        while True:
            before = self._state.state
            early = self._absent and self._linked and not self._answered
            until = since + (ABSENT if early else patience)
            event = self._next(min(until, asked + ASK_AGAIN))
            if event is None and time.monotonic() >= until:
                self._give_up()
            if event is None or isinstance(event, Connected) or (before == "offline" and not self._absent):
                asked = self._send(operation, request)
            response = self._response(event, request.transaction)
            if response is None:
                continue
            self._check(response)
            if response.data.state != "preparing":
                return response
            since, patience = time.monotonic(), PREPARING

    def _send(self, operation: str, request: OperatorRequest) -> float:
        self._connection.publish(self.topics.bridge_request(operation), codec.to_json(request))
        return time.monotonic()

    def _next(self, deadline: float) -> TransportEvent | None:
        event = super()._next(deadline)
        if isinstance(event, Message) and self._is_plan(event.topic):
            self._plans[event.topic] = not event.retain
        return event

    def _is_plan(self, topic: str) -> bool:
        return topic.startswith(f"{self.topics.base}/models/")

    def _response(self, event: TransportEvent | None, transaction: str) -> BridgeResponse | None:
        if not isinstance(event, Message) or event.topic == self.topics.orchestrator_state():
            return None
        if self._is_plan(event.topic):
            return None
        response = codec.from_json(BridgeResponse, event.payload)
        if response.transaction != transaction:
            return None
        self._answered = True
        return response

    def _check(self, response: BridgeResponse) -> None:
        if response.status != "ok":
            raise _ERRORS.get(response.code, RequestError)(response.error)


def _transaction() -> str:
    return secrets.token_hex(8)
