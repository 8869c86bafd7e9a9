"""What this process may use of its machine: cores by affinity and quota, memory by limit. See cgroups(7).

A container's limits are those of its control group, which `os.cpu_count` and `psutil` do not see. joblib's `cpu_count`
(scikit-learn's) reads the quota, but only of the outermost group that it finds; it knows nothing of memory.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import psutil

UNLIMITED = 2**60  # bytes; cgroup v1 writes a number near 2^63 where there is no limit


def usable_cpus(root: Path = Path("/")) -> int:
    """Cores that this process may use, at least 1: by its affinity, and by its group's quota, rounded up."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for folder in group_folders("cpu", root) if (quota := read_quota(folder)) is not None]
    return max(1, math.ceil(min([allowed, *quotas])))


def usable_memory_mb(root: Path = Path("/")) -> int:
    """Memory that this process may use, in MiB: the machine's, or its group's limit where that is lower."""
    limits = [limit for folder in group_folders("memory", root) if (limit := read_limit(folder)) is not None]
    return min([psutil.virtual_memory().total, *limits]) // 2**20


def group_folders(controller: str, root: Path) -> Iterator[Path]:
    """Folders of the groups that hold this process, innermost first, for a controller of cgroup v1 or for v2.

    Every one of them limits what is inside. Within a container the path that `/proc` names is often the host's, and is not
    there: then the mounted folder itself is the container's group.
    """
    mount = root / "sys/fs/cgroup"
    for line in read_lines(root / "proc/self/cgroup"):
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and controller not in controllers.split(","):
            continue
        places = [mount / (controllers or "unified"), mount / controller if controllers else mount]
        base = next((place for place in places if place.is_dir()), mount)
        inner = base / path.strip("/")
        yield from (folder for folder in (inner, *inner.parents) if folder.is_relative_to(base))


def read_quota(folder: Path) -> float | None:
    """Cores that a group may use at once; None if it says nothing."""
    words = " ".join(read_lines(folder / "cpu.max")).split()
    if not words:
        words = [*read_lines(folder / "cpu.cfs_quota_us"), *read_lines(folder / "cpu.cfs_period_us")]
    try:
        quota, period = (int(word) for word in words)
    except ValueError:  # "max", or no such files
        return None
    return quota / period if quota > 0 and period > 0 else None


def read_limit(folder: Path) -> int | None:
    """Bytes of memory that a group may use; None if it says nothing."""
    for name in ("memory.max", "memory.limit_in_bytes"):
        for line in read_lines(folder / name):
            if line.isdigit() and 0 < int(line) < UNLIMITED:
                return int(line)
    return None


def read_lines(path: Path) -> list[str]:
    """Lines of a small file; none where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
