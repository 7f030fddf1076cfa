"""What commands print where nobody looks on: a line for each thing, for grep and awk.

A line is a kind, a name, and `key=value` for each field, always all of them in the same order: `-` where nobody knows,
`yes` or `no`, numbers in the unit that the key names, texts in quotation marks unless they are one word.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

from legion_iot.cli.figures import printable

_WORD = re.compile(r"[^\s\"'=]+")


def line(kind: str, name: str, fields: Mapping[str, Any]) -> str:
    """The line of a thing; a field may be a tuple of texts or of dataclasses."""
    return " ".join((kind, name, *(f"{key}={_text(value)}" for key, value in fields.items())))


def fields(kind: type[Any], view: Any, *but: str, prefix: str = "") -> dict[str, Any]:
    """Those of a dataclass, in their order, but for some; None where there is none of that kind."""
    names = [each.name for each in dataclasses.fields(kind) if each.name not in but]
    return {f"{prefix}{name}": None if view is None else getattr(view, name) for name in names}


def _text(value: Any) -> str:
    match value:
        case None | "" | ():
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.6g}"
        case tuple():
            return _quoted(",".join(_item(each) for each in value))
    return _quoted(printable(str(value)))


def _item(value: Any) -> str:
    """One of several: what has parts has them between colons."""
    if dataclasses.is_dataclass(value):
        return ":".join(_text(each) for each in fields(type(value), value).values())
    return printable(str(value))


def _quoted(text: str) -> str:
    return text if _WORD.fullmatch(text) and text != "-" else json.dumps(text, ensure_ascii=False)
