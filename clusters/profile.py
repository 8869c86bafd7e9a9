"""Where a job runs: what a machine or a cluster offers. Data only; the job's spec says what to run."""

from __future__ import annotations

import os
from typing import Any

import psutil
from pydantic import BaseModel, ConfigDict, Field

OBJECT_STORE_SHARE = 0.2  # of the memory, where the profile does not say
OBJECT_STORE_LIMIT_MB = 8192


class ClusterProfile(BaseModel):
    """What a job may use. `address` None: a private Ray on this machine, started for the job and ended with it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: str | None = None
    cpus: int = Field(ge=1)
    gpus: int = Field(default=0, ge=0)
    memory_mb: int = Field(ge=256)
    object_store_mb: int | None = Field(default=None, ge=80)
    nodes: int = Field(default=1, ge=1)

    @property
    def object_store_bytes(self) -> int:
        """Size of the object store of a private Ray, in bytes."""
        megabytes = self.object_store_mb or min(OBJECT_STORE_LIMIT_MB, int(self.memory_mb * OBJECT_STORE_SHARE))
        return megabytes * 2**20


def this_machine(changes: dict[str, Any] | None = None) -> ClusterProfile:
    """The profile of the machine this process runs on: the cores it may use, its memory, its NVIDIA GPUs."""
    found = {
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "gpus": count_gpus(),
        "memory_mb": psutil.virtual_memory().total // 2**20,
    }
    return ClusterProfile.model_validate({**found, **(changes or {})})


def count_gpus() -> int:
    """NVIDIA GPUs of this machine, from the driver's device files; 0 where there is no driver."""
    try:
        return sum(name.startswith("nvidia") and name[6:].isdigit() for name in os.listdir("/dev"))  # noqa: PTH208 (names are wanted, not paths)
    except OSError:
        return 0
