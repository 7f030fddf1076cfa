"""What an operator asks of the orchestrator, on `bridge/request/<op>`, and its answers, on `bridge/response/<op>`.

`transaction` is the asker's own choice, and given back with the answer. What has no answer may be asked again: asking
twice for the same changes nothing more.
"""

from __future__ import annotations

from dataclasses import dataclass

from legion_iot.wire.messages import ModelReference
from legion_iot.wire.trace import RequestTrace

PIECE = 256 << 10  # bytes of a file, at most, in one message
PIECES_UNDER_WAY = 8  # sent before the first of them is answered


@dataclass(frozen=True, slots=True)
class ListModels:
    """On `model-list`: which models are served?"""

    transaction: str


@dataclass(frozen=True, slots=True)
class AddModel:
    """On `model-add`: serve this file under this name; in the place of another file only if it is to `replace` it."""

    transaction: str
    model: ModelReference
    replace: bool = False


@dataclass(frozen=True, slots=True)
class RemoveModel:
    """On `model-remove`: serve it no more."""

    transaction: str
    name: str


@dataclass(frozen=True, slots=True)
class Replan:
    """On `replan`: find the plan of the model of that `name` anew, or where there is none, those of all models.

    With `again`, what was measured on these `agents` (none: on all of them) and on others of their classes of board is
    forgotten, and measured once more. All models are planned anew then, since they share it.
    """

    transaction: str
    name: str = ""
    again: bool = False
    agents: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """On `trace`: what became of a request, or where none is named, of the one that ended last.

    The answer comes in pages: `offset` is that of the answer before, 0 at first.
    """

    transaction: str
    request: str = ""
    offset: int = 0


@dataclass(frozen=True, slots=True)
class UploadPiece:
    """On `model-upload`, header of a piece of the file with that SHA-256; the body are its bytes from `offset` on."""

    transaction: str
    sha256: str
    offset: int


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One model that is served, or (`error`) that cannot be; `kept` models are served after a restart, too."""

    name: str
    sha256: str
    size: int
    kept: bool
    phase: str = ""
    detail: str = ""
    input_shape: tuple[int, ...] = ()
    input_dtype: str = ""
    epoch: int = 0
    agents: tuple[str, ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True)
class BridgeData:
    """What is so now.

    All `models` are `listed`; one of them: `upload` it from `offset` on, it is `preparing`, `served`, `removed`. Or the
    group is `planning`. Or a request is `traced`: with an `offset`, a part of it, and the rest is to be asked for.
    """

    state: str
    sha256: str = ""
    offset: int = 0
    models: tuple[ModelStatus, ...] = ()
    trace: RequestTrace | None = None


@dataclass(frozen=True, slots=True)
class BridgeResponse:
    """The answer: `status` is `ok` or `error`; then `error` is for people, and `code` for programs."""

    status: str
    transaction: str
    data: BridgeData = BridgeData("")
    error: str = ""
    code: str = ""


OperatorRequest = ListModels | AddModel | RemoveModel | Replan | TraceRequest

REQUESTS: dict[str, type[OperatorRequest]] = {
    "model-list": ListModels,
    "model-add": AddModel,
    "model-remove": RemoveModel,
    "replan": Replan,
    "trace": TraceRequest,
}
UPLOAD = "model-upload"
OPERATIONS = (*REQUESTS, UPLOAD)
