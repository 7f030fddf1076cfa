"""Control groups on trees of plain files: version 1, version 2, and none."""

from __future__ import annotations

from pathlib import Path

import pytest

from legion_iot.errors import UsageError
from legion_iot.lab import cgroups


def version1(root: Path) -> Path:
    for name in ("cpu,cpuacct", "memory"):
        (root / name).mkdir()
    mounts = root / "mounts"
    mounts.write_text(
        f"tmpfs /sys/fs/cgroup tmpfs ro 0 0\ncgroup {root}/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0\n"
        f"cgroup {root}/memory cgroup rw,relatime,memory 0 0\ncgroup2 {root}/unified cgroup2 rw 0 0\n"
    )
    return mounts


def version2(root: Path, controllers: str = "cpuset cpu io memory pids") -> Path:
    (root / "cgroup.controllers").write_text(controllers + "\n")
    mounts = root / "mounts"
    mounts.write_text(f"cgroup2 {root} cgroup2 rw,nosuid 0 0\n")
    return mounts


def test_version_1(tmp_path: Path) -> None:
    found = cgroups.find_hierarchies(version1(tmp_path))
    assert found == cgroups.Hierarchies(1, tmp_path / "cpu,cpuacct", tmp_path / "memory")
    cgroups.make_groups(found, "abc123")
    groups = cgroups.make_device_group(found, "abc123", "f1", 512)
    cpu, memory = (tmp_path / name / "legion-lab-abc123" for name in ("cpu,cpuacct", "memory"))
    assert groups == (str(cpu / "f1"), str(memory / "f1"))
    assert (cpu / "cpu.shares").read_text() == "262144"
    assert (memory / "f1" / "memory.limit_in_bytes").read_text() == "512000000"
    cgroups.limit_processor(groups, 0.18)
    assert (cpu / "f1" / "cpu.cfs_period_us").read_text() == "20000"
    assert (cpu / "f1" / "cpu.cfs_quota_us").read_text() == "3600"
    cgroups.place(groups, 4711)
    assert [(Path(group) / "cgroup.procs").read_text() for group in groups] == ["4711"] * 2


def test_version_2(tmp_path: Path) -> None:
    found = cgroups.find_hierarchies(version2(tmp_path))
    assert found.name == "cgroup v2"
    cgroups.make_groups(found, "abc123")
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+cpu +memory"
    top = tmp_path / "legion-lab-abc123"
    assert (top / "cgroup.subtree_control").read_text() == "+cpu +memory"
    assert (top / "cpu.weight").read_text() == "10000"
    groups = cgroups.make_device_group(found, "abc123", "f1", 512)
    assert groups == (str(top / "f1"),)
    assert (top / "f1" / "memory.max").read_text() == "512000000"
    (top / "f1" / "cpu.max").write_text("max 100000")
    cgroups.limit_processor(groups, 0.18)
    assert (top / "f1" / "cpu.max").read_text() == "3600 20000"
    assert not (top / "f1" / "cpu.cfs_quota_us").exists()


def test_the_least_quota_is_the_kernels(tmp_path: Path) -> None:
    found = cgroups.find_hierarchies(version1(tmp_path))
    cgroups.make_groups(found, "abc123")
    groups = cgroups.make_device_group(found, "abc123", "f1", None)
    cgroups.limit_processor(groups, 0.01)
    assert (Path(groups[0]) / "cpu.cfs_quota_us").read_text() == "1000"
    assert not (Path(groups[1]) / "memory.limit_in_bytes").exists()


def test_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no cgroups"):
        cgroups.find_hierarchies(tmp_path / "missing")
    with pytest.raises(UsageError, match="no cgroups"):
        cgroups.find_hierarchies(version2(tmp_path, "pids"))
    cgroups.remove_groups("abc123", tmp_path / "missing")


def test_refused_by_the_kernel(tmp_path: Path) -> None:
    found = cgroups.find_hierarchies(version1(tmp_path))
    cgroups.make_groups(found, "abc123")
    with pytest.raises(UsageError, match="cannot be made"):
        cgroups.make_groups(found, "abc123")
    with pytest.raises(UsageError, match="process 1 cannot be put"):
        cgroups.place((str(tmp_path / "gone"),), 1)
    with pytest.raises(UsageError, match="quota is refused"):
        cgroups.limit_processor((str(tmp_path / "gone"),), 0.5)
