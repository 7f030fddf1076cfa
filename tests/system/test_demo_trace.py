"""`legion demo --trace`, as a user runs it."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

from tests.cli.schemas import check

from .conftest import Stage
from .networks import residual_classifier


def test_the_trace_of_a_small_network(stage: Stage, photograph: Path, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    model = residual_classifier(tmp_path / "small.tflite")
    done = stage.run(
        "demo", "--json", "--model", str(model), "--image", str(photograph), "--requests", "3", "--trace", str(path)
    )
    assert done.returncode == 0, done.stderr
    report = check("demo", done.stdout)
    assert report["trace"] == str(path)
    trace = json.loads(path.read_bytes())
    events = trace["traceEvents"]
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert set(names.values()) == {"orchestrator", "agent-1", "agent-2", "agent-3"}

    about = trace["otherData"]
    assert report["accounted"] == {name: about[name] for name in ("requests", "covered", "overlap")}
    assert 0 < about["overlap"] < 1

    requests = [e["args"] for e in events if e.get("cat") == "latency" and e["ph"] == "b"]
    assert len(requests) + trace["otherData"]["requests_left_out_for_lost_timings"] == 3
    assert requests
    for account in requests:
        assert account["covered"] >= 0.9 or any("ms in transit" in text for text in account["missing"])
        assert abs(sum(account["critical_path_ms"].values()) - account["latency_ms"]) < 0.05

    for pid, name in names.items():
        row = sorted((e for e in events if e["ph"] == "X" and e["pid"] == pid and e["tid"] == 1), key=lambda e: e["ts"])
        assert all(before["ts"] + before["dur"] <= after["ts"] + 0.01 for before, after in pairwise(row))
        if name != "orchestrator":
            assert any(e["name"].startswith("compute") for e in row)
            assert all(e["dur"] >= 0 for e in row)
    sent = [e["args"]["bytes"] for e in events if e.get("cat") == "sending" and e["ph"] == "X"]
    assert sum(sent) > 0


def test_places_where_no_trace_can_go(stage: Stage, photograph: Path, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere" / "trace.json", Path("/dev/null")):
        done = stage.run("demo", "--image", str(photograph), "--trace", str(path))
        assert done.returncode == 3
        assert done.stderr.splitlines() == [f"legion: {path}: cannot be written; choose another place (--trace)"]
