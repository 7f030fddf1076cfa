"""`legion verify`: prove that a model can be cut."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from legion_iot.cli.console import check_wire, err, find_model, finite, out, progress_line
from legion_iot.errors import UsageError

TIMEOUT = 1800.0  # seconds for one verification


def verify(
    model: str = typer.Argument(help="A .tflite file, or a name from `legion zoo list`."),
    tiles: str = typer.Option("", help="N strips or RxC tiles for every block.  [default: a seeded sample]"),
    blocks: str = typer.Option("", help="Number of blocks, or 'all' for one per unit.  [default: a seeded sample]"),
    seed: int = typer.Option(0, help="Of the sample and of the input."),
    image: Path | None = typer.Option(None, help="A picture as input.  [default: seeded values]"),
    input_shape: str = typer.Option("", help="For a model with open sizes, e.g. 1x320x320x3."),
    builtin: bool = typer.Option(False, "--no-xnnpack", help="Use the runtime's builtin kernels."),
    wire: str = typer.Option(
        "float32",
        help="float16 or int8: send the maps at every cut in that form, and compare the outputs only. "
        "Passes when they differ by no more than 1 % (float16) or 10 % (int8) of the largest value, and a "
        "classifier's best class stays.",
    ),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Cut a model into tiles, run them all here, stitch them, and compare with the whole model at every cut.

    Example: legion verify mobilenet-v2 --tiles 2x2 --blocks all
    """
    tiling, count = _tiling(tiles), _count(blocks)
    check_wire(wire)
    # Imported here, so that a wrong flag is answered before numpy and the runtime are loaded.
    from legion_iot.bench.verify import Question, verify_file  # noqa: PLC0415
    from legion_iot_agent.isolation import run_isolated  # noqa: PLC0415

    with progress_line(quiet=as_json) as progress:
        path, name = find_model(model, progress)
        sampled = not tiles and not blocks
        question = Question(
            path, input_shape, image, seed, None if sampled else tiling or (3, 1), count, not builtin, wire
        )
        verdict = run_isolated(verify_file, (question,), progress, TIMEOUT)
    report = {"schema": 1, "ok": verdict.ok, "exact": verdict.exact, "model": name, **asdict(verdict)}
    del report["where"]
    if as_json:
        errors = {key: finite(report[key]) for key in ("max_abs_error", "max_rel_error")}
        typer.echo(json.dumps({**report, **errors}))
    else:
        _print(report)
    if not verdict.trunk_units:
        err.print(
            f"nothing to cut: {verdict.trunk_ended_by}; the whole model runs on one device",
            markup=False,
            soft_wrap=True,
        )
    if not verdict.ok:
        wrong = f"{verdict.where} differs" if verdict.where else "the best class differs"
        err.print(f"legion: {wrong} from the whole model's", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(1)


def _print(report: dict[str, Any]) -> None:
    result = "equal the whole model's, bit for bit" if report["exact"] else (
        f"differ by {report['max_abs_error']:g} at most ({report['max_rel_error']:.2g} of the largest value; "
        f"allowed: {report['bound']:g})"
    )  # fmt: skip
    what = f"{report['tensors_compared']} stitched tensors"
    if report["wire"] != "float32":
        what = f"with maps as {report['wire']} at every cut, the outputs"
        result += {True: "; the best class stays", False: "; the best class changes", None: ""}[
            report["top_class_stays"]
        ]
    out.print(f"{report['model']}: {what} {result}", markup=False, soft_wrap=True)
    ended = f", ended by: {report['trunk_ended_by']}" if report["trunk_ended_by"] else ""
    out.print(f"trunk: {report['trunk_units']} of {report['units']} units{ended}", markup=False, soft_wrap=True)
    out.print(
        f"tilings tried: {report['tilings_tried']}; most live tensors at a cut: {report['live_tensors_max']}; "
        f"{report['runtime']}, {report['kernel_path']} kernels", markup=False, soft_wrap=True,
    )  # fmt: skip


def _tiling(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    match = re.fullmatch(r"(\d{1,4})(?:x(\d{1,4}))?", text)
    if not match or int(match[1]) < 1 or int(match[2] or 1) < 1:
        raise UsageError(f"--tiles is {text!r}; give a number of strips (4) or rows x columns (2x2)")
    return int(match[1]), int(match[2] or 1)


def _count(text: str) -> int | None:
    """The number of blocks, three unless said; None for one per unit."""
    if not text:
        return 3
    if text == "all":
        return None
    if not text.isdecimal() or not 1 <= int(text) <= 100_000:
        raise UsageError(f"--blocks is {text!r}; give a number of 1 or more, or 'all'")
    return int(text)
