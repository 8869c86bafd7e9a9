"""A planted key is looked for wherever a job leaves something: the lake, reports, logs, plan, command lines, errors."""

from __future__ import annotations

import gzip
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest
from job_maker import HASHING, make_job, open_table, run

from latentlake.storage import open_storage
from operators.errors import InvalidSpec
from pipelines.cli.options import parse_options
from pipelines.job.jobfile import parse_job
from pipelines.state.ledger import read_runs
from pipelines.state.manifest import described_runs

KEY, SECRET = "AKIAPLANTEDKEY00EVIL", "plantedSecret+that/is=nowhere00"


@pytest.fixture
def job(tmp_path: Path, s3_endpoint: str) -> dict[str, Any]:
    """A job whose source and lake are reached by planted credentials, given as references to files."""
    for name, value in (("key", KEY), ("secret", SECRET)):
        (tmp_path / name).write_text(value)
    options = {
        "aws_endpoint": s3_endpoint,
        "aws_region": "us-east-1",
        "aws_access_key_id": f"file:{tmp_path / 'key'}",
        "aws_secret_access_key": f"file:{tmp_path / 'secret'}",
    }
    client = boto3.client("s3", endpoint_url=s3_endpoint, region_name="us-east-1")
    for number in range(20):
        client.put_object(Bucket="objects", Key=f"secrets/{number}.txt", Body=f"text number {number}".encode())
    source = {"kind": "files", "uri": "s3://objects/secrets/", "storage_options": options}
    return make_job(tmp_path, source, [HASHING], table={"uri": "s3://lake/secrets", "storage_options": options})


def planted(content: bytes) -> bool:
    """Whether a content holds the key or the secret, plain or compressed."""
    contents = [content]
    if content[:2] == b"\x1f\x8b":
        contents.append(gzip.decompress(content))
    return any(word.encode() in found for found in contents for word in (KEY, SECRET))


def command_lines(stop: threading.Event, found: list[str]) -> None:
    """Collect command lines and environments of this process's children until told to stop."""
    while not stop.wait(0.1):
        for child in psutil.Process().children(recursive=True):
            try:
                found += [" ".join(child.cmdline()), json.dumps(child.environ())]
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue


def objects_of(endpoint: str, prefix: str) -> Iterator[tuple[str, bytes]]:
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    for page in client.get_paginator("list_objects_v2").paginate(Bucket="lake", Prefix=prefix):
        for item in page.get("Contents", ()):
            yield item["Key"], client.get_object(Bucket="lake", Key=item["Key"])["Body"].read()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_planted_key_is_nowhere(
    job: dict[str, Any], s3_endpoint: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG, logger="pipelines")
    caplog.set_level(logging.DEBUG, logger="latentlake")
    stop, seen = threading.Event(), [""]
    watcher = threading.Thread(target=command_lines, args=(stop, seen))
    watcher.start()
    try:
        report = run(job, runner="ray")
    finally:
        stop.set()
        watcher.join()
    assert report["counts"]["embedded"] == 20
    stored = dict(objects_of(s3_endpoint, "secrets/"))
    assert any(name.endswith("part-000000.parquet") for name in stored) and any("_runs" in name for name in stored)
    assert [name for name, content in stored.items() if planted(content)] == []
    table = open_table(job)
    lake = open_storage(job["table"]["uri"], job["table"]["storage_options"])
    said = [json.dumps(report), caplog.text, *capfd.readouterr(), repr(table), str(table.schema.metadata), *seen]
    said += [json.dumps(described_runs(lake, "t", False), default=str), repr(parse_job(job)), str(table.versions())]
    said += [str(read_runs(lake, "t")), table.provenance("h").to_json(), str(table.rejects().to_pylist())]
    assert [text for text in said if planted(text.encode())] == []


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_errors_do_not_tell_the_key(job: dict[str, Any]) -> None:
    source = {**job["source"], "uri": "s3://no-such-bucket/x/"}
    with pytest.raises(Exception) as failure:
        run({**job, "source": source}, runner="ray")
    texts = []
    error: BaseException | None = failure.value
    while error is not None:
        texts.append(str(error) + repr(error))
        error = error.__cause__ or error.__context__
    assert texts and not any(planted(text.encode()) for text in texts)


def test_a_literal_secret_is_refused_and_not_repeated(job: dict[str, Any]) -> None:
    options = {**job["table"]["storage_options"], "aws_secret_access_key": SECRET}
    with pytest.raises(InvalidSpec) as failure:
        parse_job({**job, "table": {**job["table"], "storage_options": options}})
    assert SECRET not in str(failure.value)
    with pytest.raises(InvalidSpec) as failure:
        parse_options([f"aws_secret_access_key={SECRET}"])
    assert SECRET not in str(failure.value)
