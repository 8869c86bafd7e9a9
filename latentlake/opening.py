"""Lance datasets: opening one, one of its versions, and what a version says of the commit that made it."""

from __future__ import annotations

from typing import Any

from latentlake.storage import Storage
from operators.errors import NotFound, did_you_mean


def open_lance(storage: Storage, version: int | None = None, block_size: int | None = None, session: Any = None) -> Any:
    """The Lance dataset at a place, at its newest version or at `version`; None where there is none.

    Lance joins reads that stand less than `block_size` bytes apart, and reads what lies between them too; by default 64 KB in
    an object store. What it reads of indexes and of files' metadata it keeps in `session`, or with the dataset.
    """
    import lance

    from latentlake.retries import retried

    options = {"version": version, "block_size": block_size, "session": session}
    try:
        return retried(lance.LanceDataset)(storage.lance_uri, **options, **storage.lance_arguments)
    except ValueError as failure:
        if "was not found" in str(failure):
            return None
        raise


def read_transaction(dataset: Any, version: int) -> Any:
    """The transaction that made a version; None where it was cleaned up, or pylance cannot read it.

    That is so of a compaction of indexed rows (pylance 14.0.2: `RewrittenIndex.__init__() missing 3 …`).
    """
    from latentlake.retries import is_transient

    try:
        return dataset.read_transaction(version)
    except (TypeError, ValueError, OSError) as failure:
        if is_transient(failure):
            raise
        return None


def checkout(dataset: Any, name: str, wanted: int | str) -> Any:
    """The dataset of table `name` at a version or a tag. Raises `NotFound`, naming what there is."""
    if isinstance(wanted, str):
        tags = sorted(dataset.tags.list())
        if wanted not in tags:
            raise NotFound(
                f"table '{name}' has no tag '{wanted}'.{did_you_mean(wanted, tags)}\n  Tags: {', '.join(tags) or 'none'}"
            )
        return dataset.checkout_version(wanted)
    try:
        return dataset.checkout_version(wanted)
    except (ValueError, OSError, OverflowError) as failure:
        numbers = [int(found["version"]) for found in dataset.versions()]
        if wanted in numbers:
            raise
        raise NotFound(
            f"table '{name}' has no version {wanted}; there are {len(numbers)}, from {min(numbers)} to {max(numbers)}.\n"
            "  `versions()` lists them; a cleaned-up version is gone for good."
        ) from failure
