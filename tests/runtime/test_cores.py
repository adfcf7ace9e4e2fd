"""Cores that the affinity mask and the control groups leave."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trtdeploy.runtime.cores import available_cores


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)), raising=False)


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


@pytest.mark.usefixtures("eight_cores")
class TestCores:
    def test_without_control_groups_the_affinity_counts(self, tmp_path: Path) -> None:
        assert available_cores(tmp_path) == 8

    @pytest.mark.parametrize(
        ("line", "cores"),
        [("max 100000", 8), ("200000 100000", 2), ("250000 100000", 2), ("50000 100000", 1), ("nonsense", 8)],
    )
    def test_a_quota_limits(self, tmp_path: Path, line: str, cores: int) -> None:
        write(tmp_path, "sys/fs/cgroup/cpu.max", line)
        assert available_cores(tmp_path) == cores

    def test_a_quota_of_the_own_group_and_of_its_parents_counts(self, tmp_path: Path) -> None:
        write(tmp_path, "proc/self/cgroup", "0::/outer/inner\n")
        write(tmp_path, "sys/fs/cgroup/outer/inner/cpu.max", "max 100000")
        write(tmp_path, "sys/fs/cgroup/outer/cpu.max", "300000 100000")
        write(tmp_path, "sys/fs/cgroup/cpu.max", "500000 100000")
        assert available_cores(tmp_path) == 3

    def test_a_quota_of_the_older_control_groups_counts(self, tmp_path: Path) -> None:
        write(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "400000")
        write(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000")
        assert available_cores(tmp_path) == 4

    def test_no_quota_in_the_older_control_groups(self, tmp_path: Path) -> None:
        write(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1")
        write(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000")
        assert available_cores(tmp_path) == 8


def test_this_machine_has_at_least_one_core() -> None:
    assert 1 <= available_cores() <= (os.cpu_count() or 1)
