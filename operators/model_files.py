"""Where a model's files lie and what their content is: the revision that a fingerprint holds.

A model is a local folder, or one in an object store that is copied here: its revision is the sha256 over its files. Or it is a
hub id, whose revision is the commit that the hub resolves. Hashes of large files are cached by path, size and mtime. Jobs download what they name; a reader of a
table, whose words are another's, looks models up within `downloads_if(False)`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from operators.embedders.base import EmbedderConfig, short_hash
from operators.errors import ModelNotFound, SpecError

HASH_CACHE = "sha256.json"
NO_DOWNLOADS = "is not on this machine, and nothing is downloaded without `allow_downloads=True`."

_downloads_allowed: ContextVar[bool] = ContextVar("downloads_allowed", default=True)
_places_allowed: ContextVar[Collection[str] | None] = ContextVar("places_allowed", default=None)
_fetchers: list[Callable[[str], Path]] = []


@contextmanager
def downloads_if(allowed: bool) -> Iterator[None]:
    """Within, models are fetched where they are not on this machine, or, unless `allowed`, are a `ModelNotFound`."""
    token = _downloads_allowed.set(allowed)
    try:
        yield
    finally:
        _downloads_allowed.reset(token)


def downloads_allowed() -> bool:
    """Whether models may be fetched; see `downloads_if`."""
    return _downloads_allowed.get()


@contextmanager
def models_from(places: Collection[str]) -> Iterator[None]:
    """Within, models in object stores are copied only from at or below these URIs; another is a `SpecError`."""
    token = _places_allowed.set(places)
    try:
        yield
    finally:
        _places_allowed.reset(token)


def fetch_with(fetch: Callable[[str], Path]) -> None:
    """Let `fetch` copy what lies in an object store to this machine, and say where: it is asked by URI."""
    _fetchers[:] = [fetch]


def in_store(place: str) -> bool:
    """Whether a model, or a file of it, is given by its URI in an object store."""
    return "://" in place


def local_path(place: str) -> Path:
    """Where a model's folder or file lies on this machine; what is given by URI is copied here. It need not be there.

    Raises `ModelNotFound` for a URI at which there is nothing, and `SpecError` for one that is not allowed (`models_from`).
    """
    if not in_store(place):
        return Path(place).expanduser()
    allowed = _places_allowed.get()
    if allowed is not None and not any(f"{place}/".startswith(f"{known.rstrip('/')}/") for known in allowed):
        raise SpecError(
            f"the model lies at '{place}', a place that you did not allow.\n"
            f"  If you trust it: connect(uri, allow_models={{'{place}'}}). Or search with a vector, or with `id=`."
        )
    if not _fetchers:
        raise ModelNotFound(f"nobody here can copy '{place}': import latentlake first.")
    return _fetchers[0](place)


def sha256_of(path: Path) -> str:
    """Sha256 of a file's content, hex. Cached by path, size and mtime in the user's cache folder."""
    from platformdirs import user_cache_path

    stat = path.stat()
    key = f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}"
    cache_file = user_cache_path("latentlake") / HASH_CACHE
    cache = read_cache(cache_file)
    if key not in cache:
        with path.open("rb") as file:
            cache[key] = hashlib.file_digest(file, "sha256").hexdigest()
        try:
            cache_file.parent.mkdir(parents=True, exist_ok=True)
            temporary = cache_file.with_suffix(f".{key.__hash__() & 0xFFFFFF:x}")
            temporary.write_text(json.dumps(cache), encoding="utf-8")
            temporary.replace(cache_file)
        except OSError:
            return cache[key]  # a cache that cannot be written costs time, nothing else
    return cache[key]


def read_cache(path: Path) -> dict[str, str]:
    """The hash cache; empty where there is none, or none that can be read."""
    try:
        cache: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return cache


def revision_of_files(files: Iterable[Path], root: Path) -> str:
    """Revision of a local model: a hash over the names (relative to `root`) and contents of `files`, 32 hex digits."""
    return short_hash({file.relative_to(root).as_posix(): sha256_of(file) for file in sorted(files)})


def check_pinned(files: str, found: str, pinned: str | None) -> None:
    """Raise `ModelNotFound`, naming both revisions, where `pinned` is not what `files` (words for them) are."""
    if pinned not in (None, found):
        raise ModelNotFound(
            f"{files} are {found}, not {pinned}, which `revision` pins.\n"
            "  Give the files of that revision, or pin the one that is there."
        )


def skipped(name: Path) -> bool:
    """Whether a file below the model's folder takes no part in the torch model."""
    return name.parts[0] in ("onnx", "openvino") or any(part.startswith(".") for part in name.parts)


def is_path(model: str) -> bool:
    """Whether a model is given by where it lies, on this machine or in an object store; else it is a hub id."""
    local = Path(model).expanduser()
    return in_store(model) or local.exists() or local.is_absolute() or model.startswith((".", "/", "~"))


def unpinned_model(config: EmbedderConfig) -> str | None:
    """The hub id of a config that does not say which revision of it is meant; None where it does, or names no hub model."""
    model = getattr(config, "model", None)
    if model is None or getattr(config, "revision", "") is not None or getattr(config, "weights", None) is not None:
        return None
    return None if is_path(model) else str(model)


def find_model(model: str, revision: str | None, patterns: Sequence[str]) -> tuple[Path, str | None]:
    """Folder with the model's files, and the hub commit it holds (None for a local folder).

    `model` is a local folder, the URI of one in an object store, or a hub id, of which the files that match `patterns` are fetched once, at `revision`.
    Raises `ModelNotFound` with the remedy. The files of a local folder are not compared with `revision`.
    """
    local = local_path(model)
    if local.is_dir():
        return local, None
    if is_path(model):
        raise ModelNotFound(f"no model folder '{model}'. Give an existing folder, or a hub id such as 'owner/name'.")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
            OfflineModeIsEnabled,
        )
    except ImportError as failure:
        raise ModelNotFound(f"'{model}' is no local folder, and huggingface_hub is not installed.") from failure
    try:
        folder = Path(
            snapshot_download(
                model, revision=revision, allow_patterns=list(patterns), local_files_only=not downloads_allowed()
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as failure:
        if not downloads_allowed():
            raise ModelNotFound(f"model '{model}' {NO_DOWNLOADS}") from failure
        raise ModelNotFound(
            f"model '{model}' is neither a local folder nor to be had from the hub: {str(failure).splitlines()[0]}\n"
            "  Check the name, or download the model and give its folder."
        ) from failure
    return folder, folder.name  # the hub's cache names a snapshot's folder by its commit
