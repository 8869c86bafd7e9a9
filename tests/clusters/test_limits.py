"""What a container or a batch system allows: control groups of both versions, as files below a root of our own."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from clusters import limits
from clusters.limits import usable_cpus, usable_memory_mb

MACHINE_MB = psutil.virtual_memory().total // 2**20


@pytest.fixture(autouse=True)
def sixteen_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


V1 = "9:name=systemd:/\n4:memory:{0}\n1:{1}:{0}\n0::/\n"
V2 = "0::{}\n"
QUOTAS = {
    "v2, a container": ({"proc/self/cgroup": V2.format("/"), "sys/fs/cgroup/cpu.max": "250000 100000\n"}, 3),
    "v2, no quota": ({"proc/self/cgroup": V2.format("/"), "sys/fs/cgroup/cpu.max": "max 100000\n"}, 16),
    "v2, half a core": ({"proc/self/cgroup": V2.format("/"), "sys/fs/cgroup/cpu.max": "50000 100000"}, 1),
    "v2, more than there is": ({"proc/self/cgroup": V2.format("/"), "sys/fs/cgroup/cpu.max": "6400000 100000\n"}, 16),
    "v2, the outer group is the narrow one": (
        {
            "proc/self/cgroup": V2.format("/slurm/job_1/step"),
            "sys/fs/cgroup/slurm/cpu.max": "400000 100000\n",
            "sys/fs/cgroup/slurm/job_1/step/cpu.max": "800000 100000\n",
        },
        4,
    ),
    "v2, the inner group is the narrow one": (
        {
            "proc/self/cgroup": V2.format("/slurm/job_1"),
            "sys/fs/cgroup/slurm/cpu.max": "max 100000\n",
            "sys/fs/cgroup/slurm/job_1/cpu.max": "200000 100000\n",
        },
        2,
    ),
    "v2, a path of the host": (
        {"proc/self/cgroup": V2.format("/kubepods/pod1/c1"), "sys/fs/cgroup/cpu.max": "300000 100000\n"},
        3,
    ),
    "v1, a path of the host": (
        {
            "proc/self/cgroup": V1.format("/docker/c1", "cpu,cpuacct"),
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "150000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        },
        2,
    ),
    "v1, joined controllers mounted by one name": (
        {
            "proc/self/cgroup": V1.format("/", "cpu,cpuacct"),
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "500000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
        5,
    ),
    "v1, no quota": (
        {
            "proc/self/cgroup": V1.format("/", "cpu"),
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
        16,
    ),
    "no groups at all, as on macOS": ({}, 16),
    "what cannot be understood": ({"proc/self/cgroup": "\x00?\n7\n", "sys/fs/cgroup/cpu.max": "many\n"}, 16),
}


@pytest.mark.parametrize(("files", "cpus"), QUOTAS.values(), ids=QUOTAS)
def test_cores_by_quota(tmp_path: Path, files: dict[str, str], cpus: int):
    assert usable_cpus(write(tmp_path, files)) == cpus


LIMITS = {
    "v2": ({"proc/self/cgroup": V2.format("/"), "sys/fs/cgroup/memory.max": f"{700 * 2**20}\n"}, 700),
    "v2, none": ({"proc/self/cgroup": V2.format("/"), "sys/fs/cgroup/memory.max": "max\n"}, MACHINE_MB),
    "v2, of an outer group": (
        {
            "proc/self/cgroup": V2.format("/a/b"),
            "sys/fs/cgroup/a/memory.max": f"{600 * 2**20}\n",
            "sys/fs/cgroup/a/b/memory.max": "max\n",
        },
        600,
    ),
    "v1": (
        {
            "proc/self/cgroup": V1.format("/docker/c1", "cpu"),
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{500 * 2**20}\n",
        },
        500,
    ),
    "v1, none": (
        {
            "proc/self/cgroup": V1.format("/", "cpu"),
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        },
        MACHINE_MB,
    ),
    "no groups at all": ({}, MACHINE_MB),
}


@pytest.mark.parametrize(("files", "megabytes"), LIMITS.values(), ids=LIMITS)
def test_memory_by_limit(tmp_path: Path, files: dict[str, str], megabytes: int):
    assert usable_memory_mb(write(tmp_path, files)) == min(megabytes, MACHINE_MB)


def test_affinity_counts_where_there_is_such_a_thing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 5})
    assert usable_cpus(tmp_path) == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cpus(tmp_path) == 1


def test_this_very_machine_is_read():
    assert limits.usable_cpus() >= 1
    assert 256 <= limits.usable_memory_mb() <= MACHINE_MB
