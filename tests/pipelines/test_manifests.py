"""`latentlake manifest`: what it prints, what it refuses, and that no key is in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from clusters import ClusterProfile
from operators.errors import InvalidSpec, PoolUnschedulable
from pipelines.cli.manifest import to_yaml
from pipelines.cli.options import app
from pipelines.job.jobfile import load_section
from pipelines.manifests import Schedule, make_manifest

PROFILE: dict[str, Any] = {
    "kind": "kuberay",
    "image": "registry.example/latentlake:1",
    "worker_groups": [{"name": "cpu", "cpus": 8, "memory_mb": 32_768, "max": 4}],
    "kubernetes": {"secrets": ["s3-keys"]},
}
JOB: dict[str, Any] = {
    "name": "docs",
    "modality": "text",
    "source": {"kind": "files", "uri": "s3://bucket/in"},
    "embed": [{"column": "v", "family": "hashing"}],
    "table": {"uri": "s3://bucket/lake", "name": "docs"},
}
LAUNCHED: dict[str, Any] = {
    "image": "registry.example/latentlake:1",
    "head": {"instance_type": "m7i.large"},
    "worker_groups": [{"name": "cpu", "cpus": 8, "max": 4, "instance_type": "m7i.2xlarge"}],
    "launcher": {"region": "eu-west-1"},
}
SECRET_KEY = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"  # of the provider's documentation, of no account


def written(folder: Path, job: dict[str, Any]) -> Path:
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job, sort_keys=False))
    return path


def made(
    folder: Path, job: dict[str, Any] = JOB, profile: dict[str, Any] = PROFILE, **how: Any
) -> list[dict[str, Any]]:
    return make_manifest(written(folder, job), ClusterProfile.model_validate(profile), **how)


def command(folder: Path, *words: str, profile: dict[str, Any] = PROFILE, job: dict[str, Any] = JOB) -> None:
    (folder / "cluster.yaml").write_text(yaml.safe_dump(profile))
    app(
        ["manifest", str(written(folder, job)), "--cluster", str(folder / "cluster.yaml"), *words],
        standalone_mode=False,
    )


def test_the_command_prints_a_ray_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    command(tmp_path, "--set", "publish.tag=night", "--name", "docs-2")
    text = capsys.readouterr().out
    files, job = yaml.safe_load_all(text)
    assert (files["kind"], job["kind"], job["metadata"]["name"]) == ("ConfigMap", "RayJob", "docs-2")
    assert yaml.safe_load(files["data"]["job.yaml"]) == JOB
    driver = load_section(ClusterProfile, json.loads(files["data"]["cluster.json"]))
    assert driver.groups_capacity() == ClusterProfile.model_validate(PROFILE).groups_capacity()
    assert job["spec"]["entrypoint"].endswith("--set publish.tag=night")
    assert "&id" not in text and "job.yaml: |" in text  # for people to read


def test_the_command_prints_schedules(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    command(tmp_path, "--schedule", "0 3 * * *", "--time-zone", "Europe/Berlin")
    *_, cron = yaml.safe_load_all(capsys.readouterr().out)
    assert (cron["kind"], cron["spec"]["schedule"], cron["spec"]["timeZone"]) == (
        "CronJob",
        "0 3 * * *",
        "Europe/Berlin",
    )
    command(tmp_path, "--schedule", "0 3 * * *", "--ray-cron-job")
    *_, cron = yaml.safe_load_all(capsys.readouterr().out)
    assert (cron["kind"], cron["spec"]["timeZone"]) == ("RayCronJob", "Etc/UTC")
    with pytest.raises(InvalidSpec, match="give one"):
        command(tmp_path, "--ray-cron-job")


def test_the_command_prints_a_launchers_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    command(tmp_path, profile={**LAUNCHED, "kind": "aws"})
    assert yaml.safe_load(capsys.readouterr().out)["cluster_name"] == "docs"
    with pytest.raises(InvalidSpec, match="kind 'aws' has no schedule"):
        command(tmp_path, "--schedule", "@daily", profile={**LAUNCHED, "kind": "aws"})


def test_a_queue_would_not_admit_the_jobs_of_a_ray_cron_job(tmp_path: Path):
    profile = {**PROFILE, "kubernetes": {"queue": "team-a"}}
    assert made(tmp_path, profile=profile, schedule=Schedule("@daily"))
    with pytest.raises(InvalidSpec, match="no queue would admit them"):
        made(tmp_path, profile=profile, schedule=Schedule("@daily", by_kuberay=True))


@pytest.mark.parametrize(
    ("job", "how", "told"),
    [
        ({**JOB, "name": "docs_v2"}, {}, "RayJob 'docs_v2': use lower-case letters.*give another name: --name docs-v2"),
        ({**JOB, "name": "d" * 48}, {}, "the name has 48 characters, and at most 47"),
        ({**JOB, "name": "d" * 40}, {"schedule": Schedule("@daily")}, "CronJob 'd+': the name has 40.*at most 36"),
        (JOB, {"schedule": Schedule("0 25 * * *")}, "'25' is not a valid hour"),
        (JOB, {"schedule": Schedule("@daily", "Europe/Berlinn")}, "no such time zone. Did you mean 'Europe/Berlin'"),
        ({**JOB, "source": {"kind": "files", "uri": "./in"}}, {}, r"source.uri: './in'.*shared_storage"),
        (
            {**JOB, "table": {"uri": "s3://b", "name": "t", "storage_options": {"aws_secret_access_key": "file:key"}}},
            {},
            "aws_secret_access_key: 'file:key' would be looked for",
        ),
        ({**JOB, "table": {"uri": "/home/me/lake", "name": "t"}}, {}, "table.uri: '/home/me/lake' is a path of this"),
        ({**JOB, "embed": [{"column": "v", "family": "hashing", "pool": {"max": "x"}}]}, {}, "embed.*pool.max"),
        (
            {**JOB, "embed": [{"column": "v", "family": "sentence_transformers", "model": "/models/x"}]},
            {},
            r"embed\[0\].model: '/models/x' is a path of this machine. Give",
        ),
    ],
)
def test_what_could_not_run_there_is_refused(tmp_path: Path, job: dict[str, Any], how: dict[str, Any], told: str):
    with pytest.raises(InvalidSpec, match=rf"(?s){told}"):
        made(tmp_path, job, **how)


def test_shared_storage_and_models_of_the_image_are_reachable(tmp_path: Path):
    storage = [{"path": "/mnt/lake", "claim": "lake"}, "/models"]
    model = {"column": "v", "family": "sentence_transformers", "model": "/models/x"}
    job = {**JOB, "table": {"uri": "/mnt/lake/one", "name": "t"}, "embed": [model]}
    assert made(tmp_path, job, {**PROFILE, "shared_storage": storage})


def test_a_job_for_gpus_that_no_group_has_is_refused(tmp_path: Path):
    job = {**JOB, "embed": [{"column": "v", "family": "hashing", "pool": {"num_gpus": 1}}]}
    with pytest.raises(PoolUnschedulable, match="no group has any"):
        made(tmp_path, job)


@pytest.mark.parametrize("kind", [{}, {"kind": "local"}, {"kind": "ray", "address": "h:1"}])
def test_a_cluster_that_runs_already_has_no_manifest(tmp_path: Path, kind: dict[str, Any]):
    with pytest.raises(InvalidSpec, match="starts no machines"):
        made(tmp_path, profile=kind)


# keys

PLANTED: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    (
        {"source": {"kind": "files", "uri": "s3://b/in", "storage_options": {"aws_secret_access_key": SECRET_KEY}}},
        {},
        {},
    ),
    ({"source": {"kind": "files", "uri": "https://me:pw@host/in"}}, {}, {}),
    ({"source": {"kind": "files", "uri": "s3://b/in", "include": [SECRET_KEY]}}, {}, {}),
    ({}, {}, {"overrides": (f"source.include=[{SECRET_KEY}]",)}),
    ({}, {"runtime_env": {"env_vars": {"AWS_SECRET_ACCESS_KEY": SECRET_KEY}}}, {}),
    ({}, {"runtime_env": {"env_vars": {"PLAIN": SECRET_KEY}}}, {}),
    ({}, {"worker_groups": [{**PROFILE["worker_groups"][0], "node_selector": {"k": SECRET_KEY}}]}, {}),
    ({}, {"token": SECRET_KEY}, {}),
]


@pytest.mark.parametrize(("job", "profile", "how"), PLANTED)
def test_a_planted_key_is_refused_and_in_no_message(
    tmp_path: Path, job: dict[str, Any], profile: dict[str, Any], how: dict[str, Any]
):
    with pytest.raises(InvalidSpec) as failure:
        path = written(tmp_path, {**JOB, **job})
        make_manifest(path, load_section(ClusterProfile, {**PROFILE, **profile}), **how)
    assert SECRET_KEY not in str(failure.value) and ":pw@" not in str(failure.value)


def test_a_key_of_the_environment_is_in_no_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The credentials and tokens of whoever prints it are used nowhere."""
    for name in ("AWS_SECRET_ACCESS_KEY", "RAY_AUTH_TOKEN", "HF_TOKEN", "MY_TOKEN"):
        monkeypatch.setenv(name, SECRET_KEY)
    (tmp_path / "token").write_text(SECRET_KEY)
    options = {"aws_secret_access_key": "env:AWS_SECRET_ACCESS_KEY"}
    job = {**JOB, "source": {**JOB["source"], "storage_options": options}}
    for kind in ("kuberay", "aws"):
        for token in ("env:MY_TOKEN", f"file:{tmp_path}/token"):
            profile = {**(PROFILE if kind == "kuberay" else LAUNCHED), "kind": kind, "token": token}
            schedules = (
                (None, Schedule("@daily"), Schedule("@daily", by_kuberay=True)) if kind == "kuberay" else (None,)
            )
            for schedule in schedules:
                text = to_yaml(made(tmp_path, job, profile, schedule=schedule))
                assert SECRET_KEY not in text and len(text) > 500
