"""`legion bench lab`: what a lab's devices are asked to be, beside what they are.

- Slow-down: a small network of convolutions, run on the device as its agent would, beside the processor time of a
  single thread while the others rest: first on one device after the other, then on all at once. Asked for is one over
  the CPU share. A quota gives a share of the processor as fast as it is at the moment, so it is compared with runs just
  before and after; the throttle gives a share of the least time it has seen, so it is compared with the least.
- Link: payload bytes per second up and down, received by a program at the broker's place, beside the rate that was
  asked for (the headers of the packets are part of that), on one device after the other, and on all at once.
- Delay: half the round trip of 9 bytes, less the same at the broker's place, beside what was asked for; devices without
  a delay are not checked.

Figures are medians over rounds. Programs that measure a link are in the device's network, but not held by its quota.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from legion_iot.bench.report import BenchReport, Check
from legion_iot.errors import AgentError
from legion_iot.interruption import temporary_directory, uninterrupted
from legion_iot.lab.cgroups import place
from legion_iot.lab.namespaces import inside
from legion_iot.lab.running import find_up, running_lab
from legion_iot.lab.selftest import write_result
from legion_iot.lab.spec import Device, LabSpec, Link
from legion_iot.lab.state import DeviceState, LabState
from legion_iot.model import tflite
from legion_iot.model.builder import GraphBuilder

# Unequal devices and links that load two cores with 1.2.
LAB = LabSpec("bench", (
    Device("a", "bench", 0.40, link=Link(100, 100)),
    Device("b", "bench", 0.24, link=Link(50, 100, 3)),
    Device("c", "bench", 0.20, link=Link(100, 100, 2)),
    Device("d", "bench", 0.16, link=Link(20, 40, 10)),
    Device("e", "bench", 0.12, link=Link(100, 100)),
    Device("f", "bench", 0.08, link=Link(10, 10, 20)),
))  # fmt: skip
TOLERANCE = 0.1
ANSWER_TIMEOUT = 60.0
FREE_RUNS = 10
ROUND_TRIPS = 20
ASSUMED_MBIT = 1000.0  # of a link without a limit

Progress = Callable[[str, float | None], None]


@dataclass(frozen=True, slots=True)
class Effort:
    """How often everything is measured, and for about how many seconds each time."""

    rounds: int
    seconds: float


FULL, QUICK = Effort(5, 1.6), Effort(1, 1.0)


def run(lab: LabSpec | None, rootless: bool, effort: Effort, progress: Progress) -> BenchReport:
    """Test `lab`, or the one that is up, or one of our own; as root with the kernel's means, then (not quick) without.

    Raises LegionError where the lab cannot be had or one of its devices fails.
    """
    up = find_up() if lab is None and not rootless else None
    others = os.getloadavg()[0]
    if up is not None:
        rows, checks = _test(up, "", effort, progress)
        worst = max((abs(check.value - 1) * 100 for check in checks), default=0.0)
        write_result(up, all(check.ok for check in checks), worst)
        return _report(up.name, others, up.devices, rows, checks)
    wanted = replace(lab or LAB, base_topic="legion-bench")
    rows, checks = [], []
    devices: tuple[DeviceState, ...] = ()
    if rootless or os.geteuid():
        paths: tuple[bool, ...] = (True,)
    else:
        paths = (False,) if effort is QUICK else (False, True)
    for without in paths:
        with running_lab(wanted, "bench", lambda text: progress(text, None), without) as state:
            tested, found = _test(state, "rootless " if without else "", effort, progress)
        rows += tested
        checks += found
        devices = state.devices
    return _report(wanted.name, others, devices, rows, checks)


def _report(
    name: str, others: float, devices: Sequence[DeviceState], rows: list[dict[str, Any]], checks: list[Check]
) -> BenchReport:
    cores = sum(each.device.cpu_share for each in devices)
    return BenchReport(
        "lab",
        {"lab": name, "devices": len(devices), "cores": round(cores, 3), "load before": round(others, 2)},
        rows,
        checks,
    )


@dataclass(slots=True)
class _Measured:
    """One device's figures by name, one for each round."""

    state: DeviceState
    figures: dict[str, list[float]] = field(default_factory=dict)

    def note(self, name: str, value: float) -> None:
        self.figures.setdefault(name, []).append(value)

    def median(self, name: str) -> float:
        return statistics.median(self.figures[name])

    @property
    def throttled(self) -> bool:
        return self.state.cpu_by == "throttle"

    def slowdown(self, held: str) -> float:
        """A throttle goes by the least time it has ever seen, a quota by the processor as fast as it is at present."""
        free = self.figures["free_ms"]
        if self.throttled:
            free = [min(free)] * len(free)
        return statistics.median(h / f for h, f in zip(self.figures[held], free, strict=True))


def _test(lab: LabState, prefix: str, effort: Effort, progress: Progress) -> tuple[list[dict[str, Any]], list[Check]]:
    rounds, seconds = effort.rounds, effort.seconds
    measured = [_Measured(each) for each in lab.devices]
    with contextlib.ExitStack() as stack:
        progress(f"{prefix}starting the probes", None)
        model = stack.enter_context(temporary_directory("legion-bench-")) / "conv.tflite"
        _write_workload(model)
        probes = _Probes.start_all(lab, model, stack)
        for number in range(1, rounds + 1):
            progress(f"{prefix}round {number} of {rounds}", None)
            for each, probe in zip(measured, probes, strict=True):
                _alone(each, probe, seconds / 2)
            _all_at_once(measured, probes, seconds)
    return [_row(each, prefix) for each in measured], [check for each in measured for check in _checks(each, prefix)]


def _alone(each: _Measured, probe: _Probes, seconds: float) -> None:
    link = each.state.device.link
    free = "least" if each.throttled else "free"
    before = probe.compute.ask(free, FREE_RUNS)
    paced = probe.compute.ask("held", seconds)
    after = probe.compute.ask(free, FREE_RUNS)
    each.note("free_ms", (min(before, after) if each.throttled else (before + after) / 2) * 1e3)
    each.note("held_ms", paced * 1e3)
    each.note("up", _mbit(probe.link.ask("up", _bytes(link.up_mbit, seconds))))
    each.note("down", _mbit(probe.link.ask("down", _bytes(link.down_mbit, seconds))))
    # What any two programs on this machine need is no property of the link.
    each.note("delay_ms", (probe.link.ask("delay", ROUND_TRIPS) - probe.direct.ask("delay", ROUND_TRIPS)) * 1e3)


def _all_at_once(measured: Sequence[_Measured], probes: Sequence[_Probes], seconds: float) -> None:
    for probe in probes:
        probe.compute.order("held", seconds)
    for each, probe in zip(measured, probes, strict=True):
        each.note("held_loaded_ms", probe.compute.answer() * 1e3)
    for direction in ("up", "down"):
        for each, probe in zip(measured, probes, strict=True):
            link = each.state.device.link
            probe.link.order(direction, _bytes(link.up_mbit if direction == "up" else link.down_mbit, seconds / 2))
        for each, probe in zip(measured, probes, strict=True):
            each.note(f"{direction}_loaded", _mbit(probe.link.answer()))


def _bytes(mbit: float | None, seconds: float) -> int:
    return int((mbit or ASSUMED_MBIT) * 1e6 / 8 * seconds)


def _mbit(bytes_per_second: float) -> float:
    return bytes_per_second * 8 / 1e6


def _row(each: _Measured, prefix: str) -> dict[str, Any]:
    device = each.state.device
    return {
        "device": prefix + device.name,
        "cpu_by": each.state.cpu_by,
        "link_by": each.state.link_by,
        "asked_slowdown": 1 / device.cpu_share,
        "asked_up_mbit": device.link.up_mbit,
        "asked_down_mbit": device.link.down_mbit,
        "asked_delay_ms": device.link.delay_ms,
        "slowdown": each.slowdown("held_ms"),
        "slowdown_loaded": each.slowdown("held_loaded_ms"),
        **{name: each.median(name) for name in each.figures},
    }


def _checks(each: _Measured, prefix: str) -> Iterator[Check]:
    device = each.state.device
    for held, when in (("held_ms", "alone"), ("held_loaded_ms", "all at once")):
        yield _check(f"{prefix}{device.name}: slow-down / asked, {when}", each.slowdown(held) * device.cpu_share)
    for name, wanted in (("up", device.link.up_mbit), ("down", device.link.down_mbit)):
        for kind, when in (("", "alone"), ("_loaded", "all at once")):
            if wanted is not None:
                yield _check(f"{prefix}{device.name}: {name} / asked, {when}", each.median(name + kind) / wanted)
    if device.link.delay_ms:
        yield _check(f"{prefix}{device.name}: delay / asked", each.median("delay_ms") / device.link.delay_ms)


def _check(name: str, value: float) -> Check:
    return Check.within(name, value, "×", 1 - TOLERANCE, 1 + TOLERANCE)


def _write_workload(path: Path) -> None:
    """Some 20 ms of convolutions: several periods of a quota, so that the cold caches after each pause weigh little."""
    net = GraphBuilder("workload", seed=1)
    x = net.input((1, 48, 48, 64))
    for _ in range(12):
        x = net.conv2d(x, 64, 3, padding="same", activation="relu")
    tflite.write_file(net.finish(x), path)


# --- the programs that measure ---


@dataclass(frozen=True, slots=True)
class _Probes:
    """The two clients on one device, and one at the broker's place that all devices share."""

    compute: _Program
    link: _Program
    direct: _Program

    @classmethod
    def start_all(cls, lab: LabState, model: Path, stack: contextlib.ExitStack) -> list[_Probes]:
        """The server and all clients; `stack` ends them. Raises AgentError."""
        host, _, port = lab.meter.rpartition(":")
        _Program.start("the meter", inside(lab.hub), ["serve", host, port], stack)
        direct = _Program.start("the meter", inside(lab.hub), ["link", host, port], stack)
        return [cls._start(each, direct, model, stack) for each in lab.devices]

    @classmethod
    def _start(cls, state: DeviceState, direct: _Program, model: Path, stack: contextlib.ExitStack) -> _Probes:
        device = state.device
        share = [str(device.cpu_share)] if state.cpu_by == "throttle" else []
        arguments = ["compute", str(model), str(device.threads), str(device.xnnpack), *share]
        compute = _Program.start(device.name, (), arguments, stack)
        place(state.cgroups, compute.pid)  # once it is loaded: that is not what is measured
        host, _, port = state.meter.rpartition(":")
        return cls(compute, _Program.start(device.name, inside(state.namespace), ["link", host, port], stack), direct)


class _Program:
    """A running `legion_iot.lab.meter`, asked and answering line by line."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
        self._name = name
        self._process = process
        self._errors = errors

    @classmethod
    def start(cls, name: str, prefix: Sequence[str], arguments: Sequence[str], stack: contextlib.ExitStack) -> _Program:
        """Until it says that it is ready; `stack` ends it. Raises AgentError."""
        errors = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 — the stack closes it
        with uninterrupted():
            process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "legion_iot.lab.meter", *arguments],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, bufsize=0,
                env={**os.environ, "PYTHONSAFEPATH": "1"}, start_new_session=True,
            )  # fmt: skip
            made = cls(name, process, errors)
            stack.callback(made._end)
        made._line()
        return made

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, what: str, amount: float) -> float:
        self.order(what, amount)
        return self.answer()

    def order(self, what: str, amount: float) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the missing answer will be noticed
            self._process.stdin.write(f"{what} {amount}\n".encode())

    def answer(self) -> float:
        """Raises AgentError where none comes in time."""
        return float(self._line()["value"])

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = b""
        deadline = time.monotonic() + ANSWER_TIMEOUT
        while not line.endswith(b"\n"):
            left = max(0.0, deadline - time.monotonic())
            if not select.select([self._process.stdout], [], [], left)[0]:
                raise AgentError(f"{self._name}: no measurement within {ANSWER_TIMEOUT:g} s; is the machine busy?")
            piece = self._process.stdout.read(4096)
            if not piece:
                raise AgentError(f"{self._name}: the measuring program ended early ({self._last_words()})")
            line += piece
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise AgentError(f"{self._name}: {answer['error']}; run the bench again")
        return answer

    def _last_words(self) -> str:
        self._errors.seek(0)
        return (self._errors.read().decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1]

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
