"""Cluster profiles of every kind: what each needs, what it does not have, and that no key stands in one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from clusters import REMOTE, Capacity, ClusterProfile, Node, find_secrets, is_key, looks_secret
from operators.errors import ClusterError, InvalidSpec, SpecError
from pipelines.job.jobfile import load_section
from pipelines.planning.choice import capacity_for, why_ray
from pipelines.ray_connection import address_of, capacity_of

CPU = {"name": "cpu", "cpus": 8, "memory_mb": 32_000, "max": 2}
GPU = {"name": "gpu", "cpus": 4, "memory_mb": 16_000, "gpus": 1, "max": 3}
KUBERAY: dict[str, Any] = {"kind": "kuberay", "image": "registry.example/latentlake:1", "worker_groups": [CPU, GPU]}
AWS: dict[str, Any] = {
    "kind": "aws",
    "image": "registry.example/latentlake:1",
    "worker_groups": [{**CPU, "instance_type": "m7i.2xlarge"}],
    "head": {"instance_type": "m7i.large"},
    "launcher": {"region": "eu-west-1"},
}
# The words are the documentation's examples of keys, of no account.
SECRET_KEY = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


def test_profiles_of_before_have_no_kind_to_state():
    assert ClusterProfile().kind == ClusterProfile(address="h:1", cpus=3).kind == "auto"
    assert ClusterProfile.model_validate(ClusterProfile(cpus=3).model_dump()) == ClusterProfile(cpus=3)


@pytest.mark.parametrize("profile", [KUBERAY, AWS])
def test_a_profile_is_kept_by_json(profile: dict[str, Any]):
    made = ClusterProfile.model_validate(profile)
    assert ClusterProfile.model_validate_json(made.model_dump_json()) == made


def test_groups_say_what_there_is_to_plan_with():
    profile = ClusterProfile.model_validate(KUBERAY)
    expected = Capacity((Node(4, 1, 16_000, "gpu"),) * 3 + (Node(8, 0, 32_000, "cpu"),) * 2)
    assert profile.applied_to(Capacity((Node(1),))) == expected
    assert str(expected) == "3 x 4 CPUs and 1 GPUs of group 'gpu', 2 x 8 CPUs of group 'cpu'"


def test_shared_storage_is_a_path_or_more():
    profile = ClusterProfile.model_validate(
        {**KUBERAY, "shared_storage": [{"path": "/mnt/lake", "claim": "lake"}, {"path": "/data", "claim": "data"}]}
    )
    assert profile.shared_roots == ("/mnt/lake", "/data")
    assert ClusterProfile.model_validate({"shared_storage": ["/mnt/lake"]}).shared_roots == ("/mnt/lake",)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"kind": "kubernetes"}, "Input should be"),
        ({"kind": "local", "job_server": "http://h:8265"}, "`job_server` is not for kind 'local' but for auto, ray"),
        ({"kind": "local", "address": "h:1"}, "`address` is not for kind 'local'"),
        ({"kind": "ray"}, "needs an `address`"),
        ({"worker_groups": [CPU]}, "`worker_groups` is not for kind 'auto' but for ray"),
        ({**KUBERAY, "cpus": 4}, "leave out `cpus`"),
        ({**KUBERAY, "worker_groups": []}, "needs `worker_groups`"),
        ({**KUBERAY, "worker_groups": [CPU, CPU]}, "two worker groups are called 'cpu'"),
        ({**KUBERAY, "image": None}, "needs an `image`"),
        ({**KUBERAY, "worker_groups": [{**CPU, "instance_type": "m7i.large"}]}, "`node_selector` chooses nodes"),
        ({**KUBERAY, "shared_storage": [{"path": "/mnt/lake", "claim": "My_Lake"}]}, "claim 'My_Lake' is not the name"),
        ({"shared_storage": [{"path": "/mnt/lake", "claim": "lake"}]}, "`claim` is for kind 'kuberay'"),
        ({"shared_storage": ["lake"]}, "whole path of a folder"),
        ({"shared_storage": ["/mnt/../etc"]}, "whole path of a folder"),
        ({**KUBERAY, "kubernetes": {"secrets": ["S3_Keys"]}}, r"secrets\[0\] is not the name"),
        ({**AWS, "head": {}}, "the `head`'s `instance_type`"),
        ({**AWS, "launcher": None}, "needs `launcher` with the `region`"),
        ({**AWS, "kind": "gcp"}, "`launcher.zone` and `launcher.project`"),
        ({**AWS, "worker_groups": [CPU]}, "the `instance_type` of group 'cpu'"),
        ({**AWS, "head": {"node_selector": {"a": "b"}, "instance_type": "x"}}, "head: `node_selector` and"),
        ({**KUBERAY, "worker_groups": [{**CPU, "name": "GPU_1"}]}, "lower-case letters"),
        ({**KUBERAY, "worker_groups": [{**CPU, "min": 3}]}, "min is 3 and max 2"),
        ({**KUBERAY, "worker_groups": [{**CPU, "accelerator": "T4"}]}, "the group has no gpus"),
        ({**KUBERAY, "worker_groups": [{**CPU, "tolerations": [{"operator": "Equal", "value": "x"}]}]}, "`key`"),
        ({"job_server": "h:8265"}, "begins with http"),
        ({"job_server": "http://me:pw@h:8265"}, "holds no user, password"),
    ],
)
def test_what_does_not_agree_is_refused_with_the_remedy(wrong: dict[str, Any], told: str):
    with pytest.raises(ValidationError, match=told):
        ClusterProfile.model_validate(wrong)


def test_a_toleration_with_a_value_is_equal():
    profile = ClusterProfile.model_validate(
        {**KUBERAY, "worker_groups": [{**CPU, "tolerations": [{"key": "k", "value": "v"}, {"key": "k"}]}]}
    )
    assert [one.operator for one in profile.worker_groups[0].tolerations] == ["Equal", "Exists"]


# files


def load(folder: Path, profile: dict[str, Any]) -> ClusterProfile:
    (folder / "cluster.yaml").write_text(yaml.safe_dump(profile, sort_keys=False))
    return load_section(ClusterProfile, folder / "cluster.yaml")


@pytest.mark.parametrize(
    ("wrong", "where", "meant"),
    [
        ({**KUBERAY, "worker_group": []}, "worker_group", "worker_groups"),
        ({**KUBERAY, "worker_groups": [{**CPU, "gpu": 1}]}, "worker_groups[0].gpu", "gpus"),
        ({**KUBERAY, "kubernetes": {"secret": "s"}}, "kubernetes.secret", "secrets"),
        ({**AWS, "launcher": {"regoin": "x"}}, "launcher.regoin", "region"),
        ({**AWS, "head": {"memory": 1}}, "head.memory", "memory_mb"),
    ],
)
def test_a_misspelt_key_has_its_line_and_the_nearest_name(
    tmp_path: Path, wrong: dict[str, Any], where: str, meant: str
):
    with pytest.raises(InvalidSpec) as failure:
        load(tmp_path, wrong)
    lines = (tmp_path / "cluster.yaml").read_text().splitlines()
    key = where.rpartition(".")[2]
    (line,) = (number for number, text in enumerate(lines, 1) if text.strip().startswith(f"{key}:"))
    assert f"{where} (line {line}): unknown key. Did you mean '{meant}'?" in str(failure.value)


def test_a_mistake_of_the_whole_is_the_profiles(tmp_path: Path):
    with pytest.raises(InvalidSpec, match=r"profile: kind 'ray' needs an `address`"):
        load(tmp_path, {"kind": "ray"})


@pytest.mark.parametrize(
    "held",
    [
        {"runtime_env": {"env_vars": {"MY_PASSWORD": "hunter2-hunter2"}}},
        {"runtime_env": {"env_vars": {"HARMLESS": "hf_hunter2hunter2hunter2"}}},
        {"runtime_env": {"env_vars": {"URL": "https://me:hunter2@host/"}}},
        {"runtime_env": {"pip": ["--extra-index-url", "https://me:hunter2@host/simple"]}},
        {"job_server": "http://me:hunter2@h:8265"},
        {"token": "hunter2"},
        {"kind": "kuberay", "kubernetes": {"secrets": "hunter2"}, "runtime_env": {"env_vars": {"API_KEY": "hunter2"}}},
    ],
)
def test_a_key_is_refused_and_not_told(tmp_path: Path, held: dict[str, Any]):
    with pytest.raises(InvalidSpec) as failure:
        load(tmp_path, held)
    assert "hunter2" not in str(failure.value).replace("(got 'hunter2')", "")
    if "kind" not in held:
        assert "hunter2" not in str(failure.value)


def test_a_key_is_in_no_error_of_the_model_either():
    with pytest.raises(ValidationError) as failure:
        ClusterProfile.model_validate({"runtime_env": {"env_vars": {"HF_TOKEN": "hunter2"}}})
    assert "HF_TOKEN" in str(failure.value) and "hunter2" not in str(failure.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HF_TOKEN", "x"),
        ("AWS_SECRET_ACCESS_KEY", "x"),
        ("AWS_ACCESS_KEY_ID", "x"),
        ("openai.api-key", "x"),
        ("AZURE_STORAGE_ACCOUNT_KEY", "x"),
        ("DB_PASSWORD", "x"),
        ("HARMLESS", "AKIAIOSFODNN7EXAMPLE"),
        ("HARMLESS", SECRET_KEY),
        ("HARMLESS", "a" * 20 + "0" * 44),
        ("HARMLESS", "s3://b/k?X-Amz-Signature=abc"),
        ("HARMLESS", "-----BEGIN RSA PRIVATE KEY-----\nMII"),
    ],
)
def test_keys_are_known(name: str, value: str):
    assert looks_secret(name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TOKENIZERS_PARALLELISM", "false"),
        ("MAX_TOKENS", "512"),
        ("RAY_AUTH_TOKEN_PATH", "/run/secrets/token"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/token"),
        ("RAY_AUTH_MODE", "token"),
        ("KEYBOARD", "de"),
        ("REVISION", "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"),
        ("AWS_ENDPOINT_URL", "http://minio:9000"),
    ],
)
def test_what_is_no_key_is_let_through(name: str, value: str):
    assert not looks_secret(name, value)


def test_keys_are_found_at_their_places():
    held = {"a": [{"b": f"x {SECRET_KEY} y"}, 1, None], "c": "AKIAIOSFODNN7EXAMPLE", "d": "plain"}
    assert list(find_secrets(held)) == ["a[0].b", "c"]
    assert not is_key("plain")


# where it runs


def test_kind_local_is_private_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.5:6379")
    assert address_of(ClusterProfile(kind="local", cpus=2)) is None
    assert address_of(ClusterProfile.model_validate(KUBERAY)) == "10.0.0.5:6379"  # the driver, within the cluster


@pytest.mark.parametrize("profile", [KUBERAY, AWS, {"kind": "ray", "job_server": "http://h:8265"}])
def test_away_from_its_cluster_a_job_is_planned_but_not_run(profile: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    stated = ClusterProfile.model_validate(profile)
    assert stated.kind in REMOTE and f"kind '{stated.kind}'" in str(why_ray("auto", stated))
    with pytest.raises(ClusterError, match=r"is not on that cluster\.\n  (Send|Submit|Print)"):
        address_of(stated)
    if stated.worker_groups:
        assert capacity_of(stated) == stated.groups_capacity()
    with pytest.raises(SpecError, match="--runner inline runs in one process"):
        capacity_for("inline", stated)
