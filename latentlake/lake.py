"""A lake: a folder or bucket prefix with one Lance dataset per table."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from latentlake.filters import reason_of
from latentlake.names import REJECTS_SUFFIX, check_table_name, is_internal
from latentlake.opening import checkout, open_lance
from latentlake.query import QueryModels
from latentlake.query_log import QueryLog, default_log
from latentlake.storage import Storage, open_storage
from latentlake.table import Table
from latentlake.trust import Trust
from operators.errors import LatentLakeError, NotFound, SpecError, did_you_mean

SUFFIX = ".lance"
DEFAULT_TAG = "prod"


class Lake:
    """The tables below one address. Made by `connect`; holds the models that queries loaded."""

    def __init__(self, storage: Storage, models: QueryModels) -> None:
        self._storage = storage
        self._models = models

    @property
    def uri(self) -> str:
        """The lake's address."""
        return self._storage.uri

    def tables(self) -> list[str]:
        """Names of the tables, sorted; empty if there is no lake yet. Internal tables are hidden."""
        from obstore.exceptions import BaseError

        try:
            paths = self._storage.fs.ls(self._storage.root, detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except (OSError, BaseError) as failure:
            raise self._unreadable(failure) from failure
        # A run that published nothing leaves a folder with data and without versions.
        paths = [
            path
            for path in paths
            if path.endswith((SUFFIX, f"{SUFFIX}/")) and self._storage.fs.exists(f"{path.rstrip('/')}/_versions")
        ]
        names = [path.rstrip("/").rsplit("/", 1)[-1] for path in paths]
        return sorted(
            n.removesuffix(SUFFIX) for n in names if n.endswith(SUFFIX) and not is_internal(n.removesuffix(SUFFIX))
        )

    def open(self, name: str, *, version: int | None = None, tag: str | None = None) -> Table:
        """Open a table at `version` or at `tag`; with neither, at the tag `prod` if there is one, else the newest version.

        The table stays there until it is checked out elsewhere. Raises `NotFound` and `SpecError` (a bad name).
        """
        if version is not None and tag is not None:
            raise SpecError("give `version` or `tag`, not both.")
        check_table_name(name)
        try:
            dataset = open_lance(self._storage.child(name + SUFFIX))
        except OSError as failure:
            raise self._unreadable(failure) from failure
        if dataset is None:
            raise self._no_table(name)
        if version is None and tag is None:
            tag = DEFAULT_TAG if DEFAULT_TAG in dataset.tags.list() else None
        wanted = version if tag is None else tag
        if wanted is not None:
            dataset = checkout(dataset, name, wanted)
        return Table(name, dataset, self._storage, self._models, tag)

    def table_names(self) -> list[str]:
        """The same as `tables`, by lancedb's name for it."""
        return self.tables()

    def open_table(self, name: str, *, version: int | None = None, tag: str | None = None) -> Table:
        """The same as `open`, by lancedb's name for it."""
        return self.open(name, version=version, tag=tag)

    def rejects(self, name: str) -> pa.Table:
        """Objects that runs of the table `name` rejected or filtered; also those of a run that published nothing.

        `latentlake.table.REJECTS_SCHEMA` says what the columns mean. Raises `NotFound` where no run was made.
        """
        check_table_name(name)
        dataset = open_lance(self._storage.child(f"{name}{REJECTS_SUFFIX}{SUFFIX}"))
        if dataset is None:
            raise self._no_table(name)
        return dataset.to_table()

    def _no_table(self, name: str) -> NotFound:
        names = self.tables()
        remedy = (
            f"Tables here: {', '.join(names)}"
            if names
            else "There are no tables here yet; `latentlake run JOB` makes one."
        )
        return NotFound(f"no table '{name}' in lake '{self.uri}'.{did_you_mean(name, names)}\n  {remedy}")

    def _unreadable(self, failure: Exception) -> LatentLakeError:
        return LatentLakeError(
            f"lake '{self.uri}' cannot be read: {reason_of(failure)}\n"
            "  Check its address, the credentials and the endpoint in `storage_options`."
        )

    def __repr__(self) -> str:
        return f"Lake({self.uri!r})"


def connect(
    uri: str | Path,
    storage_options: Mapping[str, Any] | None = None,
    models: Mapping[str, str | Path] | None = None,
    *,
    trust_remote_code: bool = False,
    allow_downloads: bool = False,
    allow_hosts: Collection[str] = (),
    allow_models: Collection[str] = (),
    log_queries: bool | str | Path = False,
) -> Lake:
    """Open the lake at `uri`: a folder, `s3://…`, `gs://…` or `az://…`. Nothing is read yet; it need not exist.

    `storage_options` are Lance's (`aws_region`, `aws_endpoint`, …); their values may be `env:NAME` or `file:PATH`.
    `models` gives the path of a local model on this machine, if it differs from the path at the time the vectors were made.
    Its keys are the model's revision, the name of a vector column, or the path that the table holds, tried in this order.

    A table names its model, and anyone may have written the table. So a query loads a model only from this machine, unless
    `allow_downloads`; runs code that the model brings only with `trust_remote_code`; and goes to a server that the table
    names only where its host is in `allow_hosts`. A model that lies in an object store is read, with the credentials of this
    machine, only where it lies at or below one of `allow_models` (or `models` names it).

    `log_queries` keeps the vectors of queries in a file of this machine, or in the one that it names, to tune indexes with.
    """
    if not str(uri):
        raise SpecError("a lake needs an address: a folder, or s3://bucket/prefix.")
    trust = Trust(trust_remote_code, allow_downloads, allow_hosts, allow_models)
    log = None if log_queries is False else QueryLog(default_log() if log_queries is True else Path(log_queries))
    return Lake(open_storage(str(uri), storage_options), QueryModels(models or {}, trust, log))
