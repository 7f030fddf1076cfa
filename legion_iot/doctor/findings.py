"""What a check has found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "failure"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: how it went, what was found, and what to do about it, which is empty where nothing is to be done.

    `about` is "machine", "broker" or "group".
    """

    about: str
    check: str
    level: Level
    found: str
    cure: str = ""
