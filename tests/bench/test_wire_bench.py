"""The bench of packing, on a small network: every codec in every form, and decisions that follow from the figures."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from legion_iot.bench import wire
from legion_iot.model import tflite
from legion_iot.model.builder import GraphBuilder


def test_every_codec_is_measured_on_real_maps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    net = GraphBuilder("relus", seed=1)
    x = net.input((1, 48, 48, 3))
    for _ in range(4):
        x = net.conv2d(x, 32, 3, padding="same", activation="relu")
    tflite.write_file(net.finish(x), tmp_path / "relus.tflite")
    monkeypatch.setattr(wire.zoo, "get", lambda name, progress: SimpleNamespace(path=tmp_path / "relus.tflite"))
    monkeypatch.setattr(wire, "QUICK", (wire.CHECKED,))
    report = wire.run(True, lambda text, fraction: None)
    codecs = wire._codecs()
    measured = {(row["wire"], row["codec"]): row for row in report.rows if "codec" in row}
    assert set(measured) == {(form, codec) for form in ("float32", "float16", "int8") for codec in codecs}
    for row in measured.values():
        assert row["exact"] is True
        assert row["ratio"] >= 1
    assert measured["float32", "zeros"]["ratio"] > 1.5, "a ReLU leaves about half"
    decisions = [row for row in report.rows if "share" in row]
    assert [row["share"] for row in decisions] == list(wire.SHARES)
    for row in decisions:
        for mbit in wire.MBIT:
            assert row[f"{mbit} Mbit/s"] == (mbit < row["most_mbit"])
    assert max(len(line) for line in wire.lines(report)) <= 80
