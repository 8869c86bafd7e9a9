"""Pools on GPUs, without a device; `test_cluster.py` runs whole jobs on logical ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray
from job_maker import make_job, write_texts

from clusters import Capacity, Node
from operators.embedders._torch import check_device
from operators.errors import ClusterError, PoolUnschedulable, SpecError
from pipelines.job.jobfile import parse_job
from pipelines.jobs import plan_job
from pipelines.jobs import run_job as run_a_job
from pipelines.run import run_job


def test_a_cluster_without_gpus_refuses_the_job_at_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        "pipelines.planning.choice.capacity_of", lambda profile: Capacity((Node(4, 0, 8000), Node(4, 0, 8000)))
    )
    source = write_texts(tmp_path / "in", {"a.txt": "a"})
    for share in (1, 0.25):
        job = make_job(tmp_path, source, embed=[{"column": "h", "family": "hashing", "pool": {"num_gpus": share}}])
        with pytest.raises(
            PoolUnschedulable, match=r"asks for GPUs \('h'\), the cluster has none\.\n  .*num_gpus: 0 to embed on CPUs"
        ):
            run_job(parse_job(job))


def test_a_job_is_planned_for_a_cluster_of_groups_far_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    groups = [{"name": "cpu", "cpus": 8, "max": 4}, {"name": "gpu", "cpus": 4, "gpus": 1, "max": 3}]
    cluster = {"kind": "kuberay", "image": "i:1", "worker_groups": groups}
    hashing = {"column": "h", "family": "hashing"}
    job = make_job(tmp_path, write_texts(tmp_path / "in", {f"{n}.txt": f"{n}" for n in range(9)}), embed=[hashing])
    planned = plan_job(job, cluster=cluster)
    assert planned["runner"] == "ray: the cluster profile is of kind 'kuberay'"
    (pool,) = (stage for stage in planned["stages"] if stage["stage"] == "embed")
    assert pool["device"] == "cuda" and pool["num_gpus"] == 1
    job["embed"] = [{**hashing, "pool": {"num_gpus": 1}}]
    with pytest.raises(
        PoolUnschedulable, match=r"the job asks for GPUs \('h'\), no group has any: 4 x 8 CPUs of group 'cpu'"
    ):
        plan_job(job, cluster={**cluster, "worker_groups": groups[:1]})
    with pytest.raises(ClusterError, match="`latentlake manifest JOB"):
        run_a_job(job, cluster=cluster)


def test_a_device_is_looked_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for device in ("cuda", "cuda:1"):
        with pytest.raises(SpecError, match="finds no GPU"):
            check_device(device)
    check_device("cpu")


def test_rays_map_batches_still_refuses_whole_blocks_on_gpus():
    """Why `embed.embedded` calls `map_batches_internal`.

    When this fails, Ray has learned it: call `map_batches` there. When `map_batches_internal` is gone and this holds, look
    for what `Dataset.map_groups` calls, which needs the same.
    """
    flow = ray.data.Dataset.map_batches
    with pytest.raises(ValueError, match="You must provide `batch_size`"):
        flow(None, lambda block: block, batch_size=None, num_gpus=1)
    assert callable(ray.data.Dataset.map_batches_internal)
