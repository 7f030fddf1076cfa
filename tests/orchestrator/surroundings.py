"""What a served model needs around it, without any network."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from legion_iot.orchestrator.journal import Journal
from legion_iot.orchestrator.replies import Replies
from legion_iot.orchestrator.retained import Retained
from legion_iot.orchestrator.serving import Surroundings
from legion_iot.runtime.shared import Shared
from legion_iot.transport.memory import MemoryConnection
from legion_iot.wire.topics import Topics


def surroundings(connection: MemoryConnection, topics: Topics) -> Surroundings:
    """Those of an orchestrator with that connection for everything."""
    links: Any = SimpleNamespace(
        control=connection, data=connection, wake=lambda: None, send=lambda regions: None
    )  # fmt: skip
    own_link: Any = SimpleNamespace(start=lambda number: None)
    replies = Replies(topics, "s", Journal(), connection)
    return Surroundings(
        links, topics, own_link, Shared(), Retained(links), replies, lambda model: None, lambda ended: None
    )
