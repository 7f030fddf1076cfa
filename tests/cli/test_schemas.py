"""The schemas themselves: each can be used, names its version, and says of every object all that may stand in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.cli.schemas import DIRECTORY, check

FILES = sorted(DIRECTORY.glob("*.json"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_schema_is_one_and_is_complete(path: Path) -> None:
    schema = json.loads(path.read_text())
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == f"urn:legion-iot:schema:{path.stem}:{schema['properties']['schema']['const']}"
    assert schema["title"]
    assert schema["required"][0] == next(iter(schema["properties"])) == "schema"
    assert [where for where, each in objects(schema) if "additionalProperties" not in each] == []


def objects(schema: Any, where: str = "$") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every part of a schema that describes objects."""
    if isinstance(schema, list):
        for number, each in enumerate(schema):
            yield from objects(each, f"{where}[{number}]")
    elif isinstance(schema, dict):
        if schema.get("type") == "object" or "object" in schema.get("type", ()):
            yield where, schema
        for key, each in schema.items():
            yield from objects(each, f"{where}.{key}")


@pytest.mark.parametrize(
    "text",
    ['{"schema": 2, "networks": []}\n', '{"schema": 1}\n', '{"networks": [], "schema": 1}\n', "[]\n",
     '{"schema": 1, "networks": [], "more": 1}\n', '{"schema": 1, "networks": []}'],
)  # fmt: skip
def test_what_is_not_as_the_schema_says_is_found(text: str) -> None:
    with pytest.raises((AssertionError, StopIteration)):
        check("zoo list", text)
