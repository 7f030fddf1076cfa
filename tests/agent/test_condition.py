"""What a device says of itself, read from files laid out as Linux lays them out on boards and PCs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from legion_iot_agent.condition import BETTER_AFTER, WORSE_AFTER, Degradation, Device

PAGE = os.sysconf("SC_PAGE_SIZE")
ROOMY = 1 << 40


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="ascii")


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A sound one: 1 GB of memory, half of it free, of which we use 100 pages."""
    write(tmp_path / "proc/meminfo", "MemTotal:        1000000 kB\nMemFree: 1 kB\nMemAvailable:     500000 kB\n")
    write(tmp_path / "proc/self/statm", "900 100 50 1 0 200 0\n")
    return tmp_path


def device(machine: Path, limit: int = ROOMY) -> Device:
    return Device(limit, machine, machine / "sys", machine / "proc")


def zone(machine: Path, number: int, kind: str, degrees: float, **trips: int) -> Path:
    place = machine / f"sys/class/thermal/thermal_zone{number}"
    write(place / "type", f"{kind}\n")
    write(place / "temp", f"{int(degrees * 1000)}\n")
    for index, (trip, at) in enumerate(trips.items()):
        write(place / f"trip_point_{index}_type", f"{trip}\n")
        write(place / f"trip_point_{index}_temp", f"{at * 1000}\n")
    return place


def test_a_machine_that_tells_nothing_is_sound(machine: Path) -> None:
    readings = device(machine).read()
    assert (readings.temperature, readings.throttled, readings.problems) == (None, False, ())
    assert readings.memory_resident == 100 * PAGE
    assert readings.load >= 0


def test_the_hottest_zone_and_its_own_limits(machine: Path) -> None:
    zone(machine, 0, "cpu-thermal", 71.2, active=50, passive=80, critical=95)
    place = zone(machine, 1, "gpu-thermal", 60.0, critical=0)  # some firmware says 0 for none
    found = device(machine)
    assert (found.read().temperature, found.read().problems) == (71.2, ())
    write(place.parent / "thermal_zone0/temp", "80000\n")
    assert found.read().problems == ("cpu-thermal is hot: 80 °C of 80",)
    write(place.parent / "thermal_zone0/temp", "not now\n")
    assert (found.read().temperature, found.read().problems) == (60.0, ())


def test_a_raspberry_pi_says_what_its_firmware_does_now(machine: Path) -> None:
    path = machine / "sys/devices/platform/soc/soc:firmware/get_throttled"
    write(path, "0\n")
    found = device(machine)
    assert not found.read().throttled
    write(path, "50005\n")  # voltage low and throttled, now (bits 0, 2) and before (16, 18)
    readings = found.read()
    assert readings.throttled
    assert readings.problems == ("the board's voltage is too low", "the board's processor is throttled")
    write(path, "50000\n")  # only before
    assert found.read().problems == ()


def test_a_processor_that_is_slowed_down_to_cool_it(machine: Path) -> None:
    fan, cooler = (machine / f"sys/class/thermal/cooling_device{number}" for number in range(2))
    for place, kind, state in ((fan, "pwm-fan", 3), (cooler, "cpufreq-cpu0", 0)):
        write(place / "type", f"{kind}\n")
        write(place / "cur_state", f"{state}\n")
    found = device(machine)
    assert not found.read().throttled
    write(cooler / "cur_state", "2\n")
    assert found.read().throttled


def test_counters_of_throttling_matter_when_they_rise(machine: Path) -> None:
    counter = machine / "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count"
    write(counter, "17\n")
    found = device(machine)
    assert not found.read().throttled
    write(counter, "18\n")
    assert found.read().throttled
    assert not found.read().throttled


def test_memory_that_is_running_out_on_the_machine_or_below_our_limit(machine: Path) -> None:
    assert device(machine, limit=52 * PAGE).read().problems[0].endswith("MB of memory are in use")
    assert device(machine, limit=60 * PAGE).read().problems == (), "pages of files do not count"
    write(machine / "proc/meminfo", "MemTotal: 1000000 kB\nMemAvailable: 49000 kB\n")
    assert device(machine).read().problems == ("49 MB of memory are left on the machine",)


def test_disk_that_is_running_out(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs(machine)
    full = os.statvfs_result((*real[:1], 4096, *real[2:4], 1000, *real[5:]))
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    assert device(machine).read().problems == (f"4 MB of disk are left in {machine}",)


def test_a_device_on_the_edge_does_not_flap() -> None:
    degradation = Degradation()
    for _ in range(10):
        assert not degradation.take(["hot"])
        assert not degradation.take([])
    assert [degradation.take(["hot", "slow"]) for _ in range(WORSE_AFTER)] == [False] * (WORSE_AFTER - 1) + [True]
    assert degradation.detail == "hot; slow"
    for _ in range(10):
        assert not any(degradation.take([]) for _ in range(BETTER_AFTER - 1))
        assert not degradation.take(["hot"])
    assert [degradation.take([]) for _ in range(BETTER_AFTER)] == [False] * (BETTER_AFTER - 1) + [True]
    assert degradation.detail == ""
