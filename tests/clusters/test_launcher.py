"""Files for Ray's launcher: valid by Ray's own schema, with what the profile says and no key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import ray
from jsonschema import Draft7Validator

from clusters import ClusterProfile
from clusters.launcher import launcher_file

CPU = {"name": "cpu", "cpus": 8, "min": 1, "max": 4, "instance_type": "m7i.2xlarge", "idle_s": 300}
GPU = {"name": "gpu", "cpus": 8, "gpus": 1, "max": 8, "spot": True, "instance_type": "g6.2xlarge"}
PROFILES: dict[str, dict[str, Any]] = {
    "aws": {"kind": "aws", "launcher": {"region": "eu-west-1", "image_id": "ami-1"}},
    "gcp": {"kind": "gcp", "launcher": {"region": "r", "zone": "r-a", "project": "p", "image_id": "i"}},
}


def made(kind: str, **more: Any) -> dict[str, Any]:
    shared = {"image": "i:1", "head": {"instance_type": "m7i.large"}, "worker_groups": [CPU, GPU]}
    return launcher_file("docs", ClusterProfile.model_validate({**shared, **PROFILES[kind], **more}))


@pytest.fixture(scope="module")
def schema() -> Draft7Validator:
    return Draft7Validator(json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text()))


@pytest.mark.parametrize("kind", PROFILES)
def test_files_are_valid(kind: str, schema: Draft7Validator):
    schema.validate(made(kind))
    schema.validate(made(kind, head={"instance_type": "x", "image": "h:1"}, token="file:/keys/ray"))
    schema.validate(made(kind, worker_groups=[{**GPU, "image": "gpu:1"}]))


def test_the_schema_refuses_what_it_does_not_know(schema: Draft7Validator):
    assert not schema.is_valid({**made("aws"), "max_worker": 3})


def test_groups_are_node_types():
    types = made("aws")["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}
    assert (types["cpu"]["min_workers"], types["cpu"]["max_workers"], types["cpu"]["idle_timeout_s"]) == (1, 4, 300)
    assert types["gpu"]["resources"] == {"CPU": 8, "GPU": 1}
    assert types["gpu"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in types["cpu"]["node_config"]
    assert made("gcp")["available_node_types"]["gpu"]["node_config"]["scheduling"][0] == {"preemptible": True}
    assert made("aws")["max_workers"] == 12


def test_the_token_is_copied_from_its_file():
    assert made("aws")["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    assert made("aws", token="file:/keys/ray")["file_mounts"] == {"~/.ray/auth_token": "/keys/ray"}
    assert all("RAY_AUTH_MODE=token" in made("aws")[f"{side}_start_ray_commands"][1] for side in ("head", "worker"))
