"""`legion simulate`: what it prints, and how it says that something is wrong."""

from __future__ import annotations

import pytest

from tests.cli.schemas import check
from tests.cli.test_commands import run


def test_figures_and_checks() -> None:
    done = run(
        "legion", "simulate", "--agents", "2", "--seeds", "0..2", "--requests", "5", "--faults", "crash", "--json"
    )
    assert done.returncode == 0, done.stderr
    told = check("simulate", done.stdout)
    setting = told["setting"]
    assert [row["seed"] for row in told["rows"]] == [0, 1, 2]
    assert setting["ok"] + sum(setting["failed"].values()) == setting["requests"] == 3 * 8
    assert setting["faults"]["crash"] >= 30
    assert setting["events_per_second"] > 0
    assert {check["name"]: check["value"] for check in told["checks"]} == {
        "requests lost": 0, "wrong answers": 0, "broken invariants": 0,
    }  # fmt: skip
    assert list(told)[-1] == "checks"


def test_a_trace_tells_what_happens() -> None:
    done = run("legion", "simulate", "--agents", "2", "--trace", "4", "--requests", "2", "--faults", "crash,cut")
    assert done.returncode == 0, done.stderr
    assert "fault crash agent-" in done.stdout
    assert "request-1 is answered" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--agents", "0"], "--agents is 0"),
        (["--faults", "crash,meteor"], "'meteor'"),
        (["--seeds", "9..3"], "'9..3'"),
        (["--seeds", "-1..3"], "'-1..3'"),
        (["--seeds", "1..x"], "'1..x'"),
        (["--requests", "0"], "--requests is 0"),
        (["--trace", "1", "--json"], "leave --json out"),
    ],
)
def test_what_cannot_be_is_one_line(arguments: list[str], said: str) -> None:
    done = run("legion", "simulate", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
