"""What commands print for programs, held against the schemas of docs/schemas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

DIRECTORY = Path(__file__).parents[2] / "docs" / "schemas"
SHARED = {"simulate": "bench"}  # prints a report as those of `legion bench` are


def schema_file(command: str) -> Path:
    """Where the schema of a command such as `zoo list` is; that of `bench` holds for all commands below it."""
    words = SHARED.get(command, command).split()
    paths = [DIRECTORY / f"{'-'.join(words[:count])}.json" for count in range(len(words), 0, -1)]
    return next((path for path in paths if path.is_file()), paths[0])


def check(command: str, text: str) -> dict[str, Any]:
    """Reads the one object that a command such as `zoo list` printed; fails where it is not as its schema says."""
    assert text.count("\n") == 1, "not one line"
    assert text.endswith("\n")
    read: dict[str, Any] = json.loads(text, parse_constant=_no_constant)
    assert next(iter(read)) == "schema"
    schema = json.loads(schema_file(command).read_text())
    wrong = [f"{error.json_path}: {error.message:.300}" for error in Draft202012Validator(schema).iter_errors(read)]
    assert wrong == []
    return read


def _no_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")
