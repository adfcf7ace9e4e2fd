"""How many cores this process may use."""

from __future__ import annotations

import os
from pathlib import Path


def available_cores(root: Path = Path("/")) -> int:
    """Return the cores that the affinity mask and the control groups leave to this process, at least 1.

    A share such as 2.5 cores counts as 2: a third thread would be throttled.

    Args:
        root: Where `proc` and `sys` are, for tests.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for quota in (_quota_v2(root), _quota_v1(root)) if quota is not None]
    return max(1, min(cores, *(int(quota) for quota in quotas))) if quotas else cores


def _quota_v2(root: Path) -> float | None:
    """Return the smallest `cpu.max` from this process's group up to the root, in cores."""
    base = root / "sys/fs/cgroup"
    group = next((line[3:] for line in _lines(root / "proc/self/cgroup") if line.startswith("0::")), "/")
    folder = base / group.lstrip("/")
    quotas = []
    for place in (folder, *folder.parents):
        quotas += [_cores(*line.split()) for line in _lines(place / "cpu.max") if len(line.split()) == 2]
        if place == base:
            break
    known = [quota for quota in quotas if quota is not None]
    return min(known) if known else None


def _quota_v1(root: Path) -> float | None:
    folder = root / "sys/fs/cgroup/cpu"
    quota, period = _lines(folder / "cpu.cfs_quota_us"), _lines(folder / "cpu.cfs_period_us")
    return _cores(quota[0], period[0]) if quota and period else None


def _cores(quota: str, period: str) -> float | None:
    try:
        cores = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
    return cores if cores > 0 else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []
