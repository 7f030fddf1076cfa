"""`legion simulate`: many seeds of a simulated group, on all cores, and whether every invariant holds."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import islice
from typing import Any

from legion_iot.bench.report import BenchReport, Check
from legion_iot.errors import UsageError
from legion_iot.runtime.simulation.faults import KINDS
from legion_iot.runtime.simulation.run import Outcome, Setting, simulate

MOST_AGENTS = 10_000
AHEAD = 2  # seeds that wait for each process


def setting(agents: int, requests: int, faults: str) -> Setting:
    """What the flags ask for; raises UsageError for what cannot be."""
    if not 1 <= agents <= MOST_AGENTS:
        raise UsageError(f"--agents is {agents}; give 1 to {MOST_AGENTS}")
    if requests < 1:
        raise UsageError(f"--requests is {requests}; give 1 or more")
    kinds = tuple(KINDS) if faults == "all" else tuple(each for each in faults.split(",") if each)
    if faults == "none":
        kinds = ()
    if unknown := [each for each in kinds if each not in KINDS]:
        raise UsageError(f"--faults has {unknown[0]!r:.40}; give some of {', '.join(KINDS)}, or all, or none")
    return Setting(agents, requests, kinds)


def seeds(text: str) -> range:
    """A range of seeds as in `0..99`, both included, or a single one; raises UsageError for what is none."""
    first, dots, last = text.partition("..")
    if first.isdecimal() and (last.isdecimal() if dots else not last) and int(first) <= int(last or first):
        return range(int(first), int(last or first) + 1)
    raise UsageError(f"--seeds is {text!r:.40}; give a range such as 0..99")


def run(wanted: Setting, numbers: range, progress: Callable[[str, float | None], None]) -> BenchReport:
    """Run every seed; the report has a row for each."""
    started = time.monotonic()
    outcomes: list[Outcome] = []
    bad = 0
    for outcome in _outcomes(wanted, numbers):
        outcomes.append(outcome)
        bad += bool(outcome.broken)
        remark = f", {bad} with a broken invariant" if bad else ""
        progress(f"{len(outcomes)} of {len(numbers)} seeds{remark}", len(outcomes) / len(numbers))
    outcomes.sort(key=lambda outcome: outcome.seed)
    return _report(wanted, numbers, outcomes, time.monotonic() - started)


def repeat(wanted: Setting, seed: int) -> str:
    """The command that runs one seed again, and tells what happens."""
    faults = "all" if wanted.kinds == tuple(KINDS) else ",".join(wanted.kinds) or "none"
    return (
        f"legion simulate --agents {wanted.agents} --requests {wanted.requests} --faults {faults} "
        f"--seeds {seed} --trace {seed}"
    )


def _outcomes(wanted: Setting, numbers: range) -> Iterator[Outcome]:
    cores = min(len(os.sched_getaffinity(0)), len(numbers))
    if cores == 1:
        for seed in numbers:
            yield simulate(seed, wanted)
        return
    # Spawned, not forked: a forked process would hold the ends by which the others are to see that we are gone.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(cores, mp_context=context, initializer=_end_with_parent)
    try:
        waiting: set[Future[Outcome]] = set()
        left = iter(numbers)
        while True:
            waiting |= {pool.submit(simulate, seed, wanted) for seed in islice(left, AHEAD * cores - len(waiting))}
            if not waiting:
                return
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    finally:
        # A seed takes minutes where there are many agents; whoever interrupts us shall not wait for it.
        for process in list((pool._processes or {}).values()):
            process.terminate()
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """In a process of the pool: leave signals of the terminal to the parent, and end when it has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _report(wanted: Setting, numbers: range, outcomes: list[Outcome], elapsed: float) -> BenchReport:
    failed = Counter[str]()
    faults = Counter[str]()
    for outcome in outcomes:
        failed.update(outcome.failed)
        faults.update(outcome.faults)
    events = sum(outcome.events for outcome in outcomes)
    told: dict[str, Any] = {
        "agents": wanted.agents,
        "seeds": f"{numbers.start}..{numbers[-1]}",
        "requests": sum(outcome.requests for outcome in outcomes),
        "ok": sum(outcome.answered for outcome in outcomes),
        "failed": dict(sorted(failed.items())),
        "faults": {kind: faults[kind] for kind in wanted.kinds},
        "plans": sum(outcome.epochs for outcome in outcomes),
        "steps": sum(outcome.computed for outcome in outcomes),
        "virtual_seconds": round(sum(outcome.seconds for outcome in outcomes)),
        "events": events,
        "seconds": round(elapsed, 1),
        "events_per_second": round(events / elapsed),
    }
    rows = [_row(wanted, outcome) for outcome in outcomes]
    checks = [
        Check.equal("requests lost", sum(outcome.lost for outcome in outcomes), "requests", 0),
        Check.equal("wrong answers", sum(outcome.wrong for outcome in outcomes), "requests", 0),
        Check.equal("broken invariants", sum(bool(outcome.broken) for outcome in outcomes), "seeds", 0),
    ]
    return BenchReport("simulate", told, rows, checks)


def _row(wanted: Setting, outcome: Outcome) -> dict[str, Any]:
    row: dict[str, Any] = {
        "seed": outcome.seed,
        "requests": outcome.requests,
        "ok": outcome.answered,
        "failed": outcome.failed,
        "plans": outcome.epochs,
        "virtual_seconds": outcome.seconds,
        "events": outcome.events,
        "digest": f"{outcome.digest:08x}",
    }
    if outcome.broken:
        row |= {"broken": outcome.broken, "detail": outcome.detail, "repeat": repeat(wanted, outcome.seed)}
    return row
