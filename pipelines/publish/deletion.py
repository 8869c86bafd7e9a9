"""The rows that a run takes out of a table: found by object, and marked as deleted in their fragments. Nothing is committed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import lance
import numpy as np
import pyarrow as pa

from latentlake.keys import key_index, scan_keys
from pipelines.flow.columns import FRAGMENT_BITS
from pipelines.state.ledger import ids_reader

# Up to this share of the rows, objects are looked up in the index; more of them read most of its pages, and a join that reads
# the column of ids from one end to the other costs less.
LOOKED_UP_SHARE = 0.05


@dataclass(frozen=True)
class Deletion:
    """What becomes of a table's fragments."""

    removed: list[int]  # fragments that lose all their rows
    updated: list[lance.FragmentMetadata]  # fragments with new deletion files
    rows: int  # that are deleted


def delete_objects(table: lance.LanceDataset, objects: Iterable[pa.Table], number: int) -> Deletion:
    """Delete the rows of objects (pieces with `object_id`, about `number` of them in all)."""
    if key_index(table, "object_id") is not None and number <= LOOKED_UP_SHARE * table.count_rows():
        return delete_by_index(table, objects)
    return delete_by_join(table, objects)


def delete_by_index(table: lance.LanceDataset, objects: Iterable[pa.Table]) -> Deletion:
    """See `delete_objects`: through the index of `object_id`, so that what is read follows the number of objects."""
    found = [np.zeros(0, np.uint64)]
    for piece in objects:
        for batch in scan_keys(table, "object_id", piece["object_id"].to_pylist(), []):
            found.append(batch["_rowaddr"].to_numpy())
    addresses = np.unique(np.concatenate(found))
    fragments, starts = np.unique(addresses >> FRAGMENT_BITS, return_index=True)
    removed, updated = [], []
    for number, rows in zip(fragments.tolist(), np.split(addresses, starts[1:]), strict=True):
        left = table.get_fragment(number).delete_rows((rows & ((1 << FRAGMENT_BITS) - 1)).tolist())
        if left is None:
            removed.append(number)
        else:
            updated.append(left)
    return Deletion(removed, updated, len(addresses))


def delete_by_join(table: lance.LanceDataset, objects: Iterable[pa.Table]) -> Deletion:
    """See `delete_objects`: by a join that reads `object_id` of all rows.

    Without the index: with it, Lance's own join runs out of memory (pylance 14.0.2, 50,000 objects).
    """
    join = table.merge_insert("object_id").when_matched_delete().use_index(False)
    found, stats = join.execute_uncommitted(ids_reader(objects))
    operation = found.operation
    return Deletion(operation.removed_fragment_ids, operation.updated_fragments, stats["num_deleted_rows"])
