"""What control groups allow, read from files laid out as each version of them does."""

from __future__ import annotations

import os
from pathlib import Path

from legion_iot_agent.limits import Memory, give_back_memory, memory_bytes, processor_quota

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="ascii")


def version_1(root: Path) -> tuple[Path, Path]:
    write(
        root / "mounts",
        f"proc /proc proc rw 0 0\ncgroup {root}/memory cgroup rw,memory 0 0\n"
        f"cgroup {root}/cpu cgroup rw,cpu,cpuacct 0 0\n",
    )
    write(root / "own", "4:memory:/lab/f1\n1:cpu,cpuacct:/lab/f1\n0::/\n")
    return root / "mounts", root / "own"


def version_2(root: Path) -> tuple[Path, Path]:
    write(root / "mounts", f"cgroup2 {root}/all cgroup2 rw,nosuid 0 0\n")
    write(root / "own", "0::/lab/f1\n")
    return root / "mounts", root / "own"


def test_version_1(tmp_path: Path) -> None:
    files = version_1(tmp_path)
    assert memory_bytes(*files) == MACHINE
    assert processor_quota(*files) is None
    write(tmp_path / "memory/memory.limit_in_bytes", "9223372036854771712\n")
    write(tmp_path / "memory/lab/f1/memory.limit_in_bytes", "100000000\n")
    write(tmp_path / "memory/lab/memory.limit_in_bytes", "300000000\n")
    write(tmp_path / "cpu/cpu.cfs_quota_us", "-1\n")
    write(tmp_path / "cpu/cpu.cfs_period_us", "100000\n")
    write(tmp_path / "cpu/lab/f1/cpu.cfs_quota_us", "3600\n")
    write(tmp_path / "cpu/lab/f1/cpu.cfs_period_us", "20000\n")
    assert memory_bytes(*files) == 100_000_000
    assert processor_quota(*files) == 0.18


def test_version_2_the_least_limit_above_counts(tmp_path: Path) -> None:
    files = version_2(tmp_path)
    write(tmp_path / "all/lab/f1/memory.max", "max\n")
    write(tmp_path / "all/lab/memory.max", "200000000\n")
    write(tmp_path / "all/lab/f1/cpu.max", "max 100000\n")
    write(tmp_path / "all/lab/cpu.max", "150000 100000\n")
    assert memory_bytes(*files) == 200_000_000
    assert processor_quota(*files) == 1.5
    write(tmp_path / "all/lab/f1/memory.high", "150000000\n")
    assert memory_bytes(*files) == 150_000_000


def test_no_groups_at_all(tmp_path: Path) -> None:
    assert memory_bytes(tmp_path / "none", tmp_path / "none") == MACHINE
    assert processor_quota(tmp_path / "none", tmp_path / "none") is None
    assert memory_bytes() <= MACHINE


def test_what_is_left_is_what_neither_this_process_nor_others_have(tmp_path: Path) -> None:
    status, machine = tmp_path / "status", tmp_path / "meminfo"
    write(status, "Name:\tlegion-agent\nVmRSS:\t   90000 kB\nRssAnon:\t   40000 kB\nRssFile:\t   50000 kB\n")
    write(machine, "MemTotal:        1000000 kB\nMemFree:           10000 kB\nMemAvailable:     500000 kB\n")
    memory = Memory(100_000_000, status, machine)
    assert memory.most == 100_000_000
    assert memory.left() == 100_000_000 - 40_000 * 1024
    assert memory.for_models == int(0.9 * memory.left())
    write(machine, "MemAvailable:     5000 kB\n")
    assert memory.left() == 5_000 * 1024
    write(status, "RssAnon:\t   400000 kB\n")
    assert memory.left() == 0


def test_no_limit_is_above_the_machine_s(tmp_path: Path) -> None:
    assert Memory(1 << 60).most == Memory().most == memory_bytes()
    memory = Memory(100_000_000, tmp_path / "none", tmp_path / "none")
    assert memory.left() == 100_000_000, "nothing is known of what is used"


def test_memory_that_was_freed_goes_back(tmp_path: Path) -> None:
    """Small pieces between others stay with the C library until it is told."""
    memory = Memory(machine=tmp_path / "none")
    pieces = [b"x" * 20_000 for _ in range(4000)]
    kept = pieces[::100]
    before = memory.left()
    del pieces
    give_back_memory()
    assert memory.left() - before > 40_000_000
    assert len(kept) == 40
