"""Credentials as AWS users have them, against fake services on loopback and an S3 that checks every signature."""

from __future__ import annotations

import pickle
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from aws_maker import ROLE, FakeAws
from lance import LanceDataset, LanceOperation
from lance.file import LanceFileReader
from lance.fragment import write_fragments

import latentlake
from latentlake.credentials import Way, credentials_of
from latentlake.keys import open_for_look_ups
from latentlake.opening import open_lance
from latentlake.storage import Storage, is_secret, lance_options, open_storage
from operators.errors import CredentialsError, SpecError

TABLE = pa.table({"n": range(1000)})


def place_of(options: dict[str, str] | None = None, name: str = "x") -> Storage:
    return open_storage(f"s3://lake/credentials/{name}", options)


def by_profile(aws: FakeAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    (tmp_path / "credentials").write_text(f"[work]\n{aws.profile('profile')}")
    return {"profile": "work"}


def by_variable(aws: FakeAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    (tmp_path / "credentials").write_text(f"[work]\n{aws.profile('profile')}")
    monkeypatch.setenv("AWS_PROFILE", "work")
    return {}


def by_process(aws: FakeAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    (tmp_path / "ask.py").write_text(
        "import json, urllib.request\n"
        f"request = urllib.request.Request('{aws.endpoint}/container', headers={{'Authorization': '{aws.container_token}'}})\n"
        "keys = json.load(urllib.request.urlopen(request))\n"
        "print(json.dumps({'Version': 1, 'SessionToken': keys.pop('Token'), **keys}))\n"
    )
    (tmp_path / "config").write_text(f"[profile work]\ncredential_process = {sys.executable} {tmp_path}/ask.py\n")
    return {"aws_profile": "work"}


def by_role_of_profile(aws: FakeAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    (tmp_path / "credentials").write_text(f"[base]\n{aws.profile('profile')}")
    (tmp_path / "config").write_text(f"[profile work]\nrole_arn = {ROLE}\nsource_profile = base\n")
    return {"profile": "work"}


def by_role(aws: FakeAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", (keys := aws.grant("base", token=False))["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys["SecretAccessKey"])
    return {"aws_role_arn": ROLE, "aws_role_session_name": "nightly", "aws_external_id": "partner"}


def by_web_identity(aws: FakeAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    (tmp_path / "identity").write_text(aws.web_identity)
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "identity"))
    monkeypatch.setenv("AWS_ROLE_ARN", ROLE)
    return {}


def by_web_identity_option(aws: FakeAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    (tmp_path / "identity").write_text(aws.web_identity)
    return {"aws_role_arn": ROLE, "aws_web_identity_token_file": str(tmp_path / "identity")}


def by_container(aws: FakeAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    (tmp_path / "authorization").write_text(aws.container_token)
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{aws.endpoint}/container")
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "authorization"))
    return {}


def by_instance(aws: FakeAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    return {}


WAYS = {
    by_profile: "profile",
    by_variable: "profile",
    by_process: "container",
    by_role_of_profile: "role",
    by_role: "role",
    by_web_identity: "web identity",
    by_web_identity_option: "web identity",
    by_container: "container",
    by_instance: "instance",
}


@pytest.fixture(params=WAYS, ids=lambda way: way.__name__)
def way(request: pytest.FixtureRequest) -> Callable[..., dict[str, str]]:
    return request.param


def write_table(table: Storage) -> LanceDataset:
    """Write a table of 1,000 rows in two steps, as a run does; it, opened."""
    fragments = write_fragments(TABLE, table.lance_uri, schema=TABLE.schema, mode="create", **table.lance_arguments)
    operation = LanceOperation.Overwrite(TABLE.schema, fragments)
    LanceDataset.commit(table.lance_uri, operation, storage_options=table.lance_options)
    return open_lance(table)


def use_everywhere(place: Storage) -> None:
    """Write and read through obstore, Lance and s3fs."""
    assert place.put_if_absent("a.txt", b"1") and place.list_names() == ["a.txt"]
    assert place.fs.cat_file(place.path("a.txt")) == b"1"
    assert [item["size"] for page in place.list_pages() for item in page] == [1]
    table = place.child("t.lance")
    dataset = write_table(table)
    data = f"{table.lance_uri}/data/{dataset.get_fragments()[0].metadata.files[0].path}"
    assert LanceFileReader(data, **table.lance_arguments).read_all().to_table().num_rows == 1000
    dataset.tags.create("prod", 1)
    assert dataset.count_rows() == 1000 and len(dataset.take([5])) == 1
    assert place.s3fs.cat_file(place.path("a.txt")) == b"1"
    place.remove()


def test_every_way_serves_obstore_lance_and_s3fs(
    way: Callable[..., dict[str, str]], aws: FakeAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    place = place_of(way(aws, tmp_path, monkeypatch), way.__name__)
    use_everywhere(place)
    assert set(aws.used) == {WAYS[way]} and not aws.refused, (aws.used, aws.refused)
    assert aws.issued[WAYS[way]] == 1  # one look-up serves all of a process


@pytest.mark.parametrize("way", [by_process, by_role, by_web_identity, by_container, by_instance])
def test_keys_are_replaced_before_they_expire(
    way: Callable[..., dict[str, str]], aws: FakeAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    aws.lifetime_s = 2
    place = place_of(way(aws, tmp_path, monkeypatch), way.__name__)
    assert place.put_if_absent("a.txt", b"1")
    dataset, fs = write_table(place.child("t.lance")), place.s3fs
    looked_up = open_for_look_ups(place.child("t.lance"), 1)
    until = time.monotonic() + 2.5
    while time.monotonic() < until:
        assert place.fs.cat_file(place.path("a.txt")) == fs.cat_file(place.path("a.txt")) == b"1"
        assert dataset.to_table().num_rows == looked_up.to_table().num_rows == 1000
        time.sleep(0.2)
    assert aws.issued[WAYS[way]] >= 3 and not aws.refused
    place.remove()


def test_an_outage_of_the_service_is_waited_out(aws: FakeAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """STS fails as keys are due: the old ones serve while they are good, and then requests wait for new ones."""
    aws.lifetime_s = 2
    place = place_of(by_web_identity(aws, tmp_path, monkeypatch), "outage")
    assert place.put_if_absent("a.txt", b"1")
    aws.down.add("sts")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    began, back = time.monotonic(), threading.Timer(2.5, aws.down.clear)
    back.start()
    while time.monotonic() < began + 3.5:
        assert place.fs.cat_file(place.path("a.txt")) == b"1"
        time.sleep(0.1)
    assert not aws.refused and aws.issued["web identity"] >= 2


def test_keys_that_a_store_calls_expired_are_looked_up_again(
    aws: FakeAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A tool rewrites the credentials file with a session that ends before its time."""
    place = place_of(by_profile(aws, tmp_path, monkeypatch), "revoked")
    assert place.put_if_absent("a.txt", b"1")
    for key, given in aws.grants.items():
        aws.grants[key] = replace(given, until=0)
    (tmp_path / "credentials").write_text(f"[work]\n{aws.profile('second')}")
    assert place.fs.cat_file(place.path("a.txt")) == b"1"
    assert aws.refused.keys() == {"ExpiredToken"} and aws.used["second"] == 1


def test_a_role_that_is_not_ours_fails_at_once_and_says_so(
    aws: FakeAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    place = place_of({**by_role(aws, tmp_path, monkeypatch), "aws_role_arn": ROLE + "-of-others"})
    began = time.monotonic()
    with pytest.raises(CredentialsError, match="AccessDenied"):
        place.list_names()
    assert time.monotonic() - began < 10


def test_without_credentials_it_fails_fast_and_says_so(aws: FakeAws, monkeypatch: pytest.MonkeyPatch):
    """No file, no variable, and a metadata address that swallows what is sent to it."""
    with socket.create_server(("127.0.0.1", 0), backlog=1) as silent:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
        began = time.monotonic()
        with pytest.raises(CredentialsError, match="aws sso login"):
            latentlake.connect("s3://lake/credentials").tables()
        assert time.monotonic() - began < 20


def test_a_public_bucket_needs_none(s3_endpoint: str, aws: FakeAws, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_endpoint)
    place = place_of({"aws_skip_signature": "true"}, "public")
    assert place.credentials is None and place.put_if_absent("a", b"1")
    assert place.s3fs.anon  # moto, unlike S3, wants a signature of who reads what an anonymous user wrote


def test_a_profile_of_the_options_wins_over_keys_of_the_environment(
    aws: FakeAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Also over a session token, which the profile's keys have not."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAWRONG")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "wrong")
    use_everywhere(place_of(by_profile(aws, tmp_path, monkeypatch), "wins"))
    assert set(aws.used) == {"profile"} and not aws.refused


def test_keys_of_the_options_are_not_mixed_with_a_token_of_the_environment(
    aws: FakeAws, monkeypatch: pytest.MonkeyPatch
):
    keys = aws.grant("given", token=False)
    options = {"aws_access_key_id": keys["AccessKeyId"], "aws_secret_access_key": "env:LL_TEST_SECRET"}
    monkeypatch.setenv("LL_TEST_SECRET", keys["SecretAccessKey"])
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of other keys")
    use_everywhere(place_of(options, "mixed"))
    assert set(aws.used) == {"given"} and not aws.refused


def test_an_endpoint_that_a_variable_would_win_over_is_refused(aws: FakeAws):
    with pytest.raises(SpecError, match="passed over for AWS_ENDPOINT_URL_S3"):
        place_of({"aws_skip_signature": "true", "aws_endpoint": "http://127.0.0.1:1"}).list_names()


def test_a_profile_brings_its_region_and_endpoint(aws: FakeAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("AWS_REGION", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name)
    settings = f"region = eu-central-1\nservices = ours\n[services ours]\ns3 =\n  endpoint_url = {aws.endpoint}\n"
    options = by_profile(aws, tmp_path, monkeypatch)
    (tmp_path / "config").write_text(f"[profile work]\n{settings}")
    wanted = {"aws_region": "eu-central-1", "aws_endpoint": aws.endpoint, "allow_http": "true"}
    assert lance_options("s3://lake/x", options) == wanted
    assert lance_options("s3://lake/x", {**options, "region": "us-west-2"}).get("aws_region") is None
    use_everywhere(place_of(options, "region"))
    assert set(aws.used) == {"profile"} and not aws.refused


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"profile": "absent"}, "no AWS profile 'absent'.*Profiles here: coded, work"),
        ({"profile": "coded"}, "MFA"),
        ({"profile": "work", "aws_access_key_id": "x", "aws_secret_access_key": "y"}, "keep one"),
        ({"aws_external_id": "x"}, "without role_arn"),
        ({"aws_role_arn": ROLE, "aws_web_identity_token_file": "/nowhere"}, "/nowhere"),
    ],
)
def test_what_cannot_be_is_said(options: dict[str, str], what: str, aws: FakeAws, tmp_path: Path):
    (tmp_path / "credentials").write_text(f"[work]\n{aws.profile('profile')}")
    (tmp_path / "config").write_text(f"[profile coded]\nrole_arn = {ROLE}\nsource_profile = work\nmfa_serial = arn:x\n")
    with pytest.raises(CredentialsError, match=f"(?s){what}"):
        place_of(options).list_names()


def test_nothing_secret_leaves_the_process(aws: FakeAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    place = place_of(by_web_identity(aws, tmp_path, monkeypatch), "pickled")
    dataset = write_table(place.child("t.lance"))
    place.put("a", b"1")
    sent = pickle.dumps((place, dataset)) + repr((place.credentials.keys, place.lance_arguments)).encode()
    assert len(aws.secrets) >= 3 and not [word for word in aws.secrets if word.encode() in sent]
    with pytest.raises(TypeError, match="stay in their process"):
        pickle.dumps(place.credentials)
    place.remove()


def test_ways_share_what_is_found_as_long_as_the_variables_stay(aws: FakeAws, monkeypatch: pytest.MonkeyPatch):
    first = credentials_of(Way(profile="a"))
    assert credentials_of(Way(profile="a")) is first and credentials_of(Way(profile="b")) is not first
    monkeypatch.setenv("AWS_PROFILE", "c")
    assert credentials_of(Way(profile="a")) is not first


def test_the_path_of_a_secret_is_none():
    assert not is_secret("aws_web_identity_token_file") and not is_secret("aws_profile") and not is_secret("role_arn")
    assert is_secret("aws_session_token")
