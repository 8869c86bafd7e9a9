"""One way to reach local disk and object stores, and the credentials for it.

`open_storage(uri, options)` gives a fsspec filesystem with a root. Object stores go through obstore, whose option names
are Lance's (`aws_access_key_id`, `aws_endpoint`, …), so that one `storage_options` serves source and table alike.
Option values are literals for what is public and references for what is secret: `env:NAME` or `file:PATH`.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec

from latentlake.credentials import (
    Credentials,
    LanceClient,
    credentials_of,
    known_options,
    way_of,
    without_ways,
)
from operators.errors import SpecError

log = logging.getLogger(__name__)

OBJECT_STORES = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "az": "az", "abfs": "abfs", "abfss": "abfss"}
LIST_FROM_ANY_KEY = ("s3", "gs")  # in one request; of the others obstore lists all, and passes over what comes before
NO_LINKS = (
    None,
    errno.EPERM,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
)  # how a file system says it has no hard links
CLAIM_S = 60.0
SECRET_WORDS = ("secret", "token", "password", "account_key", "sas", "access_key_id", "api_key", "credential")
# The AWS variable for an endpoint, which object_store reads too; a plain-http one needs its leave to be used.
ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")


def is_secret(name: str) -> bool:
    """Whether the option `name` may hold a secret, and so must be a reference. The path of a file is none."""
    return not name.lower().endswith("_file") and any(word in name.lower() for word in SECRET_WORDS)


def is_reference(value: str) -> bool:
    """Whether `value` is `env:NAME` or `file:PATH`."""
    return value.startswith(("env:", "file:"))


def resolve_options(options: Mapping[str, Any] | None) -> dict[str, str]:
    """Options with every reference read, where the process runs. Raises `SpecError` if one leads nowhere."""
    resolved = {}
    for name, value in (options or {}).items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        if text.startswith("env:"):
            if text[4:] not in os.environ:
                raise SpecError(f"storage_options.{name}: the environment has no variable '{text[4:]}'; set it.")
            text = os.environ[text[4:]]
        elif text.startswith("file:"):
            try:
                text = Path(text[5:]).expanduser().read_text(encoding="utf-8").strip()
            except OSError as failure:
                raise SpecError(f"storage_options.{name}: cannot read '{text[5:]}': {failure.strerror}.") from failure
        resolved[name] = text
    return resolved


def scheme_of(uri: str) -> str:
    """Scheme of `uri`; "file" for a plain path."""
    scheme = urlsplit(uri).scheme
    return scheme if len(scheme) > 1 else "file"


def lance_options(uri: str, options: Mapping[str, Any] | None) -> dict[str, str]:
    """Options as obstore and Lance name them: references read, plain http allowed where the endpoint is http.

    How credentials are found is not among them, but the region and the endpoint of a profile are. Raises `SpecError`.
    """
    resolved = resolve_options(options)
    if (scheme := scheme_of(uri)) in OBJECT_STORES:
        from latentlake.store_options import check_options, without_prefix

        resolved = without_prefix(resolved)
        resolved = aws_options(resolved) if OBJECT_STORES[scheme] == "s3" else resolved
        check_options(OBJECT_STORES[scheme], frozenset(resolved.items()))
    return resolved


def aws_options(resolved: dict[str, str]) -> dict[str, str]:
    """See `lance_options`."""
    way, resolved = way_of(resolved), without_ways(resolved)
    known = known_options(resolved)
    settings = credentials_of(way).settings if way else {}
    endpoint = known.get("endpoint") or known.get("endpoint_url")
    if endpoint is None:
        endpoint = next((os.environ[name] for name in ENDPOINT_VARIABLES if name in os.environ), None)
        endpoint = endpoint or settings.get("aws_endpoint")
        if endpoint:
            resolved["aws_endpoint"] = endpoint
    if endpoint and endpoint.startswith("http://"):
        resolved.setdefault("allow_http", "true")
    if endpoint and endpoint != (winner := os.environ.get(ENDPOINT_VARIABLES[0], endpoint)):
        raise SpecError(
            f"storage_options: the endpoint '{endpoint}' would be passed over for {ENDPOINT_VARIABLES[0]} ('{winner}') by "
            f"obstore.\n  Unset the variable, or use {ENDPOINT_VARIABLES[1]} for what names no endpoint of its own."
        )
    if "aws_region" in settings and not known.keys() & {"region", "default_region"}:
        resolved["aws_region"] = settings["aws_region"]
    return resolved


@dataclass(frozen=True)
class Storage:
    """A place: `uri` (no trailing slash) and the options that reach it. Cheap to send to another process."""

    uri: str
    options: Mapping[str, str]

    def __hash__(self) -> int:
        return hash((self.uri, *sorted(self.options.items())))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as references: the open filesystem, which holds the secrets they lead to, stays in its process."""
        return type(self), (self.uri, dict(self.options))

    @cached_property
    def fs(self) -> fsspec.AbstractFileSystem:
        """The filesystem. Object stores are reached through obstore, as patiently as `latentlake.retries` says."""
        scheme = scheme_of(self.uri)
        if scheme == "file":
            return fsspec.filesystem("file", auto_mkdir=True)
        if scheme not in OBJECT_STORES:
            return fsspec.filesystem(scheme, **resolve_options(self.options))
        from latentlake.retries import PatientStore

        return PatientStore(OBJECT_STORES[scheme], **self._store_arguments)

    @cached_property
    def s3fs(self) -> Any:
        """An s3fs filesystem for this S3 place, with the same credentials and endpoint as `fs`. Raises `MissingExtra`."""
        from latentlake.s3 import open_s3fs

        return open_s3fs(lance_options(self.uri, self.options), self.credentials)

    @cached_property
    def root(self) -> str:
        """Path of `uri` as the filesystem writes it, no trailing slash."""
        if scheme_of(self.uri) == "file":
            return str(Path(self.uri.removeprefix("file://")).expanduser().absolute())
        return self.uri.split("://", 1)[1].rstrip("/")

    def path(self, *parts: str) -> str:
        """Path of something below the root, as the filesystem writes it."""
        return "/".join([self.root, *parts])

    def child(self, *parts: str) -> Storage:
        """The storage of a place below this one."""
        return Storage("/".join([self.uri.rstrip("/"), *parts]), self.options)

    def uri_of(self, path: str) -> str:
        """URI of a path that the filesystem wrote."""
        return path if scheme_of(self.uri) == "file" else f"{scheme_of(self.uri)}://{path.lstrip('/')}"

    def path_of(self, uri: str) -> str:
        """Path of a URI of this place's scheme, as the filesystem writes it; the inverse of `uri_of`."""
        return uri.removeprefix("file://") if scheme_of(self.uri) == "file" else uri.split("://", 1)[1]

    def list_pages(self) -> Iterator[list[dict[str, Any]]]:
        """Objects below this place of an object store, page by page: path (in the bucket), size, e_tag, last_modified.

        Where the place is itself an object, that one alone.
        """
        from latentlake.listing import list_ahead, list_pages

        prefix, found = self.root.partition("/")[2], False
        pages = list_ahead if OBJECT_STORES[scheme_of(self.uri)] in LIST_FROM_ANY_KEY else list_pages
        for page in pages(self._bucket, prefix):
            found = True
            yield page
        if prefix and not found:
            try:
                yield [self.head(self.root)]
            except FileNotFoundError:
                return

    def answers(self) -> bool:
        """Whether the object store of this place answers at all; asked with little patience."""
        from latentlake.retries import PROBE_S, is_outage

        hasty = Storage(self.uri, {**self.options, "client_retry_timeout": str(PROBE_S), "read_timeout": f"{PROBE_S}s"})
        try:
            hasty.head(self.path("does-it-answer"))
        except Exception as failure:  # "not found" and "not allowed" are answers
            return not is_outage(failure)
        return True

    def head(self, path: str) -> dict[str, Any]:
        """What `list_pages` says about one object, asked again. Raises `FileNotFoundError`."""
        import obstore

        found: dict[str, Any] = obstore.head(self._bucket, path.partition("/")[2])
        return found

    @cached_property
    def _bucket(self) -> Any:
        """The bucket of an object store, in which paths are keys."""
        from obstore.store import from_url

        # The prefix is no part of the URL, in which '#', '?' and '%' of a key would mean something else.
        scheme, bucket = urlsplit(self.lance_uri)[:2]
        return from_url(f"{scheme}://{bucket}", **self._store_arguments)

    @cached_property
    def credentials(self) -> Credentials | None:
        """The AWS credentials of this place, where they are found and refreshed by us; see `credentials.way_of`.

        Raises `CredentialsError` if there are none: at once, before a library waits for a metadata service.
        """
        if OBJECT_STORES.get(scheme_of(self.uri)) != "s3":
            return None
        way = way_of(resolve_options(self.options))
        if way is None:
            return None
        found = credentials_of(way)
        _ = found.keys
        return found

    @property
    def _store_arguments(self) -> dict[str, Any]:
        from latentlake.store_options import store_arguments

        arguments = store_arguments(lance_options(self.uri, self.options))
        return (
            arguments
            if self.credentials is None
            else {**arguments, "credential_provider": self.credentials.for_obstore}
        )

    def put_if_absent(self, name: str, content: bytes) -> bool:
        """Write a small object below this place unless one of that name is there; whether it now holds `content`.

        True also where a retried request finds what the first attempt wrote, so contents must tell writers apart.
        Raises `SpecError` for a kind of store that cannot do it.
        """
        path, scheme = self.path(name), scheme_of(self.uri)
        if scheme in OBJECT_STORES:
            from latentlake.retries import create

            return create(self._bucket, path.partition("/")[2], content)
        if scheme != "file":
            raise SpecError(f"'{self.uri}': a lake must be on local disk or in an object store (s3, gs, az).")
        try:
            write_once(Path(path), content)
        except FileExistsError:
            try:
                return Path(path).read_bytes() == content
            except FileNotFoundError:
                return False
        return True

    def put(self, name: str, content: bytes) -> None:
        """Write a small object below this place, in place of one of that name; whoever reads it finds one or the other whole."""
        path = self.path(name)
        if scheme_of(self.uri) != "file":
            self.fs.pipe_file(path, content)
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with draft_of(Path(path), content) as draft:
            draft.replace(path)

    def check_conditional_writes(self) -> None:
        """Raise `SpecError` where this place lets a second writer overwrite what a first one wrote if absent.

        A table there could lose commits. Local disks are known to be right.
        """
        if scheme_of(self.uri) == "file":
            return
        name = f"probe-{secrets.token_hex(8)}"
        try:
            if self.put_if_absent(name, b"first") and not self.put_if_absent(name, b"second"):
                return
        except NotImplementedError:
            log.debug("'%s' refuses conditional writes", self.uri)
        finally:
            self.remove(name)
        raise SpecError(
            f"'{self.uri}': the store ignores conditional writes (If-None-Match), so that two writers could overwrite each "
            "other's commits.\n  Use a store that has them for tables; objects may be read from this one."
        )

    def list_names(self) -> list[str]:
        """Names of files and folders directly below this place, sorted; empty if there are none."""
        try:
            paths = self.fs.ls(self.root, detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(name for path in paths if (name := path.rstrip("/").rsplit("/", 1)[-1]))

    def list_times(self) -> list[tuple[str, datetime]]:
        """Names of the files directly below this place, with the time (UTC) that each was written."""
        if scheme_of(self.uri) in OBJECT_STORES:  # whose `ls` says no times
            start = len(self.path("").partition("/")[2])
            named = ((found["path"][start:], found["last_modified"]) for page in self.list_pages() for found in page)
            return [(name, written) for name, written in named if name and "/" not in name]
        try:
            found = self.fs.ls(self.root, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        files = (info for info in found if info["type"] == "file")
        return [(info["name"].rsplit("/", 1)[-1], datetime.fromtimestamp(info["mtime"], UTC)) for info in files]

    def remove(self, *parts: str) -> None:
        """Remove a file or a folder below this place, with all in it; nothing happens if there is none."""
        path = self.path(*parts)
        with suppress(FileNotFoundError):  # another process may remove it at the same time
            if self.fs.exists(path):
                self.fs.rm(path, recursive=True)

    @property
    def lance_options(self) -> dict[str, str] | None:
        """`storage_options` for Lance at this place, with our patience; None on local disk.

        With keys that are good now. What works for longer takes `lance_arguments`, by which they are refreshed.
        """
        if scheme_of(self.uri) == "file":
            return None
        from latentlake.retries import lance_patience

        keys = {} if self.credentials is None else self.credentials.for_lance_alone()
        return lance_patience() | lance_options(self.uri, self.options) | keys

    @property
    def lance_arguments(self) -> dict[str, Any]:
        """Arguments by which Lance opens, reads and writes the table at this place, and refreshes its credentials.

        For `LanceDataset`, `write_fragments` and `LanceFileReader`, beside the URI. They hold no refreshed key.
        """
        if self.credentials is None:
            return {"storage_options": self.lance_options}
        from latentlake.retries import lance_patience

        options = lance_patience() | lance_options(self.uri, self.options)
        client = LanceClient(self.credentials)
        return {"storage_options": options, "namespace_client": client, "table_id": [self.lance_uri]}

    @property
    def lance_uri(self) -> str:
        """URI for Lance: an absolute path on local disk."""
        return self.root if scheme_of(self.uri) == "file" else self.uri.replace("s3a://", "s3://", 1)


def write_once(path: Path, content: bytes) -> None:
    """Write a file whole, or not at all. Raises `FileExistsError` if there is one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with draft_of(path, content) as draft:
        try:
            path.hardlink_to(draft)
        except FileExistsError:
            raise
        except (NotImplementedError, OSError) as failure:
            if getattr(failure, "errno", None) not in NO_LINKS:
                raise
            move_if_absent(draft, path)


def move_if_absent(draft: Path, path: Path) -> None:
    """Put a file in its place where none is, on a file system without hard links. Raises `FileExistsError`.

    A second file says who may; one that a process left which died in between counts for nothing after `CLAIM_S`.
    """
    claim = path.with_name(f".{path.name}.claim")
    with suppress(FileNotFoundError):
        if time.time() - claim.stat().st_mtime > CLAIM_S:
            claim.unlink()
    claim.touch(exist_ok=False)
    try:
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        draft.replace(path)
    finally:
        claim.unlink(missing_ok=True)


@contextmanager
def draft_of(path: Path, content: bytes) -> Iterator[Path]:
    """A file beside `path` that holds `content`, for as long as it takes to put it there."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        draft.write_bytes(content)
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def open_storage(uri: str, options: Mapping[str, Any] | None = None) -> Storage:
    """The place `uri` (a path, `s3://…`, `gs://…`, `az://…`, or any scheme fsspec knows). Nothing is read yet."""
    return Storage(str(uri).rstrip("/") or "/", {name: str(value) for name, value in (options or {}).items()})
