"""A table as LanceDB's own object, at the same version; what its older embedded Lance cannot read is refused."""

from __future__ import annotations

from typing import Any

from latentlake.filters import is_panic, reason_of
from latentlake.indexes import describe_indexes
from latentlake.storage import Storage
from operators.errors import MissingExtra, SpecError


def open_in_lancedb(storage: Storage, name: str, dataset: Any) -> Any:
    """The `lancedb` table that `dataset` (pylance) of the lake at `storage` is, checked out at its version.

    Rows are counted and every vector index is searched once, so that a table which the Lance inside lancedb cannot read
    is a `SpecError` here, with the reason, and no wrong answer later. Raises `MissingExtra` if lancedb is not installed.
    """
    try:
        import lancedb
    except ImportError as failure:
        raise MissingExtra("`to_lancedb` needs lancedb: pip install 'latentlake[lancedb]'") from failure
    part = "its rows"
    try:
        table = lancedb.connect(storage.lance_uri, storage_options=storage.lance_options).open_table(name)
        table.checkout(dataset.version)
        rows = table.count_rows()
        if rows != dataset.count_rows():
            raise ValueError(f"it finds {rows} rows, of {dataset.count_rows()}")
        for index in describe_indexes(dataset):
            part = f"the index '{index.name}' ({index.type})"
            if index.metric is not None and rows:
                search_once(table, dataset, index.column)
    except BaseException as failure:  # a panic is no `Exception`
        if not (isinstance(failure, (ValueError, RuntimeError, OSError)) or is_panic(failure)):
            raise
        raise SpecError(
            f"table '{name}' at version {dataset.version} cannot be read by lancedb {lancedb.__version__}, which has an older "
            f"Lance inside than pylance: {part}: {reason_of(failure)}\n"
            "  Use `to_lance()`, or another index type."
        ) from failure
    return table


def search_once(table: Any, dataset: Any, column: str) -> None:
    """Search a column through its index, with the first vector in it. Raises what lancedb raises."""
    found = dataset.scanner(columns=[column], filter=f"`{column}` IS NOT NULL", limit=1).to_table()
    if found.num_rows:
        table.search(found[column][0].as_py(), vector_column_name=column).limit(1).to_arrow()
