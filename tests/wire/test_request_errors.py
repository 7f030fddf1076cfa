"""Every code a request may end with is listed, documented, and used."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from legion_iot.wire.request_errors import REQUEST_ERRORS

ROOT = Path(__file__).parents[2]
ENDS = {"end_under_way": 1, "end_waiting": 1, "again": 1, "_refused": 1}  # functions, and which argument is the code


def _used() -> Iterator[str]:
    for package in ("runtime", "orchestrator"):
        for path in (ROOT / "legion_iot" / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.Call):
                    continue
                codes = [keyword.value for keyword in node.keywords if keyword.arg == "error"]
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                if name in ENDS:
                    codes.append(node.args[ENDS[name]])
                yield from (code.value for code in codes if isinstance(code, ast.Constant) and code.value)


def test_what_is_used_is_listed_and_what_is_listed_is_used() -> None:
    assert set(_used()) == set(REQUEST_ERRORS)


def test_the_documentation_has_the_list() -> None:
    text = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    table = text.partition("| error | when |")[2].partition("\n\n")[0]
    assert dict(re.findall(r"\| `([a-z-]+)` \| (.+) \|", table)) == REQUEST_ERRORS
