"""What `latentlake doctor` finds, on stores, clusters and machines that are, or are not, as they should be."""

from __future__ import annotations

import json
import re
import shlex
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from command_line import latentlake_here
from doc_commands import commands
from job_maker import make_job, write_texts

from clusters import ClusterProfile
from latentlake.storage import Storage
from pipelines.doctor import DO, NOT_CHECKED, OK, Finding, examine, machine, stores
from pipelines.job.jobfile import parse_job
from pipelines.state.ledger import WORK_FOLDER


def find(job: dict[str, Any] | None, profile: dict[str, Any] | None = None) -> dict[str, list[Finding]]:
    """Findings by subject."""
    spec = None if job is None else parse_job(job)
    found: dict[str, list[Finding]] = {}
    for finding in examine(spec, ClusterProfile.model_validate(profile or {})):
        found.setdefault(finding.subject, []).append(finding)
    return found


def make(folder: Path, **sections: Any) -> dict[str, Any]:
    return make_job(folder, write_texts(folder / "in", {"a.txt": "one"}), **sections)


def test_a_job_that_can_run(tmp_path: Path):
    found = find(make(tmp_path))
    statuses = {subject: {one.status for one in findings} for subject, findings in found.items()}
    assert {subject for subject, status in statuses.items() if status != {OK}} <= {"disk", "object store"}
    assert {"lake", "clock", "source", "decoding", "model 'h'", "cluster", "pools", "disk", "GPU"} <= set(found)
    assert "'a.txt'" in found["source"][0].told and "1 to 1 actors" in found["pools"][0].told
    assert [path.name for path in tmp_path.iterdir()] == ["in"]  # the probe's lake is gone


def test_a_machine_without_a_job():
    found = find(None)
    assert set(found) <= {"cluster", "disk", "object store", "GPU"} and "it was not started" in found["cluster"][0].told


def test_a_lake_that_is_there_keeps_what_is_in_it(tmp_path: Path):
    job = make(tmp_path)
    (tmp_path / "lake" / WORK_FOLDER).mkdir(parents=True)
    assert find(job)["lake"][0].status == OK
    assert list((tmp_path / "lake").iterdir()) == [tmp_path / "lake" / WORK_FOLDER]


def test_what_is_missing_or_wrong_is_to_be_done(tmp_path: Path):
    model = {"column": "m", "family": "sentence_transformers", "model": str(tmp_path / "nowhere")}
    job = make(tmp_path, embed=[model])
    job["source"]["include"] = ["*.md"]
    found = find(job)
    assert found["source"][0] == Finding(
        "source", DO, f"{tmp_path}/in holds no objects. Check uri, include and exclude."
    )
    assert found["model 'm'"][0].status == DO and "nowhere" in found["model 'm'"][0].told


def test_an_object_store_is_probed_and_its_clock_compared(
    tmp_path: Path, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
):
    options = {"aws_endpoint": s3_endpoint}
    job = make(tmp_path, table={"uri": "s3://lake/doctor", "storage_options": options})
    found = find(job)
    assert [one.status for one in found["lake"]] == [OK] == [one.status for one in found["clock"]]
    lake = parse_job(job).table.lake
    assert lake.child(WORK_FOLDER).list_names() == []
    times = Storage.list_times
    monkeypatch.setattr(
        Storage, "list_times", lambda place: [(name, moment - timedelta(seconds=90)) for name, moment in times(place)]
    )
    (clock,) = find(job)["clock"]
    assert clock.status == DO and "allows 30 s" in clock.told
    assert re.search(r"differ by (8\d|90|91) s", clock.told)  # the store cuts the moment to a second


def test_a_store_that_lets_a_second_writer_overwrite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def overwrite(place: Storage, name: str, content: bytes) -> bool:
        place.put(name, content)
        return True

    monkeypatch.setattr(Storage, "put_if_absent", overwrite)
    assert "ignores conditional writes" in find(make(tmp_path))["lake"][0].told


def test_credentials_that_are_not_there(tmp_path: Path, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch):
    options = {
        "aws_endpoint": s3_endpoint,
        "aws_secret_access_key": "env:NO_SUCH",
        "aws_access_key_id": "env:PLANTED_ID",
    }
    monkeypatch.setenv("PLANTED_ID", "AKIAPLANTEDPLANTED")
    job = make(tmp_path, table={"uri": "s3://lake/doctor", "storage_options": options})
    (lake,) = find(job)["lake"]
    assert lake.status == DO and "'NO_SUCH'" in lake.told and "AKIAPLANTED" not in lake.told


def test_a_job_server_that_does_not_answer_or_wants_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from pipelines.doctor import cluster

    monkeypatch.setattr(cluster, "PATIENCE_S", 0.1)
    profile = {"kind": "ray", "job_server": "http://127.0.0.1:9"}
    found = find(make(tmp_path), profile)
    assert found["cluster"][0].status == DO and "no answer" in found["cluster"][0].told
    assert found["pools"][0].status == NOT_CHECKED
    assert {one.status for one in found["paths"]} == {DO}  # a local source and a local lake
    monkeypatch.setenv("NO_FILE", "x")
    (missing,) = find(None, {**profile, "token": f"file:{tmp_path}/none"})["cluster"]
    assert missing.status == DO and "cannot read" in missing.told


def test_a_cluster_that_is_not_there_yet_is_not_called_ok(tmp_path: Path):
    group = {"name": "cpu", "cpus": 8, "memory_mb": 32_000}
    profile = {"kind": "kuberay", "image": "i", "worker_groups": [group], "shared_storage": [str(tmp_path)]}
    found = find(make(tmp_path), profile)
    assert {one.status for one in found["cluster"]} == {NOT_CHECKED} == {one.status for one in found["GPU"]}
    assert found["paths"][0].status == OK and "in cpu" in found["pools"][0].told
    wants = {"column": "m", "family": "hashing", "dim": 8, "pool": {"num_gpus": 1}}
    gpus = find(make(tmp_path, embed=[wants]), profile)["pools"]
    assert gpus[0].status == DO


def test_the_gpus_of_the_driver_are_those_that_torch_sees(monkeypatch: pytest.MonkeyPatch):
    seen, told = machine.torch_gpus()
    assert told.startswith("torch 2.")
    monkeypatch.setattr(machine, "torch_gpus", lambda: (seen, told))
    monkeypatch.setattr(machine, "count_gpus", lambda: seen + 2)
    (found,) = find(None)["GPU"]
    assert found.status == DO and f"the driver shows {seen + 2}, and torch 2." in found.told
    monkeypatch.setattr(machine, "torch_gpus", lambda: (seen + 2, told))
    assert find(None)["GPU"][0].status == OK


def test_the_command_ends_with_2_where_something_is_to_be_done(tmp_path: Path):
    job = make(tmp_path)
    (tmp_path / "job.yaml").write_text(json.dumps(job))
    done = latentlake_here("doctor", "job.yaml", "--json", cwd=tmp_path)
    told = json.loads(done.stdout.splitlines()[-1])
    assert {one["subject"] for one in told} >= {"lake", "pools"}
    assert done.returncode == (2 if any(one["status"] == DO for one in told) else 0)
    (tmp_path / "in" / "a.txt").unlink()
    done = latentlake_here("doctor", "job.yaml", cwd=tmp_path)
    assert done.returncode == 2 and "do           source: " in done.stdout


def test_the_commands_of_the_page(tmp_path: Path):
    (tmp_path / "job.yaml").write_text(json.dumps(make(tmp_path)))
    (tmp_path / "cluster.yaml").write_text("kind: local\n")
    for command in commands("docs/planning.md", "doctor"):
        done = latentlake_here(*shlex.split(command)[1:], cwd=tmp_path)
        lines = done.stdout.splitlines()
        assert done.returncode == (2 if any(line.startswith("do ") for line in lines) else 0), done.stderr
        assert any(line.startswith("ok           cluster: a private Ray") for line in lines)


def test_the_allowed_skew_is_that_of_the_lease():
    assert stores.SKEW_S == 30
