"""What looks on at an orchestrator and serves others: metrics for monitoring, for a home, for a browser."""

from __future__ import annotations

from typing import Protocol

from legion_iot.orchestrator.serving import EndedRequest
from legion_iot.wire.group import GroupMetrics, PlanInfo


class Watcher(Protocol):
    """Its methods are called on the loop's thread, and must not wait for anything but in `start` and `close`."""

    def start(self) -> None:
        """Begin, once the broker has been reached; raises LegionError where that cannot be."""
        ...

    def metrics(self, metrics: GroupMetrics) -> None:
        """How the group does, about every 2 s."""
        ...

    def planned(self, plan: PlanInfo) -> None:
        """A plan has come into force, or more is known of it."""
        ...

    def ended(self, ended: EndedRequest) -> None:
        """A request has had its one end."""
        ...

    def close(self) -> None:
        """End; called once after `start`, whatever happened."""
        ...
