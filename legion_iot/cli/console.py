"""What every command shares: tables and data on standard output, progress on standard error."""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import typer

from legion_iot.errors import InputError, UsageError
from legion_iot.files import replace_file
from legion_iot.interruption import uninterrupted
from legion_iot.wire.dtypes import WIRES

if TYPE_CHECKING:
    from rich.console import Console

    from legion_iot.configuration.settings import Setting
    from legion_iot.planning.problem import Objective


class _MadeWhenUsed:
    """A console of rich, which takes longer to load than a command that prints nothing by it should."""

    def __init__(self, stderr: bool) -> None:
        self._stderr = stderr

    @cached_property
    def _console(self) -> Console:
        from rich.console import Console  # noqa: PLC0415

        return Console(stderr=self._stderr, highlight=False)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._console, name)

    def __enter__(self) -> Console:
        return self._console.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._console.__exit__(*error)


out = cast("Console", _MadeWhenUsed(stderr=False))
err = cast("Console", _MadeWhenUsed(stderr=True))


@contextlib.contextmanager
def progress_line(quiet: bool = False) -> Iterator[Callable[[str, float | None], None]]:
    """A function that shows what is happening, with a fraction where one is known.

    On a terminal it is one line that changes; elsewhere a line for each new text, or none when `quiet`.
    """
    if not err.is_terminal:
        shown = ""

        def say(text: str, fraction: float | None = None) -> None:
            nonlocal shown
            # Figures that count up are for people who watch.
            if not quiet and (stem := re.sub(r"[\d.,]+", "", text)) != shown:
                shown = stem
                err.print(f"· {text}", markup=False, soft_wrap=True)

        yield say
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415
    from rich.table import Column  # noqa: PLC0415

    # The text comes last, so that a narrow terminal cuts it and nothing else.
    text = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis"))
    with Progress(SpinnerColumn(), TimeElapsedColumn(Column(min_width=7)), text, console=err, transient=True) as line:
        task = line.add_task("")

        def show(text: str, fraction: float | None = None) -> None:
            line.update(task, description=text if fraction is None else f"{text} ({fraction:.0%})")

        yield show


def setting(described: Setting[Any]) -> Any:
    """The option of a command for a setting; what it says is text, and it says nothing unless it is given."""
    text = described.what[0].upper() + described.what[1:]
    return typer.Option(
        None, described.flag, help=f"{text}.", show_default=described.otherwise or str(described.default())
    )


def check_objective(objective: str) -> Objective:
    """The objective, when it is one; raises UsageError."""
    match objective:
        case "latency" | "throughput":
            return objective
    raise UsageError(f"--objective is {objective!r:.40}; give latency or throughput")


def check_wire(wire: str) -> str:
    """The value of `--wire` itself; raises UsageError for one that there is not."""
    if wire not in WIRES:
        raise UsageError(f"--wire is {wire!r}; give {', '.join(WIRES[:-1])} or {WIRES[-1]}")
    return wire


def check_place(path: Path | None, flag: str) -> None:
    """Raises InputError where no file can be put; in the place of a device, none must be."""
    if path is not None and ((path.exists() and not path.is_file()) or not os.access(path.absolute().parent, os.W_OK)):
        raise InputError(f"{path}: cannot be written; choose another place ({flag})")


def write_file(path: Path, content: bytes, flag: str) -> None:
    """Write a file, whole or not at all; raises InputError where it cannot be."""
    try:
        with uninterrupted():
            replace_file(path, content, 0o644, lasting=False)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another place ({flag})") from None


def find_model(model: str, progress: Callable[[str, float | None], None]) -> tuple[Path, str]:
    """The file and the name of a model given as a path or as a name in the zoo.

    What looks like a path is taken for one. Raises UsageError or DownloadError for a name that cannot be had.
    """
    if model.endswith(".tflite") or "/" in model:
        path = Path(model)
        name = re.sub(r"[^a-z0-9._-]+", "-", path.stem.lower()).strip("-._")[:32]
        return path, name or "model"
    from legion_iot import zoo  # noqa: PLC0415 — loads numpy

    return zoo.get(model, progress).path, model


def finite(value: float) -> float | None:
    """For JSON, which has no infinity; null says that two outputs cannot be compared."""
    return value if math.isfinite(value) else None
