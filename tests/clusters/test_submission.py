"""What is sent with a submitted job, and what of it the cluster would not find."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from clusters import ClusterProfile
from clusters.packages import Package
from operators.errors import InvalidSpec, SpecError
from pipelines.submission import PROFILE, differs, prepare


def write_job(folder: Path, **changes: Any) -> Path:
    """A job that any cluster could run, but for the changes."""
    job = {
        "name": "job",
        "modality": "text",
        "source": {"kind": "files", "uri": "s3://objects/in"},
        "embed": [{"column": "h", "family": "hashing", "dim": 16}],
        "table": {"uri": "s3://lake", "name": "t"},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.yaml").write_text(yaml.safe_dump(job | changes))
    return folder / "job.yaml"


def contents(package: Package) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(package.content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def static(model: str) -> list[dict[str, Any]]:
    return [{"column": "v", "family": "static", "model": model}]


def test_the_folder_and_latentlake_are_sent(tmp_path: Path):
    path = write_job(tmp_path / "jobs")
    (tmp_path / "jobs" / "plugin.py").write_text("x = 1\n")
    prepared = prepare(path, ["shard.max_objects=3"], arguments=["--limit", "2"])
    folder, own = prepared.packages
    assert set(contents(folder)) == {"job.yaml", "plugin.py"}
    assert {"latentlake/__init__.py", "operators/presets.yaml", "pipelines/__main__.py", "clusters/jobs.py"} <= set(
        contents(own)
    )
    assert not any("__pycache__" in name for name in contents(own))
    submission = prepared.submission
    assert submission.command == "python -m pipelines run job.yaml --set shard.max_objects=3 --limit 2"
    assert submission.runtime_env is not None and submission.metadata is not None
    assert submission.runtime_env["working_dir"] == folder.uri and submission.runtime_env["py_modules"] == [own.uri]
    assert (prepared.job, submission.metadata["table"]) == ("job", "s3://lake/t")
    assert not differs(prepared, submission.metadata)
    assert differs(prepare(path), submission.metadata)


def test_where_latentlake_is_installed_it_is_not_sent(tmp_path: Path):
    prepared = prepare(write_job(tmp_path), installed=True)
    assert len(prepared.packages) == 1 and "py_modules" not in (prepared.submission.runtime_env or {})


def test_a_job_beside_its_working_directory_is_sent_too(tmp_path: Path):
    path, folder = write_job(tmp_path / "jobs"), tmp_path / "models"
    folder.mkdir()
    (folder / ".gitignore").write_text("*.yaml\n")
    prepared = prepare(path, folder=folder)
    assert set(contents(prepared.packages[0])) == {".gitignore", ".latentlake/job.yaml"}
    assert prepared.submission.command.endswith("run .latentlake/job.yaml")


def test_the_profile_is_sent_without_what_is_the_submitters(tmp_path: Path):
    given = {"kind": "ray", "job_server": "http://head:8265", "token": "env:PLANTED", "gpus": 4, "stall_s": 30}
    environment = {"env_vars": {"HF_HUB_OFFLINE": "1"}, "pip": ["pylance"]}
    profile = ClusterProfile.model_validate({**given, "address": "10.0.0.5:6379", "runtime_env": environment})
    prepared = prepare(write_job(tmp_path), profile=profile)
    sent = json.loads(contents(prepared.packages[0])[PROFILE])
    assert sent == {"kind": "ray", "job_server": "http://head:8265", "gpus": 4, "stall_s": 30}
    assert ClusterProfile.model_validate(sent).gpus == 4
    assert prepared.submission.command == f"python -m pipelines run job.yaml --cluster {PROFILE}"
    runtime_env = prepared.submission.runtime_env or {}
    assert runtime_env["env_vars"] == {"RAY_JOB_STOP_WAIT_TIME_S": "30", "HF_HUB_OFFLINE": "1"}
    assert runtime_env["pip"] == ["pylance"]


def test_nothing_of_this_machine_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    profile = ClusterProfile.model_validate({"shared_storage": [{"path": "/mnt/lake"}]})
    path = write_job(tmp_path)
    before = prepare(path, profile=profile)
    for name in ("count_gpus", "usable_cpus", "usable_memory_mb"):
        monkeypatch.setattr(f"clusters.capacity.{name}", lambda: pytest.fail("this machine is not the cluster"))
    assert prepare(path, profile=profile) == before
    assert json.loads(contents(before.packages[0])[PROFILE]) == {"shared_storage": [{"path": "/mnt/lake"}]}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"source": {"kind": "files", "uri": "in"}},
            "source.uri: 'in' would be looked for in the folder .*s3://.*shared_storage",
        ),
        (
            {"table": {"uri": "/data/lake", "name": "t"}},
            "table.uri: '/data/lake' is a path of this machine.*shared_storage",
        ),
        ({"table": {"uri": "file:///data/lake", "name": "t"}}, "table.uri: 'file:///data/lake' is a path"),
        ({"table": {"uri": "/mnt/shared/../lake", "name": "t"}}, "table.uri: .* is a path of this machine"),
        ({"table": {"uri": "/mnt/shared-not", "name": "t"}}, "table.uri: .* is a path of this machine"),
        ({"source": {"kind": "files", "uri": "~/in"}}, "source.uri: '~/in' is in the home folder"),
        (
            {"table": {"uri": "s3://b", "name": "t", "storage_options": {"aws_secret_access_key": "file:keys/s3"}}},
            "table.storage_options.aws_secret_access_key: 'file:keys/s3' would be .* absolute path .* env:NAME",
        ),
        (
            {"embed": static("/models/words.txt")},
            r"embed\[0\].model: '/models/words.txt' is a path of this .*working directory",
        ),
        ({"embed": static("~/words.txt")}, "is a path of this machine"),
        ({"embed": static("./none.txt")}, "is not in the working directory, which is what is sent"),
        ({"embed": static("../words.txt")}, "is not in the working directory"),
        ({"embed": static("ignored/words.txt")}, "is left out of what is sent, by a .gitignore"),
    ],
)
def test_what_a_cluster_would_not_find_is_refused(tmp_path: Path, changes: dict[str, Any], told: str):
    path = write_job(tmp_path, **changes)
    (tmp_path / "ignored").mkdir()
    (tmp_path / "ignored" / "words.txt").write_text("a 1\n")
    (tmp_path / ".gitignore").write_text("/ignored\n")
    profile = ClusterProfile.model_validate({"shared_storage": [{"path": "/mnt/shared"}]})
    with pytest.raises(InvalidSpec, match=told) as failure:
        prepare(path, profile=profile)
    assert failure.value.exit_code == 2 and len(failure.value.problems) == 1


def test_a_model_beside_the_submitter_but_not_sent_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`run` would find it from here; on the cluster its name would be taken for one of the hub's."""
    path = write_job(tmp_path / "jobs", embed=static("models/words.txt"))
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "words.txt").write_text("a 1\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidSpec, match="is not in the working directory"):
        prepare(path)
    assert "models/words.txt" in contents(prepare(path, folder=Path()).packages[0])


@pytest.mark.parametrize(
    "changes",
    [
        {"source": {"kind": "files", "uri": "/mnt/shared/in"}, "table": {"uri": "file:///mnt/shared", "name": "t"}},
        {
            "source": {
                "kind": "files",
                "uri": "s3://b",
                "storage_options": {"aws_secret_access_key": "file:/run/secrets/key"},
            }
        },
        {"embed": static("/mnt/shared/words.txt")},
        {"embed": static("sent/words.txt")},
        {"embed": static("./sent")},
        {"embed": static("s3://models/words")},
        {"embed": static("owner/name")},
    ],
)
def test_what_a_cluster_finds_is_sent(tmp_path: Path, changes: dict[str, Any]):
    path = write_job(tmp_path, **changes)
    (tmp_path / "sent").mkdir()
    (tmp_path / "sent" / "words.txt").write_text("a 1\n")
    profile = ClusterProfile.model_validate({"shared_storage": [{"path": "/mnt/shared"}]})
    assert b"sent/words.txt" in prepare(path, profile=profile).packages[0].content


def test_all_mistakes_are_told_at_once(tmp_path: Path):
    path = write_job(
        tmp_path, source={"kind": "files", "uri": "in"}, embed=static("/m"), table={"uri": "out", "name": "t"}
    )
    with pytest.raises(InvalidSpec, match="3 mistakes"):
        prepare(path)


def test_a_working_directory_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(SpecError, match="no folder"):
        prepare(write_job(tmp_path), folder=tmp_path / "none")


def test_a_suite_and_its_files_are_sent_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It is named from the folder that the command runs in: here, and where the cluster unpacks what is sent."""
    path = write_job(tmp_path / "jobs", gates={"suite": "suites/docs.yaml", "min_ndcg": 0.5})
    monkeypatch.chdir(tmp_path / "jobs")
    suites = tmp_path / "jobs" / "suites"
    suites.mkdir()
    (suites / "queries.jsonl").write_text('{"_id": "q", "text": "a"}\n')
    (tmp_path / "qrels.txt").write_text("q 0 d 1\n")
    suite = "tasks: [{kind: retrieval, queries: queries.jsonl, qrels: QRELS}]"
    (suites / "docs.yaml").write_text(suite.replace("QRELS", "../../qrels.txt"))
    with pytest.raises(InvalidSpec, match=r"gates.suite: 'suites/../../qrels.txt' is not in the working directory"):
        prepare(path)
    (suites / "qrels.txt").write_text("q 0 d 1\n")
    (suites / "docs.yaml").write_text(suite.replace("QRELS", "qrels.txt"))
    assert {"suites/docs.yaml", "suites/queries.jsonl", "suites/qrels.txt"} <= set(contents(prepare(path).packages[0]))
