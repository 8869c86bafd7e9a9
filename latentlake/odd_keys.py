"""Keys of S3 that are legal and that obstore cannot address: `a//b`, `/a`, `a/../b`, `a/`, control characters.

obstore takes a key for a path; one such key makes the listing of its bucket fail. S3's own requests, which s3fs sends as it is
told, take keys as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import fsspec.asyn

from latentlake.storage import OBJECT_STORES, Storage, scheme_of

ODD_KEY = re.compile(r"(?:^|/)(?:\.{0,2})(?:/|$)|[\x00-\x1f\x7f]")
PAGE = 1000  # objects


def is_odd(key: str) -> bool:
    """Whether obstore cannot address this key: it has an empty segment, '.' or '..', or a control character."""
    return ODD_KEY.search(key) is not None


def is_odd_uri(storage: Storage, uri: str) -> bool:
    """Whether a URI below an S3 place has an odd key. Keys are names and no paths: '..' leads nowhere."""
    if OBJECT_STORES.get(scheme_of(storage.uri)) != "s3" or not uri.startswith(f"{storage.uri_of(storage.root)}/"):
        return False
    return is_odd(storage.path_of(uri).partition("/")[2])


def is_refusal(storage: Storage, failure: BaseException) -> bool:
    """Whether a listing failed because obstore met an odd key, and can be had otherwise."""
    return OBJECT_STORES.get(scheme_of(storage.uri)) == "s3" and "invalid path" in str(failure).lower()


def list_odd(storage: Storage, after: str | None = None) -> Iterator[list[dict[str, Any]]]:
    """What `Storage.list_pages` gives, with keys as they are, of those that sort behind `after`.

    Markers of folders, which are empty and end with '/', are left out.
    """
    bucket, _, prefix = storage.root.partition("/")
    asked: dict[str, Any] = {"Bucket": bucket, "Prefix": f"{prefix}/" if prefix else "", "MaxKeys": PAGE}
    if after is not None:
        asked["StartAfter"] = after
    while True:
        page = storage.s3fs.call_s3("list_objects_v2", **asked)
        yield [
            {
                "path": item["Key"],
                "size": item["Size"],
                "e_tag": item.get("ETag"),
                "last_modified": item["LastModified"],
            }
            for item in page.get("Contents", ())
            if item["Size"] or not item["Key"].endswith("/")
        ]
        if not page.get("IsTruncated"):
            return
        asked["ContinuationToken"] = page["NextContinuationToken"]


def exact_key(storage: Storage, path: str) -> str | None:
    """The key of an object that obstore calls `path`, for it leaves out slashes at either end; None if there is none."""
    bucket = storage.root.partition("/")[0]
    for key in (path, f"/{path}", f"{path}/"):
        found = storage.s3fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=key, MaxKeys=1)
        if any(item["Key"] == key for item in found.get("Contents", ())):
            return key
    return None


def read_odd(storage: Storage, key: str, version: str | None) -> bytes:
    """Content of an object, of the version (etag) that was listed. Raises `OSError`.

    Without the version, a proxy that makes one key of `a/../b` and `b` would give the content of another object.
    """
    bucket = storage.root.partition("/")[0]
    condition = {"IfMatch": version} if version and version.startswith('"') else {}

    from aiohttp import ClientError

    async def get() -> bytes:
        answer = await storage.s3fs._call_s3("get_object", Bucket=bucket, Key=key, **condition)
        try:
            async with answer["Body"] as body:
                content: bytes = await body.read()
        except ClientError as failure:
            raise OSError(f"the answer broke off: {failure}") from failure
        return content

    content: bytes = fsspec.asyn.sync(storage.s3fs.loop, get)
    return content
