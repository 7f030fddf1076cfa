"""What an agent knows about itself: the file that outlives it, and the commands that add to it."""

from __future__ import annotations

import json
from itertools import repeat
from pathlib import Path

import pytest

from legion_iot.planning.links import Link
from legion_iot.planning.samples import Sample
from legion_iot.planning.traffic import LEAST_PIECE
from legion_iot.profiles import MOST_BYTES, ProfileFile
from legion_iot.transport.link import LinkProber, Shot
from legion_iot.wire import codec
from legion_iot.wire.messages import Command, Measured, Profile
from legion_iot.wire.tensors import fragments
from legion_iot_agent.measurements import MOST_PROBES, Measurements, handling_clock, probe_region
from tests.agent.test_profiler import TAIL, Bench

LINK = Link(0.001, 2e6, 3e6, 0.002, 4e-9)
SAMPLE = Sample("pi", ("0123456789abcdef",), (8.0,), 0.25, 0.01, 5)


def test_the_file_outlives_the_agent(tmp_path: Path) -> None:
    file = ProfileFile(tmp_path / "profile.json", "here:1883")
    file.add((SAMPLE,), LINK)
    again = ProfileFile(tmp_path / "profile.json", "here:1883")
    assert again.profile("pi") == Profile("pi", LINK, (SAMPLE,))
    assert again.profile("another") == Profile("another", LINK, ())
    elsewhere = ProfileFile(tmp_path / "profile.json", "there:1883")
    assert elsewhere.profile("pi") == Profile("pi", None, (SAMPLE,))
    assert [path.name for path in tmp_path.iterdir()] == ["profile.json"]


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", "noise", '{"samples":{"schema":99},"links":{}}', '{"samples":[],"links":[]}', "[" * 100_000,
     '{"samples":{"schema":1,"samples":[],"doubts":{}},"links":{"here:1883":{"latency":"x"}}}',
     '{"samples":{"schema":1,"samples":[],"doubts":{}},"links":{"here:1883":[1,2]}}'],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_written_anew(tmp_path: Path, content: str) -> None:
    (tmp_path / "profile.json").write_text(content, encoding="utf-8")
    file = ProfileFile(tmp_path / "profile.json", "here:1883")
    assert file.profile("pi") == Profile("pi", None, ())
    file.add((SAMPLE,), LINK)
    assert ProfileFile(tmp_path / "profile.json", "here:1883").profile("pi").samples == (SAMPLE,)


def test_absurd_values_in_the_file_are_bounded(tmp_path: Path) -> None:
    content = {
        "samples": {"schema": 1, "samples": [["pi", ["a"], [1.0], 1e300, 0.0, 1]], "doubts": {}},
        "links": {"here:1883": {"latency": -5, "up": 0, "down": 1e300}},
    }
    (tmp_path / "profile.json").write_text(json.dumps(content), encoding="utf-8")
    profile = ProfileFile(tmp_path / "profile.json", "here:1883").profile("pi")
    assert profile.link is not None
    assert profile.link.latency > 0
    assert profile.link.up > 0
    assert profile.link.down < 1e12
    assert all(sample.seconds < 1e4 for sample in profile.samples)


def test_a_disk_that_refuses_keeps_nothing_but_the_agent_goes_on(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory", encoding="utf-8")
    file = ProfileFile(tmp_path / "file" / "profile.json", "here:1883")
    file.add((SAMPLE,), LINK)
    assert file.profile("pi").samples == (SAMPLE,)


def test_what_is_published_is_bounded_and_the_newest(tmp_path: Path) -> None:
    file = ProfileFile(tmp_path / "profile.json", "here:1883")
    many = tuple(Sample("pi", ("f" * 256,), (float(rows),), 0.5) for rows in range(1, 6000))
    file.add(many, None)
    profile = file.profile("pi")
    assert MOST_BYTES // 4 < len(codec.to_json(profile)) <= MOST_BYTES
    assert profile.samples[-1] == many[-1]
    assert codec.from_json(Profile, codec.to_json(profile)) == profile


class Station:
    """Measurements on a device in virtual time, whose echoes come back when they are told to."""

    def __init__(self, directory: Path) -> None:
        self.bench = Bench(directory, lambda: repeat(0.1))
        self.answers: list[Measured] = []
        self.shots: list[tuple[Shot, int]] = []
        self.file = ProfileFile(directory / "profile.json", "here:1883")
        self.measurements = Measurements(self.file, self.bench.profiler, self._prober, self.answers.append)
        self.probers = 0

    def _prober(self) -> LinkProber:
        self.probers += 1
        return LinkProber(self._send, lambda: self.bench.now)

    def _send(self, shot: Shot, number: int) -> bool:
        self.shots.append((shot, number))
        if not shot.echo:
            self.bench.now += 0.002 + shot.size / 2e6
        return True

    def echo(self) -> None:
        shot, number = self.shots[-1]
        self.bench.now += 0.002 + shot.size / 2e6 + shot.size / 4e6
        self.measurements.echoed(number)


def test_a_probe_is_answered_and_kept(tmp_path: Path) -> None:
    station = Station(tmp_path)
    station.measurements.probe(Command("probe", number=5))
    while station.measurements.busy:
        station.measurements.turn()
        if station.measurements.waits:
            station.echo()
    (answer,) = station.answers
    assert (answer.number, answer.reason) == (5, "")
    assert answer.link is not None
    assert answer.link.down == pytest.approx(4e6, rel=1e-3)
    assert ProfileFile(tmp_path / "profile.json", "here:1883").link == answer.link


def test_a_probe_that_is_disturbed_begins_again_and_gives_up_in_the_end(tmp_path: Path) -> None:
    station = Station(tmp_path)
    station.measurements.probe(Command("probe", number=5))
    for _ in range(MOST_PROBES):
        station.measurements.turn()
        station.measurements.turn()
        station.measurements.disturb()
    station.measurements.turn()
    assert station.probers == MOST_PROBES
    (answer,) = station.answers
    assert answer.link is None
    assert "idle" in answer.reason
    assert not station.measurements.busy


def test_profiling_waits_for_the_probe(tmp_path: Path) -> None:
    station = Station(tmp_path)
    station.measurements.profile(station.bench.model, Command("profile", None, 6, (TAIL,), 9.0), "pi")
    station.measurements.probe(Command("probe", number=5))
    while station.measurements.busy:
        station.measurements.turn()
        if station.measurements.waits:
            station.echo()
    assert [answer.number for answer in station.answers] == [5, 6]
    assert [sample.board for sample in station.file.samples] == ["pi"]


def test_a_region_of_the_probe_comes_in_the_fragments_that_are_counted() -> None:
    for size in (1024, LEAST_PIECE, 32 * LEAST_PIECE):
        region = probe_region("ant", 7, size)
        pieces = list(fragments(region.header, region.values, region.origin))
        assert len(pieces) == max(1, size // LEAST_PIECE)
        assert sum(len(piece.body) for piece in pieces) == size
        assert {(piece.header.step, region.target) for piece in pieces} == {(7, "ant")}


def test_a_quota_stretches_what_handling_takes() -> None:
    whole, quarter = (handling_clock(64, quota) for quota in (1.0, 0.25))  # 64: no core is left to those who receive
    before, between, after = whole(), quarter(), whole()
    assert 4 * before <= between <= 4 * after


def test_stopping_forgets_everything(tmp_path: Path) -> None:
    station = Station(tmp_path)
    station.measurements.profile(station.bench.model, Command("profile", None, 6, (TAIL,), 9.0), "pi")
    station.measurements.probe(Command("probe", number=5))
    station.measurements.turn()
    station.measurements.stop()
    assert not station.measurements.busy
    station.measurements.echoed(1)
    assert station.answers == []


def test_what_is_forgotten_is_gone_from_the_disk_as_well(tmp_path: Path) -> None:
    station = Station(tmp_path)
    station.file.add((SAMPLE,), LINK)
    station.measurements.probe(Command("probe", number=5))
    station.measurements.turn()
    station.measurements.forget()
    assert not station.measurements.busy
    for file in (station.file, ProfileFile(tmp_path / "profile.json", "here:1883")):
        assert file.profile("pi") == Profile("pi", None, ())
