"""One way to reach local disk and object stores, and the credentials for it.

`open_storage(uri, options)` gives a fsspec filesystem with a root. Object stores go through obstore, whose option names
are Lance's (`aws_access_key_id`, `aws_endpoint`, …), so that one `storage_options` serves source and table alike.
Option values are literals for what is public and references for what is secret: `env:NAME` or `file:PATH`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec

from operators.errors import SpecError

OBJECT_STORES = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "az": "az", "abfs": "abfs", "abfss": "abfss"}
SECRET_WORDS = ("secret", "token", "password", "account_key", "sas", "access_key_id", "api_key", "credential")
# The AWS variable for an endpoint, which object_store reads too; a plain-http one needs its leave to be used.
ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")


def is_secret(name: str) -> bool:
    """Whether the option `name` may hold a secret, and so must be a reference."""
    return any(word in name.lower() for word in SECRET_WORDS)


def is_reference(value: str) -> bool:
    """Whether `value` is `env:NAME` or `file:PATH`."""
    return value.startswith(("env:", "file:"))


def resolve_options(options: Mapping[str, Any] | None) -> dict[str, str]:
    """Options with every reference read, where the process runs. Raises `SpecError` where one leads nowhere."""
    resolved = {}
    for name, value in (options or {}).items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        if text.startswith("env:"):
            if text[4:] not in os.environ:
                raise SpecError(f"storage_options.{name}: the environment has no variable '{text[4:]}'; set it.")
            text = os.environ[text[4:]]
        elif text.startswith("file:"):
            try:
                text = Path(text[5:]).expanduser().read_text().strip()
            except OSError as failure:
                raise SpecError(f"storage_options.{name}: cannot read '{text[5:]}': {failure.strerror}.") from failure
        resolved[name] = text
    return resolved


def scheme_of(uri: str) -> str:
    """Scheme of `uri`; "file" for a plain path."""
    scheme = urlsplit(uri).scheme
    return scheme if len(scheme) > 1 else "file"


def lance_options(uri: str, options: Mapping[str, Any] | None) -> dict[str, str]:
    """`storage_options` for Lance and LanceDB: references read, plain http allowed where the endpoint is http."""
    resolved = resolve_options(options)
    if OBJECT_STORES.get(scheme_of(uri)) == "s3":
        known = {name.lower().removeprefix("aws_"): value for name, value in resolved.items()}
        endpoint = known.get("endpoint") or known.get("endpoint_url")
        if endpoint is None:
            endpoint = next((os.environ[name] for name in ENDPOINT_VARIABLES if name in os.environ), None)
            if endpoint:
                resolved["aws_endpoint"] = endpoint
        if endpoint and endpoint.startswith("http://"):
            resolved.setdefault("allow_http", "true")
    return resolved


@dataclass(frozen=True)
class Storage:
    """A place: `uri` (no trailing slash) and the options that reach it. Cheap to send to another process."""

    uri: str
    options: Mapping[str, str]

    def __hash__(self) -> int:
        return hash((self.uri, *sorted(self.options.items())))

    @cached_property
    def fs(self) -> fsspec.AbstractFileSystem:
        """The filesystem. Object stores are reached through obstore, which retries with backoff by itself."""
        scheme = scheme_of(self.uri)
        if scheme == "file":
            return fsspec.filesystem("file", auto_mkdir=True)
        if scheme not in OBJECT_STORES:
            return fsspec.filesystem(scheme, **resolve_options(self.options))
        from obstore.fsspec import FsspecStore

        config = lance_options(self.uri, self.options)
        client = {"allow_http": True} if config.pop("allow_http", "false") == "true" else {}
        return FsspecStore(OBJECT_STORES[scheme], config=config or None, client_options=client or None)

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
        import obstore
        from obstore.store import from_url

        config = lance_options(self.uri, self.options)
        client = {"allow_http": True} if config.pop("allow_http", "false") == "true" else {}
        # The prefix is no part of the URL, in which '#', '?' and '%' of a key would mean something else.
        scheme, bucket = urlsplit(self.lance_uri)[:2]
        store = from_url(f"{scheme}://{bucket}", config=config or None, client_options=client or None)
        prefix, found = self.root.partition("/")[2], False
        for page in obstore.list(store, prefix=prefix or None, chunk_size=1000):
            found = True
            yield list(page)
        if prefix and not found:
            try:
                yield [obstore.head(store, prefix)]
            except FileNotFoundError:
                return

    @property
    def lance_options(self) -> dict[str, str] | None:
        """`storage_options` for Lance at this place; None on local disk."""
        return None if scheme_of(self.uri) == "file" else lance_options(self.uri, self.options)

    @property
    def lance_uri(self) -> str:
        """URI for Lance: an absolute path on local disk."""
        return self.root if scheme_of(self.uri) == "file" else self.uri.replace("s3a://", "s3://", 1)


def open_storage(uri: str, options: Mapping[str, Any] | None = None) -> Storage:
    """The place `uri` (a path, `s3://…`, `gs://…`, `az://…`, or any scheme fsspec knows). Nothing is read yet."""
    return Storage(str(uri).rstrip("/") or "/", {name: str(value) for name, value in (options or {}).items()})
