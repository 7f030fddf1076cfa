"""Every topic, built and parsed in one place (docs/protocol.md).

Names of agents and requests match `[a-z0-9][a-z0-9-]{0,31}`, those of models also hold `.` and `_`; anything else is
refused at parse, so that a name can never smuggle a level or a wildcard into a topic.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from legion_iot.errors import ProtocolError, UsageError

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_MODEL = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")
_BASE = re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*")

ORCHESTRATOR = "orchestrator"  # a participant's name that no agent may take
AGENT_KINDS = ("state", "info", "metrics", "profile", "command")
ORCHESTRATOR_KINDS = ("state", "metrics")


def check_agent_name(name: str) -> str:
    """The name, when an agent may have it; raises UsageError."""
    if not _NAME.fullmatch(name) or name == ORCHESTRATOR:
        raise UsageError(
            f"{name!r} cannot be an agent's name; use up to 32 of a–z, 0–9 and '-', not 'orchestrator' (--name)"
        )
    return name


def check_model_name(name: str) -> str:
    """The name, when a model may have it; raises UsageError."""
    if not is_model_name(name):
        raise UsageError(f"{name!r} cannot be a model's name; use up to 32 of a–z, 0–9, '.', '_' and '-'")
    return name


def is_model_name(name: str) -> bool:
    """Whether a model may have that name."""
    return _MODEL.fullmatch(name) is not None


def image_topic(result: str) -> str:
    """Where the picture goes that belongs to what is published on `result`."""
    return f"{result}/image"


def check_participant_name(name: str) -> str:
    """The name, when it is an agent's or `orchestrator`; raises ProtocolError."""
    if not _NAME.fullmatch(name):
        raise ProtocolError(f"{name!r:.80} is no name of an agent")
    return name


def is_agent_name(name: str) -> bool:
    """Whether an agent may have that name."""
    return name != ORCHESTRATOR and _NAME.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class AgentTopic:
    """`agents/<agent>/<kind>`."""

    agent: str
    kind: str


@dataclass(frozen=True, slots=True)
class AssignmentTopic:
    """`agents/<agent>/assignment/<model>`."""

    agent: str
    model: str


@dataclass(frozen=True, slots=True)
class ReportTopic:
    """`agents/<agent>/report/<kind>`."""

    agent: str
    kind: str


@dataclass(frozen=True, slots=True)
class InboxTopic:
    """`agents/<owner>/inbox/<sender>` or `orchestrator/inbox/<sender>`."""

    owner: str
    sender: str


@dataclass(frozen=True, slots=True)
class InferTopic:
    """`infer/<model>`: an input."""

    model: str


@dataclass(frozen=True, slots=True)
class ResultTopic:
    """`infer/<model>/result`."""

    model: str


@dataclass(frozen=True, slots=True)
class BridgeTopic:
    """`bridge/request/<operation>`."""

    operation: str


@dataclass(frozen=True, slots=True)
class OrchestratorTopic:
    """`orchestrator/<kind>`."""

    kind: str


@dataclass(frozen=True, slots=True)
class ModelTopic:
    """`models/<model>`."""

    model: str


@dataclass(frozen=True, slots=True)
class PlanTopic:
    """`models/<model>/plan`."""

    model: str


ParsedTopic = (
    AgentTopic
    | AssignmentTopic
    | ReportTopic
    | InboxTopic
    | InferTopic
    | ResultTopic
    | BridgeTopic
    | OrchestratorTopic
    | ModelTopic
    | PlanTopic
)


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics below one base topic; several groups share a broker by having different ones."""

    base: str = "legion"

    def __post_init__(self) -> None:
        if not _BASE.fullmatch(self.base):
            raise UsageError(f"{self.base!r} cannot be a base topic; use levels of letters, digits, '_' and '-'")

    def agent(self, agent: str, kind: str) -> str:
        return f"{self.base}/agents/{agent}/{kind}"

    def assignment(self, agent: str, model: str) -> str:
        return f"{self.base}/agents/{agent}/assignment/{model}"

    def report(self, agent: str, kind: str) -> str:
        return f"{self.base}/agents/{agent}/report/{kind}"

    def inbox(self, owner: str, sender: str) -> str:
        if owner == ORCHESTRATOR:
            return f"{self.base}/orchestrator/inbox/{sender}"
        return f"{self.base}/agents/{owner}/inbox/{sender}"

    def probe(self, participant: str) -> str:
        """Where a participant writes to find out how fast its link is; nobody reads it."""
        own = "orchestrator" if participant == ORCHESTRATOR else f"agents/{participant}"
        return f"{self.base}/{own}/probe"

    def orchestrator_state(self) -> str:
        return f"{self.base}/orchestrator/state"

    def orchestrator_metrics(self) -> str:
        return f"{self.base}/orchestrator/metrics"

    def model(self, model: str) -> str:
        return f"{self.base}/models/{model}"

    def plan(self, model: str) -> str:
        return f"{self.base}/models/{model}/plan"

    def infer(self, model: str) -> str:
        return f"{self.base}/infer/{model}"

    def result(self, model: str) -> str:
        return f"{self.base}/infer/{model}/result"

    def result_image(self, model: str) -> str:
        """Where the picture goes that a result of the model has."""
        return image_topic(self.result(model))

    def bridge_request(self, operation: str) -> str:
        return f"{self.base}/bridge/request/{operation}"

    def bridge_response(self, operation: str) -> str:
        return f"{self.base}/bridge/response/{operation}"

    def echo(self, member: str) -> str:
        """Where a member writes to itself, to find out what the broker carries; nobody else reads it."""
        return f"{self.base}/echo/{member}"

    def answer(self, client: str, question: str) -> str:
        """Where a client may want an answer, by MQTT 5's response topic; the rest is its own business."""
        return f"{self.base}/answers/{client}/{question}"

    def answer_image(self, client: str, question: str) -> str:
        """Where the picture goes that an answer has."""
        return image_topic(self.answer(client, question))

    def parse(self, topic: str) -> ParsedTopic:
        """What a topic is; raises ProtocolError for anything that is not of this group or not well formed."""
        prefix = f"{self.base}/"
        if not topic.startswith(prefix):
            raise ProtocolError(f"topic {topic!r} is not below {self.base!r}")
        match topic[len(prefix) :].split("/"):
            case ["agents", agent, kind] if is_agent_name(agent) and kind in AGENT_KINDS:
                return AgentTopic(agent, kind)
            case ["agents", agent, "assignment", model] if is_agent_name(agent) and _MODEL.fullmatch(model):
                return AssignmentTopic(agent, model)
            case ["agents", agent, "report", kind] if is_agent_name(agent) and _NAME.fullmatch(kind):
                return ReportTopic(agent, kind)
            case ["agents", owner, "inbox", sender] if is_agent_name(owner) and _NAME.fullmatch(sender):
                return InboxTopic(owner, sender)
            case ["orchestrator", "inbox", sender] if _NAME.fullmatch(sender):
                return InboxTopic(ORCHESTRATOR, sender)
            case ["orchestrator", kind] if kind in ORCHESTRATOR_KINDS:
                return OrchestratorTopic(kind)
            case ["models", model] if _MODEL.fullmatch(model):
                return ModelTopic(model)
            case ["models", model, "plan"] if _MODEL.fullmatch(model):
                return PlanTopic(model)
            case ["infer", model] if _MODEL.fullmatch(model):
                return InferTopic(model)
            case ["infer", model, "result"] if _MODEL.fullmatch(model):
                return ResultTopic(model)
            case ["bridge", "request", operation] if _NAME.fullmatch(operation):
                return BridgeTopic(operation)
        raise ProtocolError(f"topic {topic!r} is none of this protocol")
