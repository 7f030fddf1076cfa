"""`docs/benchmarks.md`: the tables of a run, the command that made them, and the conditions they were made under."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from legion_iot.bench.fleet.table import Table
from legion_iot.bench.report import BenchReport
from legion_iot.errors import InputError
from legion_iot.files import replace_file

TITLES: Mapping[str, str] = MappingProxyType(
    {
        "speedup": "speed-up over one device, by group",
        "predicted": "predicted against measured latency",
        "account": "where the time of auto goes, measured and predicted",
        "growth": "latency on more and more devices",
        "size": "latency by image size",
        "depth": "latency by depth",
    }
)

_HEAD = """# Benchmarks

All figures here were printed by one command, which wrote this page too:

    {command}
{measured}
Agents, broker, orchestrator and client are real processes on one machine; networks are run by TFLite, links shaped in
both directions. An emulated device has a share of a core: F stands for a Firefly-RK3399, O for an Odroid-XU4. Planners
take turns within one run, so that what else the machine does hits all alike; every output is compared with the whole
model's. The broker's own link and the orchestrator's are not limited. Planners are described in
[planning.md](planning.md), labs in [lab.md](lab.md). A network whose name ends in `-int8` was quantised after training
by Google's ai-edge-quantizer: its maps travel as they are, as int8, and *wire*, which says how float32 maps travel, is
nothing to it.

**Energy** is not given in joules: what a board draws while it computes, sends and waits is not known here, and an
emulated device draws nothing of its own. Of the Firefly-RK3399 no measurement by load was found; an Odroid-XU4 with all
cores busy draws 5.5 to 8.5 W from 500 to 1400 MHz (github.com/ThomasKaiser/sbc-bench, Efficiency_Graphing.md), so the
clock alone decides more than a planner does. What can be measured instead is below: processor time of this machine's
cores, and bytes on the links, for each request and planner.
"""


def write(
    path: Path,
    command: str,
    measured_by: Sequence[str],
    report: BenchReport,
    tables: Sequence[Table],
    pictures: Sequence[Path] = (),
) -> None:
    """The page shows the pictures from where they are. Raises InputError where the file cannot be written."""
    lines = [*_lines(command, measured_by, report, tables)]
    for picture in pictures:
        place = os.path.relpath(picture, path.parent)
        lines += ["", f"![{TITLES[picture.stem]}]({place})"]
    try:
        replace_file(path, "\n".join([*lines, ""]).encode(), 0o644)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another place (--write)") from None


def _lines(command: str, measured_by: Sequence[str], report: BenchReport, tables: Sequence[Table]) -> Iterator[str]:
    others = [each for each in measured_by if each != command]
    measured = "\nThey were measured by:\n\n" + "".join(f"    {each}\n" for each in others) if others else ""
    yield _HEAD.format(command=command, measured=measured)
    yield f"{'; '.join(f'{key}: {_shown(value)}' for key, value in report.setting.items())}."
    for table in tables:
        yield ""
        yield from table.markdown()
    yield ""
    yield "## Checks"
    yield ""
    yield "| check | value | target | |"
    yield "|---|--:|---|---|"
    for check in report.checks:
        verdict = "ok" if check.ok else "falls short"
        yield f"| {check.name} | {_digits(check.value)} {check.unit} | {check.target} | {verdict} |"


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _digits(value: float) -> str:
    """Three digits, and of a count all of them."""
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"
