"""One fault, done to a group under load: what became of the requests, and what the processes take afterwards."""

from __future__ import annotations

import re
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from legion_iot.bench.faults.client import Asked, Client
from legion_iot.bench.faults.group import Group
from legion_iot.bench.faults.kinds import Fault
from legion_iot.bench.faults.programs import Figures
from legion_iot.errors import AgentError
from legion_iot.runtime.requests import REQUEST_TIMEOUT

RATE = 3.0  # requests per second
RECOVERY_TIMEOUT = 90.0  # seconds
SLACK = 5.0  # seconds after its deadline in which a request's end has to be heard
SHARE = 0.1  # by which processes may take more than before,
SPARE = Figures(0, 4 << 20, 2, 2)  # or by so much, where that is more: allocators and pools keep a little


@dataclass(frozen=True, slots=True)
class Effort:
    """Seconds of load before a fault, and after everybody is back."""

    before: float
    after: float


FULL, QUICK = Effort(2.0, 1.0), Effort(1.0, 0.3)


@dataclass(frozen=True, slots=True)
class Trial:
    """What one fault did. Seconds; `under_way` is the longest that a request took which had not ended when it came.

    `tile_deadline` is how long a tile could take before its agent was suspected, 0 where none was; `grown` is what
    processes take more than before.
    """

    fault: str
    sent: int
    ok: int
    failed: dict[str, int]
    lost: int
    wrong: int
    twice: int
    repeated: int
    asked_again: int
    normal: float
    under_way: float
    slowest: float
    recovery: float
    tile_deadline: float
    orphans: int
    figures: dict[str, Figures]
    grown: dict[str, str]

    def row(self) -> dict[str, Any]:
        return {
            "fault": self.fault, "sent": self.sent, "ok": self.ok, "failed": self.failed, "lost": self.lost,
            "wrong": self.wrong, "twice": self.twice, "repeated": self.repeated, "asked_again": self.asked_again,
            "recovery_s": self.recovery, "normal_ms": self.normal * 1e3, "under_way_ms": self.under_way * 1e3,
            "tile_deadline_s": self.tile_deadline, "slowest_s": self.slowest, "orphans": self.orphans,
            "memory_mb": {name: round(each.memory / 1e6, 2) for name, each in self.figures.items()},
            "grown": self.grown,
        }  # fmt: skip


def warm_up(group: Group, seconds: float) -> dict[str, Figures]:
    """Let every process take what it needs under more load than it can carry; what they take then."""
    group.client.rate = 10 * RATE
    time.sleep(seconds)
    group.client.rate = 0.0
    _drain(group.client, 0)
    return group.figures()


def run_trial(group: Group, fault: Fault, figures: dict[str, Figures], effort: Effort = FULL) -> Trial:
    """Do it to a group that is whole, and wait until it is whole again; raises AgentError where it never is."""
    client = group.client
    first, said = len(client.asked), len(client.states)
    client.rate = RATE
    time.sleep(effort.before)
    before = len(client.asked)
    struck = time.monotonic()
    with fault.strike(group) as since:

        def recovered() -> bool:
            return _recovery(client.asked[before:], since) is not None

        if not client.wait_for(recovered, RECOVERY_TIMEOUT):
            raise AgentError(f"no request was answered within {RECOVERY_TIMEOUT:g} s; {_said(client)}")
        time.sleep(max(0.0, since + fault.seconds - time.monotonic()))
    group.wait_until_whole()
    time.sleep(effort.after)
    client.rate = 0.0
    _drain(client, first)
    group.wait_until_whole()
    asked = client.since(first)
    normal = [each.latency for each in asked[: before - first] if each.end and each.end[0] < struck and each.end[1].ok]
    if not normal:
        raise AgentError(f"no request was answered in {effort.before:g} s without a fault; is the machine too busy?")
    hit = [each.latency for each in asked if each.at < since + 0.5 and each.end and each.end[0] > struck]
    ends = [each.end for each in asked if each.end]
    askings = [asking for each in asked for asking in each.askings]
    recovery, taken = _recovery(asked, since), group.figures()
    return Trial(
        fault=fault.name,
        sent=len(asked),
        ok=sum(result.ok for _, result in ends),
        failed=dict(sorted(Counter(result.error for _, result in ends if not result.ok).items())),
        lost=len(asked) - len(ends),
        wrong=sum(client.is_wrong(each) for each in asked),
        twice=answered_twice(asked, fault),
        repeated=sum(max(0, len(asking.answers) - 1) for asking in askings),
        asked_again=sum(len(each.askings) - 1 for each in asked),
        normal=statistics.median(normal),
        under_way=max(hit, default=0.0),
        slowest=max((at - asking.at for asking in askings for at, _ in asking.answers), default=0.0),
        recovery=recovery if recovery is not None else float("inf"),
        tile_deadline=max((_tile_deadline(state.detail) for state in client.states[said:]), default=0.0),
        orphans=len(group.orphans()),
        figures=taken,
        grown=growth(figures, taken),
    )


def _tile_deadline(detail: str) -> float:
    found = re.search(r"took longer than ([\d.]+) s", detail)
    return float(found[1]) if found else 0.0


def _said(client: Client) -> str:
    return f"the orchestrator is {client.state.state}: {client.state.detail}" if client.state else "it says nothing"


def _drain(client: Client, first: int) -> None:
    """Until all requests from that number on have ended, or could have."""
    client.wait_for(lambda: all(each.end for each in client.asked[first:]), REQUEST_TIMEOUT + SLACK)


def _recovery(asked: Sequence[Asked], since: float) -> float | None:
    """Seconds until the first result of a request that was sent from then on."""
    ends = [each.end[0] for each in asked if each.at >= since and each.end and each.end[1].ok]
    return min(ends) - since if ends else None


def answered_twice(asked: Sequence[Asked], fault: Fault) -> int:
    """Requests of the orchestrator's that ended in two ways, and such as were answered twice without MQTT's doing."""
    ways: dict[str, set[tuple[bool, str]]] = {}
    for each in asked:
        for _, result in each.answers:
            ways.setdefault(result.request, set()).add((result.ok, result.error))
    found = 0 if fault.ends_reopened else sum(len(each) > 1 for each in ways.values())
    if not fault.mqtt_repeats:
        found += sum(len(asking.answers) > 1 for each in asked for asking in each.askings)
    return found


def growth(before: dict[str, Figures], after: dict[str, Figures]) -> dict[str, str]:
    """What processes take beyond what they may, by process."""
    found: dict[str, str] = {}
    for name, old in before.items():
        new = after[name]
        for what, was, now, spare in (
            ("bytes", old.memory, new.memory, SPARE.memory),
            ("descriptors", old.descriptors, new.descriptors, SPARE.descriptors),
            ("threads", old.threads, new.threads, SPARE.threads),
        ):
            if now > was + max(SHARE * was, spare):
                found[name] = f"{was} to {now} {what}"
    return found
