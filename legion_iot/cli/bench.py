"""`legion bench`: measure, and say plainly whether the promises are held."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from legion_iot.cli.console import check_place, err, out, progress_line
from legion_iot.errors import UsageError

if TYPE_CHECKING:
    from legion_iot.bench.report import BenchReport

app = typer.Typer(help="Measure what this machine does, beside what is promised.", no_args_is_help=True)


@app.command("cli")
def command_line(
    quick: bool = typer.Option(False, "--quick", help="Fewer rounds; under 50 s on two cores."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """How soon `legion` answers, beside a program that only imports the library it is made with.

    Example: legion bench cli --quick
    """
    from legion_iot.bench import startup as bench  # noqa: PLC0415 — with the others

    with progress_line(quiet=as_json) as progress:
        report = bench.run(quick, progress)
    show(report, as_json, bench.lines)


@app.command("cut")
def cut(
    quick: bool = typer.Option(False, "--quick", help="Fewer rounds; under 50 s on two cores."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """What cutting costs: sub-models beside plain copies, tiles beside the whole model.

    Example: legion bench cut --quick
    """
    from legion_iot.bench import cut as bench  # noqa: PLC0415 — loads numpy and the runtime

    with progress_line(quiet=as_json) as progress:
        report = bench.run(quick, progress)
    show(report, as_json)


@app.command("footprint")
def footprint(
    quick: bool = typer.Option(False, "--quick", help="Fewer rounds; under 50 s on two cores."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """What an agent costs a device: disk, time to start, memory while it has nothing to do.

    Example: legion bench footprint --quick
    """
    from legion_iot.bench import footprint as bench  # noqa: PLC0415 — loads numpy and the runtime

    with progress_line(quiet=as_json) as progress:
        report = bench.run(quick, progress)
    show(report, as_json, bench.lines)


@app.command("lab")
def lab(
    lab: str | None = typer.Option(None, help="A preset, or a TOML file.  [default: the lab that is up, or its own]"),
    rootless: bool = typer.Option(False, "--rootless", help="Test only the way that needs no root."),
    quick: bool = typer.Option(False, "--quick", help="Fewer rounds; under 50 s on two cores."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """What the devices of a lab are asked to be, beside what they are: processor, link rate, delay.

    Example: legion bench lab --quick
    """
    from legion_iot.bench import lab as bench  # noqa: PLC0415 — loads numpy
    from legion_iot.lab.presets import find_lab  # noqa: PLC0415

    with progress_line(quiet=as_json) as progress:
        wanted = None if lab is None else find_lab(lab)
        report = bench.run(wanted, rootless, bench.QUICK if quick else bench.FULL, progress)
    show(report, as_json)


@app.command("planner")
def planner(
    record: Path | None = typer.Option(None, help="Measure a new trace on this machine; takes about an hour."),
    trace: Path | None = typer.Option(None, help="Replay this trace.  [default: the one that came with legion-iot]"),
    quick: bool = typer.Option(False, "--quick", help="Fewer networks and groups; under 50 s on two cores."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """How good the planners' plans are, and what profiling costs them, on recorded times of real runs.

    Example: legion bench planner --quick
    """
    from legion_iot.bench.planner import bench  # noqa: PLC0415 — loads numpy

    if record is not None:
        from legion_iot.bench.planner.record import record as record_trace  # noqa: PLC0415 — loads the runtime

        if trace is not None or quick or as_json:
            raise UsageError("--record measures and prints nothing else; leave --trace, --quick and --json out")
        with progress_line(quiet=False) as progress:
            recorded = record_trace(record, progress)
        out.print(f"{record}: {', '.join(recorded.networks)}; replay with: legion bench planner --trace {record}",
                  markup=False, highlight=False)  # fmt: skip
        return
    with progress_line(quiet=as_json) as progress:
        report = bench.run(trace, quick, progress)
    show(report, as_json, bench.lines, soft_wrap=True)


@app.command("transport")
def transport(
    rootless: bool = typer.Option(False, "--rootless", help="Shape links in the way that needs no root."),
    quick: bool = typer.Option(False, "--quick", help="Fewer rounds; under 50 s on two cores."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """How fast feature maps travel, beside raw TCP, plain paho and mosquitto_pub; all on this machine.

    Example: legion bench transport --quick
    """
    from legion_iot.bench import transport as bench  # noqa: PLC0415 — loads numpy and paho

    with progress_line(quiet=as_json) as progress:
        report = bench.run(quick, progress, rootless)
    show(report, as_json, bench.lines)


@app.command("wire")
def wire(
    quick: bool = typer.Option(False, "--quick", help="Fewer networks, none to download; under 50 s on two cores."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """How small real feature maps get without loss, how fast, and on which links that pays.

    Example: legion bench wire --quick
    """
    from legion_iot.bench import wire as bench  # noqa: PLC0415 — loads numpy and the runtime

    with progress_line(quiet=as_json) as progress:
        report = bench.run(quick, progress)
    show(report, as_json, bench.lines)


@app.command("faults")
def faults(
    fault: list[str] | None = typer.Option(None, "--fault", help="Only this one; may be given several times."),
    soak: float = typer.Option(0.0, "--soak", help="For so many minutes, one fault after the other by turns."),
    quick: bool = typer.Option(False, "--quick", help="Fewer faults; under 50 s on two cores."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """What becomes of requests when agents, the orchestrator or the broker are killed, links cut, and more.

    Example: legion bench faults --fault kill-agent
    """
    from legion_iot.bench.faults import bench  # noqa: PLC0415 — loads numpy and the runtime
    from legion_iot.bench.faults.trial import FULL, QUICK  # noqa: PLC0415

    wanted = bench.chosen(fault or [], quick, soak)
    with progress_line(quiet=as_json) as progress:
        report = bench.run(wanted, soak, QUICK if quick else FULL, progress)
    show(report, as_json, bench.lines, soft_wrap=True)


@app.command("fleet")
def fleet(
    networks: str = typer.Option(
        "", help="From `legion zoo list`; vgg16-int8, say, is quantised.  [default: vgg16,vgg19,…]"
    ),
    groups: str = typer.Option("", help="Such as 2F,3O,2F+1O; up to 12 devices each.  [default: those of the paper]"),
    planners: str = typer.Option("", help="Which take turns; `offload` is the peer from outside.  [default: all]"),
    rate: str = typer.Option("100mbit", help="Of each device's link, in both directions."),
    wire: str = typer.Option("", help="How float32 maps travel between agents.  [default: float32,float16]"),
    experiments: str = typer.Option("", help="Some of latency,throughput,profiling,growth,size,depth.  [default: all]"),
    rounds: int | None = typer.Option(None, help="Turns of each planner, of 3 requests or 2 seconds.  [default: 3]"),
    resume: Path | None = typer.Option(None, help="Keep finished cells in this file, and go on with those in it."),
    picture: Path | None = typer.Option(None, help="A directory that diagrams are drawn into, as PNG files."),
    write: Path | None = typer.Option(None, help="A Markdown file with all tables, and this command."),
    from_file: bool = typer.Option(False, "--from-file", help="Measure nothing: show what --resume holds."),
    rootless: bool = typer.Option(False, "--rootless", help="Emulate devices in the way that needs no root."),
    quick: bool = typer.Option(False, "--quick", help="One small network, one group; under 40 s on two cores."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """The published experiment with real agents, broker and shaped links: every planner, beside published figures.

    Example: legion bench fleet --networks vgg16 --groups 2F,6F --planners single,legion,auto --experiments latency
    """
    from legion_iot.bench.fleet import bench, document, tables  # noqa: PLC0415 — loads numpy and the runtime
    from legion_iot.cli import fleet_pictures  # noqa: PLC0415

    wanted = bench.wanted(bench.Options(networks, groups, planners, wire, experiments, rate, rounds, quick))
    check_place(resume, "--resume")
    check_place(write, "--write")
    if picture is not None:
        fleet_pictures.check_directory(picture)
    command = shlex.join(["legion", *sys.argv[1:]])
    if from_file:
        if resume is None:
            raise UsageError("--from-file shows what a file holds; say which (--resume)")
        report, record = bench.report(resume)
    else:
        with progress_line(quiet=as_json) as progress:
            report, record = bench.run(wanted, resume, rootless, command, progress)
    made = tables.tables(record.finished)
    drawn = [] if picture is None else fleet_pictures.draw(record.finished, picture)
    if write is not None:
        document.write(write, command, record.commands, report, made, drawn)
    show(report, as_json, lambda report: tables.lines(made), soft_wrap=True)


def show(
    report: BenchReport,
    as_json: bool,
    lines: Callable[[BenchReport], Iterable[str]] = lambda report: (),
    *,
    soft_wrap: bool = False,
) -> None:
    """Print the report, for people with what `lines` makes of it first; exits 1 where a check falls short."""
    if as_json:
        typer.echo(json.dumps({
            "schema": 1, "bench": report.name, "ok": report.ok, "setting": report.setting,
            "rows": [_rounded(row) for row in report.rows], "checks": [asdict(check) for check in report.checks],
        }))  # fmt: skip
    else:
        for line in lines(report):
            out.print(line, markup=False, highlight=False, soft_wrap=soft_wrap)
        out.print(", ".join(f"{key} {value}" for key, value in report.setting.items()), markup=False)
        from rich.table import Table  # noqa: PLC0415 — takes time

        table = Table(box=None, pad_edge=False)
        for title in ("CHECK", "VALUE", "TARGET", ""):
            table.add_column(title, justify="right" if title == "VALUE" else "left")
        for check in report.checks:
            style = "green" if check.ok else "red"
            value = (
                f"{check.value:.3f} {check.unit}" if isinstance(check.value, float) else f"{check.value} {check.unit}"
            )
            table.add_row(check.name, value, check.target, "ok" if check.ok else "FALLS SHORT", style=style)
        out.print(table)
    if not report.ok:
        short = [check.name for check in report.checks if not check.ok]
        err.print(f"legion: {len(short)} of {len(report.checks)} checks fall short: {'; '.join(short)}", markup=False)
        raise typer.Exit(1)


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}
