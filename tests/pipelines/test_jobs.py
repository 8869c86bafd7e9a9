"""Jobs from Python: the documented calls, on a file and on a dict."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from job_maker import make_job, open_table, write_texts

import pipelines
from clusters import ClusterProfile
from operators.errors import GateRefused, InvalidSpec
from pipelines.progress import PHASES, Event


def test_importing_the_package_loads_nothing():
    code = (
        "import sys, pipelines; print(pipelines.__all__, sorted({'ray', 'lance', 'pipelines.jobs'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['plan_job', 'run_job', 'validate_job'] []\n"
    with pytest.raises(AttributeError, match="no attribute 'run_jobs'"):
        pipelines.run_jobs  # noqa: B018


def test_a_dict_and_a_file_are_checked_alike(tmp_path: Path):
    job = make_job(tmp_path, {"kind": "files", "uri": str(tmp_path / "in")})
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    spec = pipelines.validate_job(job, ["embed.0.dim=32"])
    assert spec.embed[0].config.dim == 32 and job["embed"][0]["dim"] == 64  # the dict stays as it was
    assert pipelines.validate_job(str(tmp_path / "job.yaml"), ["embed.0.dim=32"]) == spec
    assert pipelines.validate_job(spec) is spec
    assert pipelines.validate_job(spec, ["embed.0.dim=16"]).embed[0].config.dim == 16
    with pytest.raises(InvalidSpec) as wrong:
        pipelines.validate_job({**job, "sorce": 1, "modality": "txt"})
    assert len(wrong.value.problems) == 2


def test_planning_and_running_twice_in_one_process(tmp_path: Path):
    job = make_job(tmp_path, write_texts(tmp_path / "in", {"a.txt": "one", "b.txt": "two"}), shard={"max_objects": 1})
    assert pipelines.plan_job(job)["to_read"] == 2
    assert not (tmp_path / "lake").exists()
    told: list[Event] = []
    report = pipelines.run_job(job, cluster={"cpus": 2}, progress=told.append)
    assert (report["state"], report["counts"]["embedded"]) == ("published", 2)
    phases = list(dict.fromkeys(event.phase for event in told))
    assert phases == [name for name in PHASES if name in phases] and {"listing", "embedding", "publishing"} <= set(
        phases
    )
    assert [(event.done, event.total) for event in told if event.phase == "embedding"] == [(1, 2), (2, 2)]
    assert list(report["phases"]) == phases and sum(report["phases"].values()) <= told[-1].seconds + 60
    write_texts(tmp_path / "in", {"c.txt": "three"})
    assert pipelines.run_job(job, cluster=ClusterProfile())["counts"]["embedded"] == 1
    assert len(open_table(job)) == 3


def test_an_error_carries_the_report(tmp_path: Path):
    job = make_job(tmp_path, write_texts(tmp_path / "in", {"a.txt": "one", "b.txt": ""}))
    with pytest.raises(GateRefused) as refused:
        pipelines.run_job(job)
    assert refused.value.report is not None and refused.value.report["counts"]["rejected"] == 1


def test_a_wrong_cluster_profile(tmp_path: Path):
    job = make_job(tmp_path, {"kind": "files", "uri": str(tmp_path / "in")})
    with pytest.raises(InvalidSpec, match=r"ClusterProfile: 1 mistake\n  cpu: unknown key. Did you mean 'cpus'"):
        pipelines.plan_job(job, cluster={"cpu": 2})
