"""AWS credentials as AWS users have them: found by botocore in the process that needs them, and refreshed while it runs.

Profiles, SSO, assumed roles, web identity, `credential_process`, container and instance metadata are botocore's. One
`Credentials` per process and way to find them serves obstore, Lance and s3fs, which ask it again as theirs grow old. ADR 6.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property
from typing import Any

from operators.errors import CredentialsError

log = logging.getLogger(__name__)

# Storage options, without `aws_`, that say how credentials are found; obstore and Lance never see them.
WAYS = ("profile", "role_arn", "role_session_name", "external_id", "web_identity_token_file")
# What makes a place's credentials its own affair: keys, none at all, or an address that obstore alone knows.
OWN = ("access_key_id", "secret_access_key", "skip_signature", "container_credentials_relative_uri")
OWN_ADDRESSES = ("container_credentials_full_uri", "container_authorization_token_file", "metadata_endpoint")
STRAY = "AWS_SESSION_TOKEN"
CHECK_S = 300  # keys that live longer, or for ever, are looked up again so often
FAR = datetime.max.replace(tzinfo=UTC)
AGAIN_S = 10  # after a look-up that failed while the last keys are still good
METADATA_ATTEMPTS = 3  # of one second each, where no more are configured


@dataclass(frozen=True)
class Way:
    """How credentials are found; equal ways share them."""

    profile: str | None = None
    role_arn: str | None = None
    role_session_name: str | None = None
    external_id: str | None = None
    web_identity_token_file: str | None = None
    region: str | None = None
    keys: tuple[str, str] | None = field(default=None, repr=False)  # that are given, and have no session token


@dataclass(frozen=True)
class Keys:
    """What requests are signed with. `expires_at` is None for keys that do not expire."""

    access_key: str
    secret_key: str
    token: str | None
    expires_at: datetime | None

    def __repr__(self) -> str:
        return f"Keys(expires_at={self.expires_at})"


class Credentials:
    """The keys of one way to find them, looked up again before they expire. Made by `credentials_of`."""

    def __init__(self, way: Way) -> None:
        self.way = way
        self._found: Any = None
        self._keys: Keys | None = None
        self._check_at = datetime.min.replace(tzinfo=UTC)
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("credentials stay in their process; send the `Storage`")

    @property
    def keys(self) -> Keys:
        """Keys that are good now. Raises `CredentialsError`."""
        with self._lock:
            now = datetime.now(UTC)
            if self._keys is None or now >= self._check_at:
                self._look_up(now)
            assert self._keys is not None
            return self._keys

    @cached_property
    def settings(self) -> dict[str, str]:
        """Region and endpoint that the profile names, as storage options. Raises `CredentialsError`."""
        return {} if self.way.keys else profile_settings(self.way)

    def doubt(self) -> None:
        """Look up afresh at the next use: a store has called the keys expired."""
        with self._lock:
            self._found, self._check_at = None, datetime.min.replace(tzinfo=UTC)

    def _look_up(self, now: datetime) -> None:
        try:
            if getattr(self._found, "refresh_needed", None) is None:  # keys of a file, which may have been rewritten
                self._found = find(self.way)
            keys = freeze(self._found)
        except CredentialsError as failure:
            if self._keys is None or (self._keys.expires_at is not None and self._keys.expires_at <= now):
                raise
            log.warning(
                "the credentials could not be refreshed and are used until %s: %s", self._keys.expires_at, failure
            )
            again = now + timedelta(seconds=AGAIN_S)
            self._check_at = min(again, self._keys.expires_at or again)
            return
        left = CHECK_S if keys.expires_at is None else (keys.expires_at - now).total_seconds() / 2
        self._keys, self._check_at = keys, now + timedelta(seconds=min(CHECK_S, max(left, 0.5)))

    def for_obstore(self) -> dict[str, Any]:
        """obstore's credential provider: it asks again as soon as `expires_at` is five minutes away."""
        keys = self.keys
        soon = datetime.now(UTC) + timedelta(seconds=CHECK_S)
        expires_at = min(keys.expires_at or soon, soon)
        return {
            "access_key_id": keys.access_key,
            "secret_access_key": keys.secret_key,
            "token": keys.token,
            "expires_at": expires_at,
        }

    def for_lance(self) -> dict[str, str]:
        """The keys as Lance's `storage_options`, with the time at which it asks again."""
        keys = self.keys
        soon = datetime.now(UTC) + timedelta(seconds=CHECK_S)
        expires_at = min(keys.expires_at or soon, soon)
        options = {
            "aws_access_key_id": keys.access_key,
            "aws_secret_access_key": keys.secret_key,
            "expires_at_millis": str(int(expires_at.timestamp() * 1000)),
        }
        return options if keys.token is None else {**options, "aws_session_token": keys.token}

    def for_lance_alone(self) -> dict[str, str]:
        """`for_lance` where Lance cannot ask again, and would take a session token that the keys lack from the environment."""
        if (self.keys.expires_at or FAR) < datetime.now(UTC) + timedelta(seconds=CHECK_S):
            self.doubt()
        return ({"aws_session_token": ""} if STRAY in os.environ else {}) | self.for_lance()


class LanceClient:
    """What Lance asks for the keys of a table, whose id is its URI: the two methods of a Lance namespace that it calls.

    `lance_namespace`'s own base class costs a second of import and adds nothing to these.
    """

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    def namespace_id(self) -> str:
        """Name under which Lance shares connections."""
        return f"latentlake-{id(self._credentials)}"

    def describe_table(self, request: Any) -> LanceAnswer:
        """The keys, and the time at which to ask again."""
        return LanceAnswer(self._credentials.for_lance())


class LanceAnswer:
    """An answer of `LanceClient`, in the form that Lance reads."""

    def __init__(self, storage_options: dict[str, str]) -> None:
        self.storage_options = storage_options

    def model_dump(self) -> dict[str, Any]:
        """The answer as a plain dict, as pydantic gives it."""
        return {"storage_options": self.storage_options}


def known_options(options: Mapping[str, str]) -> dict[str, str]:
    """Options by their names in small letters and without `aws_`."""
    return {name.lower().removeprefix("aws_"): value for name, value in options.items()}


def without_ways(options: Mapping[str, str]) -> dict[str, str]:
    """The options that obstore and Lance know."""
    return {name: value for name, value in options.items() if name.lower().removeprefix("aws_") not in WAYS}


def way_of(options: Mapping[str, str]) -> Way | None:
    """How to find the credentials of an S3 place, from its options (references read).

    None where obstore and Lance find them alike by themselves: keys in the options, or in the environment; no signature.
    Not so keys without a session token where the environment has one, which both would send along.
    """
    known = known_options(options)
    profile, role, session_name, external_id, token_file = (known.get(name) or None for name in WAYS)
    asked = {name for name in WAYS if known.get(name)}
    given = known.get("access_key_id"), known.get("secret_access_key")
    if not asked and all(given) and STRAY in os.environ and not known.keys() & {"session_token", "token"}:
        return Way(keys=(str(given[0]), str(given[1])))
    if not asked and any(name in known for name in (*OWN, *OWN_ADDRESSES)):
        return None
    if not asked and "AWS_ACCESS_KEY_ID" in os.environ and "AWS_SECRET_ACCESS_KEY" in os.environ:
        return None
    if asked - {"profile"} and not role:
        raise CredentialsError(f"storage_options: {', '.join(sorted(asked - {'profile'}))} without role_arn.")
    if both := [name for name in OWN if asked and name in known]:
        raise CredentialsError(
            f"storage_options: both {', '.join(sorted(asked))} and {', '.join(both)} say which credentials to use; keep one."
        )
    region = known.get("region") or known.get("default_region") or os.environ.get("AWS_REGION")
    return Way(profile, role, session_name, external_id, token_file, region)


SHARED: dict[tuple[Way, frozenset[tuple[str, str]]], Credentials] = {}


def credentials_of(way: Way) -> Credentials:
    """The credentials that are found this way: one object per process, as long as its AWS variables stay the same."""
    variables = frozenset((name, value) for name, value in os.environ.items() if name.startswith("AWS_"))
    return SHARED.setdefault((way, variables), Credentials(way))


def doubt_all() -> None:
    """Have every `Credentials` of this process look its keys up afresh."""
    for credentials in list(SHARED.values()):
        credentials.doubt()


def open_session(way: Way) -> Any:
    """botocore's session. Raises `CredentialsError` if there is no such profile, or one that asks a person."""
    import botocore.session
    from botocore.exceptions import BotoCoreError

    session = botocore.session.Session(profile=way.profile)
    session.register_component("data_loader", service_models(os.environ.get("AWS_DATA_PATH")))
    try:
        profiles, name = session.full_config.get("profiles", {}), session.profile or "default"
        if session.profile and name not in profiles:
            raise CredentialsError(
                f"no AWS profile '{name}'.\n  Profiles here: {', '.join(sorted(profiles)) or 'none'}"
            )
        if way.region and not session.get_config_variable("region"):
            session.set_config_variable("region", way.region)
        if session.get_config_variable("metadata_service_num_attempts") == 1:
            session.set_config_variable("metadata_service_num_attempts", METADATA_ATTEMPTS)
    except BotoCoreError as failure:
        raise CredentialsError(f"{failure}.") from failure
    seen: list[str] = []
    while name in profiles and name not in seen:
        if "mfa_serial" in profiles[name]:
            raise CredentialsError(
                f"AWS profile '{name}' asks for the code of an MFA device, which no job can answer.\n"
                "  Log in first (`aws sso login`, or `aws sts get-session-token`) and name the profile that holds the session."
            )
        seen.append(name)
        name = profiles[name].get("source_profile", "")
    return session


@cache
def service_models(data_path: str | None) -> Any:
    """What botocore knows of the services: megabytes of JSON, which every session would read for itself."""
    from botocore.loaders import create_loader

    return create_loader(data_path)


def profile_settings(way: Way) -> dict[str, str]:
    """Region and S3 endpoint that the profile of a way names, as storage options."""
    session = open_session(way)
    scoped, services = session.get_scoped_config(), session.full_config.get("services", {})
    endpoint = services.get(scoped.get("services"), {}).get("s3", {}).get("endpoint_url") or scoped.get("endpoint_url")
    found = {"aws_region": session.get_config_variable("region"), "aws_endpoint": endpoint}
    return {name: value for name, value in found.items() if value}


def find(way: Way) -> Any:
    """botocore's credentials object. Raises `CredentialsError` if nothing gives credentials."""
    from botocore.exceptions import BotoCoreError

    if way.keys:
        from botocore.credentials import Credentials as GivenKeys

        return GivenKeys(*way.keys)
    session = open_session(way)
    keep_expiry(session)
    try:
        if way.web_identity_token_file:
            return assume_role(session, way, None)
        found = session.get_credentials()
        if found is not None:
            return assume_role(session, way, found) if way.role_arn else found
    except (BotoCoreError, OSError) as failure:
        raise CredentialsError(f"no AWS credentials: {failure}.") from failure
    raise CredentialsError(
        f"no AWS credentials: {f'profile {way.profile!r}' if way.profile else 'neither the environment nor a profile'} names "
        "any, and neither a container nor an instance offers them.\n"
        "  Log in (`aws sso login`, `aws configure`), set AWS_PROFILE, or give `profile:` in storage_options. A public bucket "
        "takes `aws_skip_signature: true`."
    )


def assume_role(session: Any, way: Way, base: Any) -> Any:
    """Refreshable credentials of `way.role_arn`, assumed with `base`, or with a web identity where that is None."""
    from botocore import credentials, utils

    chosen = {"RoleSessionName": way.role_session_name, "ExternalId": way.external_id}
    extra = {name: value for name, value in chosen.items() if value}
    if base is None:
        loader = utils.FileWebIdentityTokenLoader(way.web_identity_token_file)
        fetcher = credentials.AssumeRoleWithWebIdentityCredentialFetcher(
            session.create_client, loader, way.role_arn, extra_args=extra
        )
    else:
        fetcher = credentials.AssumeRoleCredentialFetcher(session.create_client, base, way.role_arn, extra_args=extra)
    return credentials.DeferredRefreshableCredentials(fetcher.fetch_credentials, "assume-role")


def keep_expiry(session: Any) -> None:
    """Have botocore tell when an instance's keys expire.

    It puts off the expiry of those with less than about 25 minutes left, expecting a late refresh, so that a cache would keep
    them for too long. What is left to it are keys that have expired already: the metadata service has an outage then.
    """
    fetcher = session.get_component("credential_provider").get_provider("iam-role")._role_fetcher
    put_off = fetcher._evaluate_expiration

    def put_off_expired(credentials: dict[str, Any]) -> None:
        """Put an expiry off that has passed."""
        if (credentials.get("expiry_time") or "") <= datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"):
            put_off(credentials)

    fetcher._evaluate_expiration = put_off_expired


def freeze(found: Any) -> Keys:
    """Keys of botocore's credentials object, refreshed by it where due. Raises `CredentialsError`."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        frozen = found.get_frozen_credentials()
    except (BotoCoreError, ClientError, OSError, RuntimeError) as failure:  # RuntimeError: refreshed, and still expired
        raise CredentialsError(f"no AWS credentials: {failure}.") from failure
    expires_at = getattr(found, "_expiry_time", None)
    utc = None if expires_at is None else expires_at.astimezone(UTC)
    return Keys(frozen.access_key, frozen.secret_key, frozen.token, utc)
