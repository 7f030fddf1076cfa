"""Tells the group's metrics and plans, to whoever reads the broker and to the watchers in this process.

Theory. A plan's predicted times are found in the background as soon as it is in force. Its lower bound may take seconds
of processor time, so it waits for a moment without requests, though not for ever.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable
from dataclasses import replace

from legion_iot.errors import BrokerError, LegionError
from legion_iot.orchestrator.background import Background
from legion_iot.orchestrator.metrics import GroupCounts
from legion_iot.orchestrator.models import ServedModels
from legion_iot.orchestrator.plan_info import Described
from legion_iot.orchestrator.serving import EndedRequest, Surroundings
from legion_iot.orchestrator.watchers import Watcher
from legion_iot.runtime.selection import Outcome
from legion_iot.wire import codec
from legion_iot.wire.group import PlanInfo
from legion_iot.wire.messages import Metrics

log = logging.getLogger("legion-orchestrator")

QUIET = 2.0  # seconds without a request in which a bound may be computed,
PATIENCE = 30.0  # unless it has waited for so long


class Reporter:
    """All methods are to be called on the loop's thread; times are monotonic."""

    def __init__(
        self,
        session: str,
        around: Surroundings,
        models: ServedModels,
        background: Background,
        watchers: tuple[Watcher, ...],
        now: float,
    ) -> None:
        self._around, self._models, self._background = around, models, background
        self._watchers = watchers
        self._started: list[Watcher] = []
        self._counts = GroupCounts(session, now)
        self._told = -math.inf
        self._active = now  # when a request was last seen
        # By model, the epoch that was last described, and the planning before that, which may have measured anew.
        self._described: dict[str, tuple[int, Outcome | None]] = {}
        self._unbounded: list[tuple[float, Described]] = []  # since when, what lacks its bound

    def start(self) -> None:
        """Let the watchers begin; raises LegionError where one cannot."""
        for watcher in self._watchers:
            self._started.append(watcher)
            watcher.start()

    def heard(self, agent: str, metrics: Metrics, now: float) -> None:
        """An agent says how it is."""
        self._counts.heard(agent, metrics, now)

    def ended(self, ended: EndedRequest, now: float) -> None:
        """A request has ended."""
        self._active = now
        self._counts.ended(ended.result, now)
        self._each(lambda watcher: watcher.ended(ended))

    def tick(self, now: float) -> None:
        """Tell what is new, and how the group does when that is due."""
        if self._around.shared.under_way:
            self._active = now
        self._describe(now)
        self._bound(now)
        if now - self._told >= self._counts.interval():
            self._told = now
            models = self._models
            metrics = self._counts.group(models.states, models.infos, models.by_name, models.dropped, now)
            topic = self._around.topics.orchestrator_metrics()
            with contextlib.suppress(BrokerError):  # the next ones come soon
                self._around.links.control.publish(topic, codec.to_json(metrics), qos=0, retain=True)
            self._each(lambda watcher: watcher.metrics(metrics))

    def close(self) -> None:
        """End the watchers."""
        self._each(lambda watcher: watcher.close())

    def clear(self) -> None:
        """Leave no metrics behind. Raises BrokerError."""
        self._around.links.control.publish(self._around.topics.orchestrator_metrics(), b"", qos=0, retain=True)

    def _each(self, tell: Callable[[Watcher], None]) -> None:
        for watcher in self._started:
            try:
                tell(watcher)
            except Exception:  # a mistake of one that looks on must not end the serving of requests
                log.exception("%s failed", type(watcher).__name__)

    def _describe(self, now: float) -> None:
        for name, model in self._models.by_name.items():
            force = model.state.epochs.force
            known, planned = self._described.get(name, (0, None)), model.state.selection.outcome
            if force is None or (known[0] == force.number and known[1] is planned):
                continue
            self._described[name] = force.number, planned
            if (described := model.describe_plan()) is not None:
                self._unbounded = [each for each in self._unbounded if each[1].model != name]
                self._unbounded.append((now, described))
                self._background.do(described.info, self._publish)

    def _bound(self, now: float) -> None:
        if not self._unbounded:
            return
        since, described = self._unbounded[0]
        if now - self._active < QUIET and now - since < PATIENCE:
            return
        del self._unbounded[0]

        def publish(bound: float | LegionError | None) -> None:
            model = self._models.by_name.get(described.model)
            info = None if model is None else model.plan_info
            if info is not None and info.epoch == described.epoch and isinstance(bound, float):
                self._publish(replace(info, bound_ms=bound))

        self._background.do(described.bound_ms, publish)

    def _publish(self, info: PlanInfo | LegionError) -> None:
        """Tell of a plan, unless another one has come into force meanwhile."""
        if isinstance(info, LegionError) or self._described.get(info.model, (0, None))[0] != info.epoch:
            return
        model = self._models.by_name.get(info.model)
        if model is None:
            return
        with contextlib.suppress(BrokerError):  # held all the same, so it is said again with the next link
            model.publish_plan(info)
        self._each(lambda watcher: watcher.planned(info))
