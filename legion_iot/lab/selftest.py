"""How well a running lab was found to hold its promises, kept as long as it runs."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

from legion_iot.lab.state import LabState, runtime_directory

_FILE = "selftest.json"


def write_result(lab: LabState, ok: bool, worst: float) -> None:
    """Keep that the self-test ended so; `worst` is the largest deviation in percent."""
    result = {"at": time.strftime("%Y-%m-%d %H:%M:%S"), "ok": ok, "worst": round(worst, 2)}
    with contextlib.suppress(OSError):  # the lab has just gone down
        (runtime_directory() / lab.id / _FILE).write_text(json.dumps(result), encoding="utf-8")


def read_result(lab: LabState) -> dict[str, Any] | None:
    """The last result as {at, ok, worst}, or None."""
    try:
        result = json.loads((runtime_directory() / lab.id / _FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return result if isinstance(result, dict) and {"at", "ok", "worst"} <= set(result) else None
