"""Looking on at a group: what it retains, read once, or followed through lost links.

Theory. A broker that comes back may have forgotten what it retained. Agents and orchestrator say it again, as soon as
they are back themselves; so what was known before the link was lost is shown on, and what nobody has said again
`SETTLING` seconds after the link is back does not hold any more.

A broker that is told to end cuts its links one after the other, and publishes the wills of those it has cut to those it
has not. So nobody is offline before `GRACE` has passed in which our own link holds.
"""

from __future__ import annotations

import contextlib
import secrets
from dataclasses import dataclass, field

from legion_iot.errors import ProtocolError
from legion_iot.orchestrator.observed import Observed
from legion_iot.transport.connection import (
    BrokerAddress,
    Connected,
    Disconnected,
    Message,
    Refused,
    TransportEvent,
)
from legion_iot.transport.retained import read_retained
from legion_iot.wire.topics import Topics

GRACE = 0.5  # seconds
SETTLING = 15.0  # seconds; what has lost its broker tries again every 8 s at the latest


def followed(topics: Topics) -> list[str]:
    """The filters of what tells how a group does."""
    return [
        topics.agent("+", "state"),
        topics.agent("+", "info"),
        topics.orchestrator_state(),
        topics.orchestrator_metrics(),
        topics.model("+"),
        topics.plan("+"),
    ]


def look(address: BrokerAddress, topics: Topics) -> Observed:
    """What a group retains now; raises BrokerError.

    Without an orchestrator that tells of links, those that agents have measured themselves.
    """
    observed = Observed.of(topics, read_retained(address, client_id(), followed(topics)))
    if observed.metrics is None and observed.states:
        for message in read_retained(address, client_id(), [topics.agent("+", "profile")]):
            observed.heed(message)
    return observed


def client_id() -> str:
    """One that nobody else has."""
    return f"legion-reader-{secrets.token_hex(4)}"


@dataclass(slots=True)
class Following:
    """What is known of a group by a connection that follows it; times are monotonic.

    `away_since` is when the link was lost, None while there is one; until `settled_at`, what was known before it was
    lost is still shown. `wills` may be those of a broker that ends, with the times when they are not, by topic.
    """

    observed: Observed
    away_since: float | None = None
    settled_at: float | None = None
    wills: dict[str, tuple[Message, float]] = field(default_factory=dict)

    def take(self, event: TransportEvent, now: float) -> None:
        """Take in what the connection says; raises BrokerError where the broker wants us no more."""
        match event:
            case Message(topic=topic):
                self.wills.pop(topic, None)
                with contextlib.suppress(ProtocolError):
                    if self.observed.says_goodbye(event):
                        self.wills[topic] = event, now + GRACE
                    else:
                        self.observed.take(event)
            case Connected() if self.away_since is not None:
                self.away_since, self.settled_at = None, now + SETTLING
            case Disconnected() if self.away_since is None:
                self.away_since, self.settled_at = now, None
                self.wills = {}
                self.observed.doubt()
            case Refused(error=error):
                raise error

    def tick(self, now: float) -> None:
        """Time has passed."""
        for topic, (message, due) in tuple(self.wills.items()):
            if now >= due:
                del self.wills[topic]
                self.observed.heed(message)
        if self.settled_at is not None and (now >= self.settled_at or not self.observed.doubted):
            self.settled_at = None
            self.observed.forget_doubted()

    @property
    def waits(self) -> float | None:
        """Seconds after which `tick` may have something to do, None where it has not."""
        return GRACE if self.wills else None if self.away_since is None and self.settled_at is None else 1.0
