"""What operators ask for: which models are served, one more, one less, other plans. Docs: docs/protocol.md, "Models".

Theory. Every request may come twice, since a link may be cut before its answer; so each says what shall hold, and is
answered by what does. To add a model is to ask for it until it is served:

| `model-add`, and the file is           | then                                                       | answer      |
|----------------------------------------|------------------------------------------------------------|-------------|
| served and kept under that name        | –                                                          | `served`    |
| another one than that name has         | –, unless it is to replace that one                        | error       |
| not there, or not all of it            | pieces are taken from `offset` on, in their order          | `upload`    |
| there                                  | its hash is compared, it is read, kept, and served         | `preparing` |
| being read                             | –; the answer comes when that is done                      | `preparing` |

A piece is answered by where the next one begins, whether or not it was the one that was wanted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from legion_iot.errors import LegionError, ModelError, ProtocolError
from legion_iot.orchestrator.background import Background
from legion_iot.orchestrator.model_store import ModelStore, Refusal
from legion_iot.orchestrator.models import ServedModels
from legion_iot.orchestrator.options import ModelFile
from legion_iot.orchestrator.serving import LoadedModel, ServedModel, load
from legion_iot.orchestrator.traces import KEPT
from legion_iot.wire import codec
from legion_iot.wire.bridge import (
    PIECE,
    REQUESTS,
    UPLOAD,
    AddModel,
    BridgeData,
    BridgeResponse,
    ListModels,
    ModelStatus,
    RemoveModel,
    Replan,
    TraceRequest,
    UploadPiece,
)
from legion_iot.wire.messages import ModelReference
from legion_iot.wire.topics import is_model_name
from legion_iot.wire.trace import RequestTrace, page

log = logging.getLogger("legion-orchestrator")

_MOST_UPLOADS = 4  # at the same time; the one that began first is forgotten for a fifth


@dataclass(slots=True)
class _Upload:
    """A file of `size` bytes, of which those below `offset` are there."""

    size: int
    offset: int


@dataclass(slots=True)
class _Preparing:
    """A model that is being read, and who waits for it."""

    model: ModelReference
    transactions: list[str] = field(default_factory=list)


class Bridge:
    """Answers by `respond(operation, response)`; `on_change` is called when another set of models is served.

    Without a store, models are neither added nor removed.
    """

    def __init__(
        self,
        store: ModelStore | None,
        models: ServedModels,
        background: Background,
        respond: Callable[[str, BridgeResponse], None],
        on_change: Callable[[], None],
    ) -> None:
        self._kept, self._models, self._background = store, models, background
        self._respond, self._on_change = respond, on_change
        self._uploads: dict[str, _Upload] = {}
        self._preparing: dict[str, _Preparing] = {}
        self._broken: dict[str, str] = {}  # why a model that is kept cannot be served
        self._replanned = ""  # the last transaction that asked for it
        self._traced: RequestTrace | None = None  # the last one, of which further pages may be asked for

    @property
    def _store(self) -> ModelStore:
        """Raises Refusal where there is none."""
        if self._kept is None:
            raise Refusal("no-store", "this orchestrator keeps no models; give it a --state-dir")
        return self._kept

    def serve_kept(self) -> None:
        """Serve what the store holds, but for names that are taken; what cannot be served does not stop the rest."""
        if self._kept is None:
            return
        for name, sha256 in sorted(self._store.names.items()):
            if name in self._models.by_name:
                log.warning("the model %s that was added gives way to the one given at the start", name)
                continue
            try:
                self._models.add(_read(self._store, name, sha256))
            except LegionError as error:
                log.error("model %s is not served: %s", name, error)
                self._broken[name] = str(error)

    def take(self, operation: str, payload: bytes) -> None:
        """A message on `bridge/request/<operation>`; raises ProtocolError for what is none."""
        if operation == UPLOAD:
            piece, body = codec.unpack({UploadPiece.__name__: UploadPiece}, payload)
            self._carry_out(operation, piece.transaction, lambda: self._take_piece(piece, body))
            return
        if operation not in REQUESTS:
            raise ProtocolError(f"there is no operation {operation}")
        request = codec.from_json(REQUESTS[operation], payload)
        match request:
            case ListModels():
                self._carry_out(operation, request.transaction, self._list)
            case AddModel():
                self._carry_out(operation, request.transaction, lambda: self._add(request))
            case RemoveModel():
                self._carry_out(operation, request.transaction, lambda: self._remove(request.name))
            case Replan():
                self._carry_out(operation, request.transaction, lambda: self._replan(request))
            case TraceRequest():
                self._trace(request)

    def _carry_out(self, operation: str, transaction: str, act: Callable[[], BridgeData]) -> None:
        try:
            response = BridgeResponse("ok", transaction, act())
        except Refusal as refusal:
            response = _refused(transaction, refusal)
        self._respond(operation, response)

    # --- operations ---

    def _list(self) -> BridgeData:
        kept = {} if self._kept is None else self._kept.names
        served = [self._status(name, model, kept.get(name)) for name, model in self._models.by_name.items()]
        broken = [ModelStatus(name, kept[name], 0, True, error=why) for name, why in self._broken.items()]
        return BridgeData("listed", models=tuple(sorted([*served, *broken], key=lambda model: model.name)))

    def _status(self, name: str, model: ServedModel, kept: str | None) -> ModelStatus:
        state, tensor = model.state, model.network.graph.tensors[model.network.graph.inputs[0]]
        agents = state.plan.agents if state.plan else ()
        is_kept = kept == model.reference.sha256
        return ModelStatus(
            name, model.reference.sha256, model.reference.size, is_kept, state.phase or "gathering", state.detail,
            tensor.shape, tensor.dtype, state.epoch, agents,
        )  # fmt: skip

    def _add(self, request: AddModel) -> BridgeData:
        model = request.model
        if not is_model_name(model.name):
            raise Refusal("bad-name", f"{model.name!r:.60} cannot be a model's name; give another --name")
        if (job := self._preparing.get(model.name)) is not None:
            if job.model != model:
                raise Refusal("busy", f"another model is being added as {model.name}; try again in a moment")
            job.transactions.append(request.transaction)
            return BridgeData("preparing", model.sha256)
        served = self._models.by_name.get(model.name)
        has = self._store.names.get(model.name) if served is None else served.reference.sha256
        if has not in (None, model.sha256) and not request.replace:
            reason = f"{model.name} is another model already (SHA-256 {has:.12}…); give --replace, or another --name"
            raise Refusal("name-taken", reason)
        if served is not None and has == model.sha256 == self._store.names.get(model.name):
            return BridgeData("served", model.sha256, model.size)
        self._store.check_room(model.name)
        if not self._store.holds(model.sha256) and (offset := self._begin(model)) < model.size:
            return BridgeData("upload", model.sha256, offset)
        self._prepare(request)
        return BridgeData("preparing", model.sha256)

    def _begin(self, model: ModelReference) -> int:
        offset = self._store.begin(model.sha256, model.size)
        self._uploads.pop(model.sha256, None)
        if len(self._uploads) >= _MOST_UPLOADS:
            del self._uploads[next(iter(self._uploads))]
        self._uploads[model.sha256] = _Upload(model.size, offset)
        return offset

    def _take_piece(self, piece: UploadPiece, body: memoryview) -> BridgeData:
        upload = self._uploads.get(piece.sha256)
        if upload is None:
            raise Refusal("no-upload", "nobody has announced this file; add the model again")
        if not 0 < len(body) <= PIECE or piece.offset + len(body) > upload.size:
            raise Refusal("bad-piece", f"a piece of {len(body)} bytes at {piece.offset} is none of this file")
        if piece.offset == upload.offset:
            try:
                self._store.write(piece.sha256, piece.offset, body)
            except Refusal:
                del self._uploads[piece.sha256]  # how much of the piece is there, the next announcement finds out
                raise
            upload.offset += len(body)
        return BridgeData("upload", piece.sha256, upload.offset)

    def _remove(self, name: str) -> BridgeData:
        if name in self._preparing:
            raise Refusal("busy", f"{name} is being added; try again in a moment")
        if name not in self._models.by_name and name not in self._store.names:
            raise Refusal("unknown-name", self._no_model(name, {*self._models.by_name, *self._store.names}))
        if name in self._store.names:
            self._store.forget(name)
        self._broken.pop(name, None)
        self._models.remove(name)
        self._on_change()
        return BridgeData("removed")

    def _replan(self, request: Replan) -> BridgeData:
        if not self._models.by_name:
            raise Refusal("no-model", "no model is served, so there is nothing to plan; add one: legion model add")
        if request.name and request.name not in self._models.by_name:
            raise Refusal("unknown-name", self._no_model(request.name, self._models.by_name))
        if request.name and request.again:
            raise Refusal("bad-request", "what is measured again holds for all models; ask without a model's name")
        agents = self._models.online
        if strangers := sorted(set(request.agents) - set(agents)):
            known = ", ".join(agents) or "none"
            raise Refusal("unknown-agent", f"there is no agent {strangers[0]!r:.60}; online are: {known}")
        if request.transaction != self._replanned or self._models.phase[0] == "serving":
            self._models.replan(request.name, request.agents or agents if request.again else ())
        self._replanned = request.transaction
        return BridgeData("planning")

    def _trace(self, request: TraceRequest) -> None:
        """The answer comes when the trace has been made, in the background."""
        if request.offset and self._traced is not None and self._traced.request == request.request:
            self._show(request, self._traced)
            return
        make = self._models.trace(request.request)
        if make is None:
            refusal = Refusal("unknown-request", self._no_request(request.request))
            self._respond("trace", _refused(request.transaction, refusal))
            return
        self._background.do(make, lambda outcome: self._show(request, outcome))

    def _show(self, request: TraceRequest, trace: RequestTrace | LegionError) -> None:
        if isinstance(trace, LegionError):
            self._respond("trace", _refused(request.transaction, Refusal("failed", str(trace))))
            return
        self._traced = trace
        part, offset = page(trace, max(0, request.offset))
        self._respond(
            "trace", BridgeResponse("ok", request.transaction, BridgeData("traced", offset=offset, trace=part))
        )

    def _no_request(self, name: str) -> str:
        kept = {model: served.traces.names for model, served in self._models.by_name.items()}
        ranges = [f"{model}: {names[0]} to {names[-1]}" for model, names in kept.items() if names]
        if not ranges:
            return "no request has ended since the orchestrator was started; send one first"
        return f"no request {name!r:.60} is kept; the last {KEPT} of each model are: {', '.join(ranges)}"

    def _no_model(self, name: str, known: Iterable[str]) -> str:
        return f"there is no model {name!r:.60}; served are: {', '.join(sorted(known)) or 'none'}"

    # --- reading a model, in the background ---

    def _prepare(self, request: AddModel) -> None:
        model, store = request.model, self._store
        self._uploads.pop(model.sha256, None)
        self._preparing[model.name] = _Preparing(model, [request.transaction])

        def read() -> LoadedModel:
            if not store.holds(model.sha256):
                store.finish(model.sha256, model.size)
            return _read(store, model.name, model.sha256)

        self._background.do(read, lambda outcome: self._prepared(model, outcome))

    def _prepared(self, model: ModelReference, outcome: LoadedModel | LegionError) -> None:
        job = self._preparing.pop(model.name)
        data = BridgeData("served", model.sha256, model.size)
        try:
            self._take_in(model, outcome)
        except LegionError as error:
            self._store.discard(model.sha256)
            responses = [_refused(transaction, error) for transaction in job.transactions]
        else:
            responses = [BridgeResponse("ok", transaction, data) for transaction in job.transactions]
        for response in responses:
            self._respond("model-add", response)

    def _take_in(self, model: ModelReference, outcome: LoadedModel | LegionError) -> None:
        """Keep and serve a model that was read. Raises what stood in the way."""
        if isinstance(outcome, LegionError):
            raise outcome
        before = self._store.names.get(model.name)
        self._store.keep(model.name, model.sha256)
        self._broken.pop(model.name, None)
        served = self._models.by_name.get(model.name)
        if served is None or served.reference.sha256 != model.sha256:
            self._models.add(outcome)
            self._on_change()
        if before not in (None, model.sha256):
            self._store.discard(before)


def _read(store: ModelStore, name: str, sha256: str) -> LoadedModel:
    """A model out of the store; raises ModelError or Refusal where it cannot be served."""
    loaded = load(ModelFile(name, store.path(sha256)))
    if loaded.reference.sha256 != sha256:
        raise Refusal("damaged", f"{store.path(sha256)} is not what was stored any more; add the model again")
    graph = loaded.network.graph
    if any(-1 in graph.tensors[index].shape_signature[1:] for index in graph.inputs):
        raise ModelError("the model leaves sizes open; choose them with --input-shape")
    return loaded


def _refused(transaction: str, error: LegionError) -> BridgeResponse:
    code = error.code if isinstance(error, Refusal) else "not-servable"
    return BridgeResponse("error", transaction, error=str(error), code=code)
