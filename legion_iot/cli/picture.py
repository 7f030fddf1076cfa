"""Pictures of plans and costs as PNG files; matplotlib is loaded when one is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from legion_iot.cli.console import check_place
from legion_iot.errors import InputError, UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS_PER_INCH = 150


def check_picture(path: Path) -> None:
    """Raises UsageError without matplotlib, or for another kind of file than PNG; InputError where none can be put."""
    if path.suffix.lower() != ".png":
        raise UsageError(f"--picture is {str(path)!r}; give a file that ends in .png")
    check_place(path, "--picture")
    try:
        import matplotlib  # noqa: F401, PLC0415 — an extra
    except ImportError:
        raise UsageError("--picture needs matplotlib; install it with: pip install 'legion-iot[plot]'") from None


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches; it lays out its axes itself."""
    from matplotlib.figure import Figure  # noqa: PLC0415 — an extra

    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, path: Path) -> None:
    """Raises InputError where the disk refuses."""
    try:
        figure.savefig(path, dpi=DOTS_PER_INCH)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another place (--picture)") from None
