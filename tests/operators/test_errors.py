"""The error tree: what a message shows, and what it never shows."""

from __future__ import annotations

import pickle

import pytest

from operators.batch import RowError, describe
from operators.errors import InvalidSpec, LatentLakeError, SourceError, redact_url

SIGNED = "https://b.s3.amazonaws.com/k.txt?X-Amz-Credential=KEY%2F2026&X-Amz-Expires=9&X-Amz-Signature=0a1b"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://user:pass@host/a?b=c", "https://***@host/a?b=c"),
        ("postgres://user:p@ss@host", "postgres://***@host"),
        ("cannot read 'http://u:p@h:1/x': no", "cannot read 'http://***@h:1/x': no"),
        (
            f"see {SIGNED}.",
            "see https://b.s3.amazonaws.com/k.txt?X-Amz-Credential=***&X-Amz-Expires=9&X-Amz-Signature=***",
        ),
        ("https://acc.blob.core.windows.net/c/k?sv=2024&sig=a%2Fb%3D (403)", "https://acc.blob.core.windows.net/c/k?sv=2024&sig=*** (403)"),
        ("https://s/k?AWSAccessKeyId=AK&Signature=x%3D&Expires=1", "https://s/k?AWSAccessKeyId=***&Signature=***&Expires=1"),
        ("https://s/k?a=1&amp;token=abc", "https://s/k?a=1&amp;token=***"),
        ("<Error><AWSAccessKeyId>AKIAIOSFODNN7EXAMPLE</AWSAccessKeyId></Error>", "<Error><AWSAccessKeyId>***</AWSAccessKeyId></Error>"),
        ("<Token-0>FwoGZX", "<Token-0>***"),
        ("the key AKIAIOSFODNN7EXAMPLE is unknown", "the key AKIA*** is unknown"),
        ("Authorization: AWS4-HMAC-SHA256 Credential=x, Signature=y", "Authorization: ***"),
    ],
)  # fmt: skip
def test_secrets_of_addresses_are_not_shown(text: str, shown: str):
    assert redact_url(text) == shown
    assert redact_url(shown) == shown
    assert shown in str(LatentLakeError(text))
    assert describe(RowError(text)) == shown


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/mail@host/x", "/data/a@b.txt", "me@host https://host/x", "https://host?q=me@host",
        "s3://bucket/a?tokens=1", "signature=1", "Generic S3 error: 404",
    ],
)  # fmt: skip
def test_everything_else_is(text: str):
    assert redact_url(text) == text


def test_errors_are_redacted_as_they_are_made():
    failure = InvalidSpec([f"uri: {SIGNED}"], "job.yaml")
    copy = pickle.loads(pickle.dumps(failure))
    assert "0a1b" not in f"{failure} {failure.problems} {copy} {copy.problems}"
    assert str(pickle.loads(pickle.dumps(SourceError("http://u:p@h")))) == "http://***@h"


def test_what_an_object_store_shows_of_its_insides_is_left_out():
    text = 'Generic S3 error: no answer\n\nDebug source:\nGeneric { store: "S3" }'
    assert describe(OSError(text)) == "OSError: Generic S3 error: no answer"
