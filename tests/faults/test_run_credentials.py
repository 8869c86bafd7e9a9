"""Runs whose credentials are found by each process, expire in the middle, or cannot be had any more."""

from __future__ import annotations

import gzip
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import boto3
import pytest
import ray.cloudpickle
from aws_maker import ROLE, FakeAws
from job_maker import check_accounting, make_job, open_table, run
from processes import Driver
from run_maker import Here, stages_of

from latentlake import retries
from latentlake.storage import open_storage
from operators.errors import SourceError
from pipelines.planning.plan import Plan
from pipelines.sources.files import read_file

TEXTS = {f"{number}.txt": f"text number {number}" for number in range(40)}


@pytest.fixture
def client(s3_endpoint: str) -> Any:
    """A client of the S3 server behind, which needs no leave."""
    return boto3.client("s3", "us-east-1", endpoint_url=s3_endpoint, aws_access_key_id="a", aws_secret_access_key="b")


@pytest.fixture
def prefix(client: Any, tmp_path: Path) -> str:
    """Where this test's objects lie in the bucket `objects`, and its lake in `lake`."""
    for name, text in TEXTS.items():
        client.put_object(Bucket="objects", Key=f"{tmp_path.name}/{name}", Body=text.encode())
    return tmp_path.name


def job_of(folder: Path, prefix: str, source: Mapping[str, str], table: Mapping[str, str]) -> dict[str, Any]:
    """A job over the bucket; the options say how credentials of source and table are found."""
    found = {"kind": "files", "uri": f"s3://objects/{prefix}/", "storage_options": dict(source)}
    return make_job(
        folder, found, table={"uri": f"s3://lake/{prefix}", "storage_options": dict(table)}, shard={"max_objects": 10}
    )


def places_of_secrets(client: Any, prefix: str, aws: FakeAws, *texts: bytes) -> list[str]:
    """Objects of the lake, and texts, that hold a key which was handed out; plain or compressed."""
    found, words = (
        {f"text {number}": text for number, text in enumerate(texts)},
        [word.encode() for word in aws.secrets],
    )
    for page in client.get_paginator("list_objects_v2").paginate(Bucket="lake"):
        for item in page.get("Contents", ()):
            if item["Key"].startswith(prefix) or "_runs" in item["Key"]:
                found[item["Key"]] = client.get_object(Bucket="lake", Key=item["Key"])["Body"].read()
    assert any("_runs" in name for name in found) and any("manifest" in name or "run.json" in name for name in found)
    plain = {name: gzip.decompress(text) if text[:2] == b"\x1f\x8b" else text for name, text in found.items()}
    return [name for name, text in plain.items() if any(word in text for word in words)]


def with_web_identity(aws: FakeAws, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment as in a pod of EKS."""
    (folder / "identity").write_text(aws.web_identity)
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(folder / "identity"))
    monkeypatch.setenv("AWS_ROLE_ARN", ROLE)


def test_keys_expire_in_the_middle_of_a_run(
    aws: FakeAws, client: Any, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Several times over. No key is in what a task is made of, nor in what the run leaves."""
    sent: list[bytes] = []

    class Kept(Here):
        """The run's work, in this process; what would be sent to workers is kept, after it has been used."""

        def embed_shards(
            self, plan: Plan, version: int | None, shards: Sequence[int], attempt: str
        ) -> Iterator[dict[str, Any]]:
            yield from super().embed_shards(plan, version, shards, attempt)
            sent.append(ray.cloudpickle.dumps((plan, stages_of(plan, version, shards, attempt))))

    with_web_identity(aws, tmp_path, monkeypatch)
    aws.lifetime_s, aws.delay_s = 2, 0.03
    job = job_of(tmp_path, prefix, {}, {})
    report = run(job, runner=Kept())
    check_accounting(report)
    assert report["counts"]["embedded"] == len(TEXTS) and report["counts"]["rejected"] == 0
    assert open_table(job).count() == len(TEXTS)
    assert aws.issued["web identity"] >= 3 and not aws.refused, (aws.issued, aws.refused)
    assert len(sent) == 1 and places_of_secrets(client, prefix, aws, *sent) == []
    assert run(job)["counts"]["unchanged"] == len(TEXTS)


def test_keys_that_cannot_be_had_any_more_end_the_reading(
    aws: FakeAws, client: Any, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Not one reject per object."""
    monkeypatch.setattr(retries, "AGAIN_S", 1)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with_web_identity(aws, tmp_path, monkeypatch)
    aws.lifetime_s = 2
    storage = open_storage(f"s3://objects/{prefix}")
    assert read_file(storage, f"s3://objects/{prefix}/1.txt") == b"text number 1"
    aws.down.add("sts")
    time.sleep(2)
    with pytest.raises(
        SourceError, match=r"the store of 's3://objects/.*' does not answer: .*AssumeRoleWithWebIdentity"
    ):
        read_file(storage, f"s3://objects/{prefix}/2.txt")


def test_keys_of_the_environment_that_expire_end_the_reading(
    aws: FakeAws, client: Any, prefix: str, monkeypatch: pytest.MonkeyPatch
):
    """Nobody can refresh them."""
    keys = aws.grant("session", 1.5)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys["SecretAccessKey"])
    monkeypatch.setenv("AWS_SESSION_TOKEN", keys["Token"])
    monkeypatch.setattr(retries, "AGAIN_S", 1)
    storage = open_storage(f"s3://objects/{prefix}")
    assert read_file(storage, f"s3://objects/{prefix}/1.txt") == b"text number 1"
    time.sleep(1.5)
    with pytest.raises(SourceError, match=r"refuses the credentials: .*ExpiredToken"):
        read_file(storage, f"s3://objects/{prefix}/2.txt")


@pytest.mark.slow
def test_workers_find_their_own(
    aws: FakeAws, client: Any, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A driver and its Ray, where only a profile leads to the source, by a role, and only the instance to the table."""
    (tmp_path / "credentials").write_text(f"[base]\n{aws.profile('base')}")
    (tmp_path / "config").write_text(f"[profile reader]\nrole_arn = {ROLE}\nsource_profile = base\n")
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    aws.lifetime_s = 4
    driver = Driver(tmp_path, job_of(tmp_path, prefix, {"profile": "reader"}, {}))
    report = driver.succeed()
    check_accounting(report)
    assert report["counts"]["embedded"] == len(TEXTS) and report["counts"]["rejected"] == 0
    assert set(aws.used) == {"role", "instance"} and not aws.refused, (aws.used, aws.refused)
    assert min(aws.issued["role"], aws.issued["instance"]) >= 4, aws.issued  # of the driver and its workers, and again
    assert places_of_secrets(client, prefix, aws, driver.log.encode(), str(report).encode()) == []
