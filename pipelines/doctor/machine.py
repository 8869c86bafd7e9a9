"""This machine: room for temporary files and for Ray's object store, and its GPUs."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from clusters import REMOTE, ClusterProfile, machine_capacity
from clusters.capacity import count_gpus
from pipelines.doctor.findings import DO, NOT_CHECKED, OK, Finding
from pipelines.job.spec import JobSpec

FULL = 0.95  # of a disk: from there on Ray puts no more objects on it (RAY_local_fs_capacity_threshold)
SHARED_MEMORY = Path("/dev/shm")
TORCH_S = 120  # that importing torch may take
TORCH = "import torch; print(torch.__version__, torch.version.cuda, torch.cuda.device_count() if torch.cuda.is_available() else 0)"


def check_disk(profile: ClusterProfile) -> Iterator[Finding]:
    """Room in the folder of temporary files; where a private Ray would run, for its object store too."""
    folder = Path(tempfile.gettempdir())
    found = shutil.disk_usage(folder)
    share = 1 - found.free / found.total
    told = f"{found.free / 2**30:.1f} GiB are free in {folder} ({100 * share:.0f} % used)"
    if share < FULL:
        yield Finding("disk", OK, told)
    else:
        yield Finding(
            "disk", DO, f"{told}; from {100 * FULL:.0f} % on Ray spills nothing there. Make room, or set TMPDIR."
        )
    if profile.kind in REMOTE or profile.address is not None:
        yield Finding("disk", NOT_CHECKED, "the disks and the object stores of the cluster's machines")
        return
    wanted = profile.object_store_bytes(machine_capacity())
    if not SHARED_MEMORY.is_dir():
        yield Finding("object store", NOT_CHECKED, f"there is no {SHARED_MEMORY}; Ray keeps objects in files")
        return
    free = shutil.disk_usage(SHARED_MEMORY).free
    told = f"a private Ray takes {wanted / 2**20:.0f} MiB of {SHARED_MEMORY}, where {free / 2**20:.0f} MiB are free"
    if free >= wanted:
        yield Finding("object store", OK, told)
    else:
        remedy = (
            "Ray would use slow files. Make it larger (docker: --shm-size), or set `object_store_mb` in the profile."
        )
        yield Finding("object store", DO, f"{told}. {remedy}")


def check_gpus(spec: JobSpec | None, profile: ClusterProfile) -> Iterator[Finding]:
    """Whether the GPUs that the driver shows are seen by torch, and whether the job asks for some that are not there."""
    devices = count_gpus()
    wanted = [e.column for e in spec.embed if e.pool.num_gpus] if spec is not None else []
    elsewhere = profile.kind in REMOTE or profile.address is not None
    if elsewhere:
        yield Finding("GPU", NOT_CHECKED, "those of the cluster's machines; see `pools` for what the profile states")
        return
    if wanted and not devices:
        told = f"the job asks for GPUs ({', '.join(wanted)}), and there is no NVIDIA driver here (/dev/nvidia0)."
        yield Finding("GPU", DO, f"{told} Run it on a cluster that has some, or set pool.num_gpus: 0.")
        return
    if not devices:
        yield Finding("GPU", OK, "none here, and none is asked for")
        return
    if importlib.util.find_spec("torch") is None:
        yield Finding("GPU", NOT_CHECKED, f"the driver shows {devices}; torch, which would use them, is not installed")
        return
    seen, told = torch_gpus()
    if seen == devices:
        yield Finding("GPU", OK, f"{told} sees all {devices}")
    else:
        remedy = "Install torch for CUDA, or a driver that is new enough for it; check CUDA_VISIBLE_DEVICES."
        yield Finding("GPU", DO, f"the driver shows {devices}, and {told} sees {seen}. {remedy}")


def torch_gpus() -> tuple[int, str]:
    """How many GPUs torch sees, and which torch that is; asked in a process of its own."""
    try:
        answer = subprocess.run(
            [sys.executable, "-c", TORCH], capture_output=True, text=True, timeout=TORCH_S, env=dict(os.environ)
        )
    except subprocess.TimeoutExpired:
        return 0, f"torch, which took more than {TORCH_S} s to import,"
    words = answer.stdout.split()
    if answer.returncode or len(words) != 3:
        return (
            0,
            f"torch, which cannot be imported ({(answer.stderr.strip().splitlines() or ['no reason'])[-1][:200]}),",
        )
    return int(words[2]), f"torch {words[0]} (CUDA {words[1]})"
