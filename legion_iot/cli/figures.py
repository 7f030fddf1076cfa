"""How figures and texts are written for people: so many digits, a unit, and nothing that a terminal acts upon."""

from __future__ import annotations

UNKNOWN = "—"


def seconds_text(seconds: float) -> str:
    """Milliseconds or seconds, with three or four digits."""
    if seconds < 1:
        return f"{1e3 * seconds:.1f} ms"
    return f"{seconds:.2f} s" if seconds < 100 else f"{seconds:.0f} s"


def span_text(seconds: float) -> str:
    """How long ago, or for how long, in its largest unit."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds:.0f} s"


def bytes_text(count: int) -> str:
    """So many bytes, with three digits or so."""
    if count >= 1e9:
        return f"{count / 1e9:.1f} GB"
    if count >= 1e6:
        return f"{count / 1e6:.1f} MB"
    return f"{count / 1e3:.1f} kB" if count >= 1e3 else f"{count} B"


def rate_text(per_second: float) -> str:
    """A number with three digits or so, whatever its size."""
    return f"{per_second:.0f}" if per_second >= 100 else f"{per_second:.1f}" if per_second >= 1 else f"{per_second:.2g}"


def count_text(count: int, what: str) -> str:
    """So many of something."""
    return f"{count:,} {what}{'s' if count != 1 else ''}"


def printable(text: str) -> str:
    """What came from elsewhere, without what moves a terminal's cursor or changes its colours."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
