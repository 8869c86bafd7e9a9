"""Models in object storage: their files are copied to this machine, once for each content."""

from __future__ import annotations

import time
from pathlib import Path, PurePosixPath

from latentlake.storage import OBJECT_STORES, open_storage, scheme_of
from operators.batch import describe
from operators.embedders._cache import made_folder
from operators.embedders.base import short_hash
from operators.errors import ModelNotFound

FRESH_S = 60.0  # how long a listing is taken for what is there
COPIES = "models"  # folder in the user's cache

_copies: dict[str, tuple[float, Path]] = {}


def fetch_model(uri: str) -> Path:
    """The copy on this machine of a model's folder, or file, in an object store.

    It is kept by the names, sizes and ETags of the objects: what was overwritten in the store is copied again. Credentials are
    those of this machine's environment. Raises `ModelNotFound`.
    """
    known = _copies.get(uri)
    if known is None or time.monotonic() - known[0] > FRESH_S or not known[1].exists():
        known = _copies[uri] = time.monotonic(), copy_of(uri)
    return known[1]


def copy_of(uri: str) -> Path:
    """The copy of what is at `uri` now, made unless it is there."""
    from obstore.exceptions import BaseError

    if scheme_of(uri) not in OBJECT_STORES:
        raise ModelNotFound(f"no model '{uri}'. Give a folder, a hub id, or a place in an object store (s3://…).")
    storage = open_storage(uri)
    root = storage.root.partition("/")[2]
    try:
        found = {str(entry["path"]): entry for page in storage.list_pages() for entry in page}
    except (BaseError, OSError) as failure:  # also of keys that no file can have, as those with `..`
        raise ModelNotFound(f"model '{uri}' cannot be listed: {describe(failure)}") from failure
    inside = {path.removeprefix(f"{root}/"): path for path in found if path.startswith(f"{root}/") and path[-1] != "/"}
    alone = PurePosixPath(root).name if root in found else None
    files = {alone: root} if alone else inside
    if not files:
        raise ModelNotFound(f"no model at '{uri}': there is no such object, and none below it.")
    bucket = storage.root.partition("/")[0]

    def copy(folder: Path) -> None:
        """Fill the folder of the copy."""
        for name, path in files.items():
            target = folder / name.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            storage.fs.get_file(f"{bucket}/{path}", str(target))

    content = {name: [found[path]["size"], found[path]["e_tag"]] for name, path in files.items()}
    folder = made_folder(COPIES, short_hash({"uri": uri, "content": content}), copy)
    return folder / alone if alone else folder
