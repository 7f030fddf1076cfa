"""Results are as docs/schemas/result.json and docs/protocol.md say."""

from __future__ import annotations

import json
import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from legion_iot.wire import codec
from legion_iot.wire.messages import Answer, OutputDigest, Result
from tests.cli.schemas import DIRECTORY, check

PROTOCOL = Path(__file__).parents[2] / "docs" / "protocol.md"
_FRACTIONS = st.floats(0, 1)
_NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
_ANSWERS = st.builds(
    Answer, st.integers(-5, 5), st.text("abc"), _NUMBERS,
    st.none() | st.tuples(_FRACTIONS, _FRACTIONS, _FRACTIONS, _FRACTIONS),
)  # fmt: skip
_OUTPUTS = st.builds(
    OutputDigest, st.text("abc"), st.just((1, 2)), st.just("int8"), st.just("0" * 64),
    st.none() | st.lists(st.none() | _NUMBERS, max_size=3).map(tuple),
)  # fmt: skip


@given(st.lists(_ANSWERS, max_size=3), st.lists(_OUTPUTS, max_size=2))
def test_what_is_published_is_as_the_schema_says(answers: list[Answer], outputs: list[OutputDigest]) -> None:
    result = Result("r-1", True, "cats", 1, 5.0, tuple(answers), tuple(outputs), kind="boxes")
    text = codec.to_json(result)
    check("result", text.decode() + "\n")
    assert codec.from_json(Result, text) == result


def test_a_result_of_before_is_read() -> None:
    """Those that come from an orchestrator of a version without boxes."""
    text = """{"schema": 1, "request": "r", "ok": true, "model": "m", "epoch": 1, "latency_ms": 1.5,
    "answer": [{"index": 1, "label": "cat", "score": 0.5}], "outputs": [], "error": "", "reason": ""}"""
    assert codec.from_json(Result, text.encode()) == Result("r", True, "m", 1, 1.5, (Answer(1, "cat", 0.5),))


def test_the_documents_example_and_errors_are_those_of_the_schema() -> None:
    text = PROTOCOL.read_text()
    example = next(block for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL) if "latency_ms" in block)
    check("result", json.dumps(json.loads(example.replace("0607a41b…", "0" * 64))) + "\n")
    schema = json.loads((DIRECTORY / "result.json").read_text())["properties"]
    table = text[text.index("| error | when |") :].partition("\n\n")[0]
    assert ["", *re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE)] == schema["error"]["enum"]
    kinds = text[text.index("| kind | models |") :].partition("\n\n")[0]
    assert ["", *re.findall(r"^\| `([a-z]+)` \|", kinds, re.MULTILINE)] == schema["kind"]["enum"]
