"""How soon the command line answers, beside a program that does no more than import the library it is made with.

Counted is processor time, of which other programs on the machine take nothing. Programs take turns, and of each the
least counts.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from legion_iot import __version__
from legion_iot.bench.report import BenchReport, Check
from legion_iot.errors import AgentError

Say = Callable[[str, float | None], None]

BARE = "python -c 'import typer'"
# What people wait for most often; none of it computes, connects or downloads.
COMMANDS = ("--help", "--version", "zoo --help", "plan --help", "config show --json")
MOST = 3.0  # times the bare import
QUICK, FULL = 7, 25  # rounds
_PATIENCE = 60.0  # seconds for one start


def run(quick: bool, say: Say) -> BenchReport:
    """Starts every command in each round. Raises AgentError where one of them fails."""
    rounds = QUICK if quick else FULL
    programs = {BARE: [sys.executable, "-c", "import typer"]}
    programs |= {f"legion {words}": [sys.executable, "-m", "legion_iot.cli", *words.split()] for words in COMMANDS}
    least = dict.fromkeys(programs, float("inf"))
    for number in range(rounds):
        say(f"starting {len(programs)} programs, round {number + 1} of {rounds}", number / rounds)
        for name, program in programs.items():
            least[name] = min(least[name], processor_seconds(program))
    rows: list[dict[str, Any]] = [
        {"what": name, "seconds": seconds, "ratio": seconds / least[BARE]} for name, seconds in least.items()
    ]
    checks = [
        Check.at_most(f"{row['what']}: processor time / {BARE}", row["ratio"], "×", MOST)
        for row in rows
        if row["what"] != BARE
    ]
    return BenchReport("cli", {"version": __version__, "rounds": rounds}, rows, checks)


def processor_seconds(program: list[str]) -> float:
    """What one run takes of all processors. Raises AgentError where it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(program, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise AgentError(f"{' '.join(program[1:])} failed with {done.returncode}: {last:.200}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def lines(report: BenchReport) -> list[str]:
    """The rows, for people."""
    return [
        f"{row['what']:<32} {1e3 * row['seconds']:5.0f} ms of processor time  {row['ratio']:.2f} ×"
        for row in report.rows
    ]
