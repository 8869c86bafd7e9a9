"""The JSON schema that `latentlake schema` prints takes what `validate` takes, and refuses what an editor can refuse."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from test_jobfile import GOOD, ONE_MISTAKE, changed

from pipelines.cli.jobs import schema as schema_command
from pipelines.job.document import job_schema
from pipelines.job.jobfile import parse_job


@pytest.fixture(scope="module")
def schema() -> Draft202012Validator:
    found = job_schema()
    Draft202012Validator.check_schema(found)
    return Draft202012Validator(found)


@pytest.mark.parametrize(
    "job",
    [
        GOOD,
        {**GOOD, "preprocess": None, "index": None},
        changed("source.metadata", ["title", {"column": "year", "type": "int32"}]),
        changed("source", {"kind": "files", "uri": "in", "include": ["*.txt"]}),
        changed("embed.1", {"column": "more", "model": "minilm"}),
        changed("embed.1", {"column": "more", "model": "minilm", "pool": None, "dtype": "binary"}),
        {**GOOD, "deduplicate": {"column": "words", "threshold": 0.1, "keep": "farthest", "clusters": 3}},
        {**GOOD, "deduplicate": None},
        {**GOOD, "limits": {"object_timeout_s": 5}, "decode": {"encoding": "cp437"}},
    ],
)
def test_what_is_valid(schema: Draft202012Validator, job: dict[str, Any]):
    assert parse_job(job).name == GOOD["name"]
    schema.validate(job)


# What is wrong of one value alone; what sections say of one another, and secrets, only `validate` finds.
OF_ONE_VALUE = (": unknown key.", ": is missing", ": must be a ", ": Input should be ", ": no modality", "source.kind: no", "embed[1].family: no", "preprocess[0].op: no", "table.mode:", "publish.tag:", "embed[0].dtype:", "name: 'a b'")  # fmt: skip


@pytest.mark.parametrize(
    "job", [pytest.param(job, id=told) for job, told in ONE_MISTAKE if any(part in told for part in OF_ONE_VALUE)]
)
def test_what_an_editor_marks(schema: Draft202012Validator, job: dict[str, Any]):
    assert not schema.is_valid(job)


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]):
    schema_command()
    assert json.loads(capsys.readouterr().out) == job_schema()
