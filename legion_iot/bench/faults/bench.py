"""`legion bench faults`: requests at a steady rate, one fault after the other, and what became of the requests.

- Everything is a process of its own: broker, orchestrator, three agents. The agents compute as slowly as with 3 %
  of a core, so that a request takes a while; one agent's link goes through a proxy of ours.
- Before the first fault all processes are put under more load than they can carry. What they take after each fault is
  compared with what they take then. A soak compares processes that live on with themselves, too: the last third of the
  time with the one before.
- Recovery: from the fault (where the broker is gone, from its return) to the first result of a request sent afterwards.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

from legion_iot.bench.faults.group import AGENTS, Group, running_group
from legion_iot.bench.faults.kinds import FAULTS, Fault
from legion_iot.bench.faults.network import prepare
from legion_iot.bench.faults.programs import Figures
from legion_iot.bench.faults.trial import RATE, SLACK, Effort, Trial, run_trial, warm_up
from legion_iot.bench.report import BenchReport, Check
from legion_iot.errors import LegionError, UsageError
from legion_iot.interruption import temporary_directory
from legion_iot.runtime.progress import LEAST_SECONDS
from legion_iot.runtime.requests import REQUEST_TIMEOUT
from legion_iot.toml_tables import suggestion

NORMALS = 3  # latencies that a killed agent may cost, beside the tile's deadline
WARM_UP = 2.0  # seconds
SOAK_SEED = 6
MOST_SOAK = 24 * 60  # minutes
CREEP = 1_500_000  # bytes by which the memory of a process may differ between two parts of a soak

Progress = Callable[[str, float | None], None]


def chosen(names: Sequence[str], quick: bool, soak_minutes: float) -> list[Fault]:
    """The faults of these names, or all; raises UsageError for a name that is none, or too many minutes."""
    if not 0 <= soak_minutes <= MOST_SOAK:
        raise UsageError(f"--soak is {soak_minutes:g}; give 1 to {MOST_SOAK} minutes")
    known = {fault.name: fault for fault in FAULTS}
    if unknown := [name for name in names if name not in known]:
        raise UsageError(f"--fault {unknown[0]!r:.40} is not known; {suggestion(unknown[0], known)}")
    if names:
        return [known[name] for name in names]
    # A soak looks at processes that live on: an orchestrator that is killed again and again cannot grow.
    return [f for f in FAULTS if (f.quick or not quick) and not (soak_minutes and (f.ends_reopened or f.persistent))]


def run(faults: Sequence[Fault], soak_minutes: float, effort: Effort, progress: Progress) -> BenchReport:
    """Every fault once, or for so many minutes one after the other by chance.

    Raises UsageError where nothing of it can be done here, LegionError where a group never recovers.
    """
    needs = {fault.name: fault.needs() for fault in faults}
    able = [fault for fault in faults if not needs[fault.name]]
    skipped = [{"fault": name, "skipped": reason} for name, reason in needs.items() if reason]
    if not able:
        raise UsageError(f"nothing of this can be done here: {'; '.join(sorted(set(needs.values())))}")
    trials: list[Trial] = []
    left: list[str] = []
    unruly: list[str] = []
    titles: list[str] = []
    with temporary_directory("legion-faults-") as directory:
        directory.chmod(0o755)
        progress("computing the right answers", None)
        work = prepare(directory)
        for persistent in (False, True):
            mine = [fault for fault in able if fault.persistent == persistent]
            if not mine:
                continue
            place = directory / ("kept" if persistent else "plain")
            place.mkdir()
            progress("starting a group", None)
            with running_group(work, place, persistent) as group:
                titles.append(group.title)
                trials += _trials(group, mine, soak_minutes, effort, progress)
                ended = end_in_order(group)
                left += ended[0]
                unruly += ended[1]
    setting = {"broker": " and ".join(titles), "agents": len(AGENTS), "requests per second": RATE}
    if soak_minutes:
        setting["minutes"] = soak_minutes
    return BenchReport(
        "faults", setting, [*(each.row() for each in trials), *skipped], _checks(trials, left, unruly, soak_minutes > 0)
    )


def _trials(
    group: Group, faults: Sequence[Fault], soak_minutes: float, effort: Effort, progress: Progress
) -> Iterator[Trial]:
    progress("warming up", None)
    figures = warm_up(group, WARM_UP)
    if not soak_minutes:
        for number, fault in enumerate(faults):
            progress(fault.name, number / len(faults))
            yield _run(group, fault, figures, effort)
        return
    random_ = random.Random(SOAK_SEED)
    begun = time.monotonic()
    while (share := (time.monotonic() - begun) / (60 * soak_minutes)) < 1:
        fault = random_.choice(faults)
        progress(fault.name, share)
        yield _run(group, fault, figures, effort)


def _run(group: Group, fault: Fault, figures: dict[str, Figures], effort: Effort) -> Trial:
    try:
        return run_trial(group, fault, figures, effort)
    except LegionError as error:
        raise type(error)(f"{fault.name}: {error}") from None


def end_in_order(group: Group) -> tuple[list[str], list[str]]:
    """Tell all to end: topics of assignments that stay retained, and the programs that did not end in order."""
    unruly = [each.name for each in (*group.agents.values(), group.orchestrator) if not each.end()]
    left = [message.topic for message in group.retained()]
    return [topic for topic in left if "/assignment/" in topic], unruly


def _checks(trials: Sequence[Trial], left: Sequence[str], unruly: Sequence[str], soaks: bool) -> list[Check]:
    checks = [
        Check.equal("requests lost", sum(each.lost for each in trials), "requests", 0),
        Check.equal("wrong results", sum(each.wrong for each in trials), "requests", 0),
        Check.equal("requests ended twice", sum(each.twice for each in trials), "requests", 0),
        Check.at_most("slowest end", max(each.slowest for each in trials), "s", REQUEST_TIMEOUT + SLACK),
        Check.equal("assignments of no plan in force", sum(each.orphans for each in trials), "topics", 0),
        Check.equal("assignments retained at the end", len(left), "topics", 0),
        Check.equal("programs that did not end in order", len(unruly), "programs", 0),
    ]
    for each in trials:
        if each.fault == "kill-agent":
            most = (NORMALS * each.normal + LEAST_SECONDS) * 1e3
            checks.append(Check.at_most(f"{each.fault}: longest latency", each.under_way * 1e3, "ms", most))
    if soaks:
        checks += [
            Check.at_most(f"{name}: growth from the second third to the last", size / 1e6, "MB", CREEP / 1e6)
            for name, size in creeping(trials).items()
        ]
    grown = {f"{name} after {each.fault}: {what}" for each in trials for name, what in each.grown.items()}
    checks.append(Check.equal(f"processes that take more ({'; '.join(sorted(grown)) or 'none'})", len(grown), "", 0))
    return checks


def creeping(trials: Sequence[Trial]) -> dict[str, int]:
    """By how many bytes processes that live on have grown from the second third of the trials to the last, by name."""
    third = len(trials) // 3
    last = trials[-third:] if third else []
    found = {}
    for name, end in (last[-1].figures if last else {}).items():
        early, late = (
            [each.figures[name].memory for each in some if each.figures[name].pid == end.pid]
            for some in (trials[third : 2 * third], last)
        )
        if early and late:
            found[name] = int(statistics.median(late) - statistics.median(early))
    return found


def lines(report: BenchReport) -> list[str]:
    """The rows, for people."""
    shown = [
        f"{'FAULT':<30}{'SENT':>5}{'OK':>5}{'LOST':>5}{'WRONG':>6}{'RECOVERY':>10}{'NORMAL':>9}{'LONGEST':>9}  FAILED"
    ]
    for row in report.rows:
        if "skipped" in row:
            shown.append(f"{row['fault']:<30}skipped: {row['skipped']}")
            continue
        failed = ", ".join(f"{count} {code}" for code, count in row["failed"].items())
        shown.append(
            f"{row['fault']:<30}{row['sent']:>5}{row['ok']:>5}{row['lost']:>5}{row['wrong']:>6}"
            f"{row['recovery_s']:>8.2f} s{row['normal_ms']:>6.0f} ms{row['under_way_ms']:>6.0f} ms  {failed or '–'}"
        )
    return shown
