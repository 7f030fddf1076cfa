"""The transport bench, with one round of everything: figures for every way, in lines that fit a terminal."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import numpy as np
import pytest

from legion_iot.bench import transport, transport_links
from legion_iot.bench.transport_ends import REGIONS, make_payloads, payload_bytes
from legion_iot.bench.transport_tools import tools_installed
from legion_iot.lab.namespaces import missing_tools
from legion_iot_broker.mosquitto import find_mosquitto


def test_every_way_is_measured_in_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "SECONDS", {True: dict.fromkeys(transport.NAMES, 0.0)})
    monkeypatch.setattr(transport, "LEAST_ROUNDS", 1)
    monkeypatch.setattr(transport, "CPU_ROUNDS", {True: 1})
    monkeypatch.setattr(transport_links, "missing", lambda: "left out")
    report = transport.run(True, lambda text, fraction: None)
    ways = {(row["way"], row["broker"], row["qos"], row["payload"]) for row in report.rows if "way" in row}
    brokers = ["embedded"] + ["mosquitto"] * (find_mosquitto() is not None)
    expected = {("TCP relay", "", 0, name) for name in transport.NAMES.values()}
    for broker in brokers:
        kinds = ["bare", "plain paho"] + ["mosquitto_pub"] * (broker == "mosquitto" and tools_installed())
        expected |= {("legion", broker, 0, name) for name in transport.NAMES.values()}
        expected |= {(kind, broker, qos, name) for kind in kinds for qos in (0, 1) for name in transport.NAMES.values()}
    if transport.OVER_TLS in report.setting["brokers"]:
        over_tls = (("legion", 0), ("bare", 0), ("bare", 1))
        expected |= {(k, transport.OVER_TLS, q, name) for k, q in over_tls for name in transport.NAMES.values()}
    assert ways == expected
    costs = [row for row in report.rows if "what" in row]
    assert [row["what"] for row in costs] == ["encode + send", "receive + decode"]
    for row in costs:
        assert row["largest"] in row["parts_s_per_gb"]
        assert row["cpu_s_per_gb"] > row["copy_s_per_gb"] > 0
    assert len(report.checks) == 4 * len(brokers)
    assert report.ok == all(check.ok for check in report.checks)
    assert max(len(line) for line in transport.lines(report)) <= 80


@pytest.mark.parametrize("rootless", [False, True])
def test_a_shaped_link_is_measured_beside_a_relay(monkeypatch: pytest.MonkeyPatch, rootless: bool) -> None:
    if reason := transport_links.missing():
        pytest.skip(f"shaping links {reason}")
    monkeypatch.setattr(transport_links, "LEAST_OF_RELAY", {1000: 0.9})
    monkeypatch.setattr(transport_links, "LEAST_BY_PROXY", {100: 0.95})
    monkeypatch.setattr(transport_links, "ROUNDS", {True: {1: 2, 3: 1, 4: 1}})
    lab = secrets.token_hex(3)
    monkeypatch.setattr(transport_links.secrets, "token_hex", lambda size: lab)
    rows, checks = transport_links.run(True, rootless, lambda text, fraction: None)
    for row in rows:
        assert row["shaped_by"] == ("proxy" if rootless or os.geteuid() or missing_tools() else "kernel")
        for title in ("1 MB", "13 MB"):
            assert 0 < row[f"ours {title}"] < 0.2 * row["mbit"], "MB/s on a link of so many Mbit/s"
            assert 0 < row[f"relay {title}"] < 0.2 * row["mbit"]
        assert 0 < row["packed 1 MB"] < 0.4 * row["mbit"]
        assert max(len(line) for line in transport_links.lines(row)) <= 80
    assert len(checks) == (5 if any(row["mbit"] <= 100 for row in rows) else 4)
    assert not list(Path("/run/netns").glob(f"legion-{lab}-*"))


def test_payloads_have_the_sizes_they_are_named_by() -> None:
    sizes = [payload_bytes(index) for index in range(len(REGIONS))]
    assert [values.nbytes for values in make_payloads()] == sizes
    assert sizes[1:] == [1 << 10, 64 << 10, 1 << 20, 224 * 224 * 64 * 4]
    assert np.array_equal(make_payloads()[2], make_payloads()[2])
    assert sizes[transport.LARGEST] == max(sizes)
