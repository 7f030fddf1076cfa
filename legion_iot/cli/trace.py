"""`legion trace`: where a request's time went."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from legion_iot.cli.console import check_place, err, out, progress_line, write_file
from legion_iot.cli.group_options import BASE_TOPIC, BROKER, OPERATOR_CREDENTIALS, operator_of

if TYPE_CHECKING:
    from legion_iot.wire.trace import RequestTrace

LAST = "last"


def trace(
    request: str = typer.Argument(LAST, help="Its id, as its result names it; or `last`, the one that ended last."),
    trace_file: Path | None = typer.Option(None, "--out", help="Write a Chrome trace, for ui.perfetto.dev."),
    broker: str = BROKER,
    base_topic: str = BASE_TOPIC,
    credentials: Path | None = OPERATOR_CREDENTIALS,
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Show what became of a request: who computed, sent and waited when, and for how long.

    The orchestrator remembers the last 64 requests of each model, those included that failed.

    Example: legion trace last --broker mqtt://192.168.1.10 --out trace.json
    """
    check_place(trace_file, "--out")
    with progress_line(quiet=as_json) as progress, operator_of(broker, base_topic, credentials) as operator:
        progress("asking the orchestrator", None)
        traced = operator.trace("" if request == LAST else request)
        where = operator.topics.base
    if trace_file is not None:
        _write(traced, where, trace_file)
    if as_json:
        typer.echo(json.dumps({"schema": 1, **asdict(traced)}, allow_nan=False))
        return
    _show(traced)
    if trace_file is not None:
        err.print(f"{trace_file}: open it at https://ui.perfetto.dev", markup=False, soft_wrap=True)


def _write(traced: RequestTrace, where: str, path: Path) -> None:
    from legion_iot.tracing.chrome import chrome_trace  # noqa: PLC0415

    content = chrome_trace([traced], 0, f"request {traced.request} of {traced.model}, below {where}")
    write_file(path, f"{json.dumps(content, allow_nan=False)}\n".encode(), "--out")


def _show(traced: RequestTrace) -> None:
    from rich.table import Table  # noqa: PLC0415

    from legion_iot.cli.trace_view import COLUMNS, gantt, rows, text_before, text_behind  # noqa: PLC0415

    for line in text_before(traced):
        out.print(line, markup=False, soft_wrap=True)
    if traced.tiles:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for title in COLUMNS:
            text = title in ("agent", "step")
            table.add_column(title.upper(), justify="left" if text else "right", no_wrap=True, overflow="ellipsis")
        for row in rows(traced):
            table.add_row(*row)
        out.print()
        out.print(table)
        out.print("(times in ms, the first from the request's arrival on; sizes in kB)", style="dim", soft_wrap=True)
    for line in ["", *gantt(traced, min(out.width, 120)), "", *text_behind(traced)]:
        out.print(line, markup=False, soft_wrap=True, no_wrap=True)
