"""What Lance does when two writers commit from one version: the matrix of ADR 4, measured again whenever Lance is upgraded."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest
from lance import LanceDataset, LanceOperation, Transaction
from lance.commit import CommitConflictError
from lance.fragment import write_fragments
from lance.optimize import Compaction

ADR = Path(__file__).parents[2] / "docs" / "adr" / "0004-one-writer-resume-and-commit.md"
ROWS = 300


def rows(first: int, count: int) -> pa.Table:
    vectors = np.random.default_rng(first).random(count * 8, dtype=np.float32)
    ids = [str(number) for number in range(first, first + count)]
    return pa.table({"id": ids, "v": pa.FixedSizeListArray.from_arrays(pa.array(vectors), 8)})


def commit(table: LanceDataset, operation: LanceOperation.BaseOperation) -> None:
    LanceDataset.commit(table, Transaction(table.version, operation), max_retries=0)


def append(table: LanceDataset, writer: int) -> None:
    commit(table, LanceOperation.Append(write_fragments(rows(1000 * writer, 10), table.uri, schema=table.schema)))


def delete(table: LanceDataset, writer: int) -> None:
    keys = pa.table({"id": [str(writer)]})
    transaction, _ = table.merge_insert("id").when_matched_delete().execute_uncommitted(keys)
    commit(table, transaction.operation)


def overwrite(table: LanceDataset, writer: int) -> None:
    fragments = write_fragments(rows(1000 * writer, 10), table.uri, schema=table.schema, mode="overwrite")
    commit(table, LanceOperation.Overwrite(table.schema, fragments))


def merge_column(table: LanceDataset, writer: int) -> None:
    merged = [fragment.merge_columns({f"c{writer}": "id"}) for fragment in table.get_fragments()]
    commit(table, LanceOperation.Merge([fragment for fragment, _ in merged], merged[0][1]))


def index(table: LanceDataset, writer: int) -> None:
    table.create_index("v", "IVF_FLAT", num_partitions=1, name=f"i{writer}", replace=False)


def compact(table: LanceDataset, writer: int) -> None:
    plan = Compaction.plan(table, {"target_rows_per_fragment": 10 * ROWS})
    Compaction.commit(table, [task.execute(table) for task in plan.tasks])


OPERATIONS: dict[str, Callable[[LanceDataset, int], None]] = {
    "append": append,
    "delete": delete,
    "overwrite": overwrite,
    "merge column": merge_column,
    "index": index,
    "compact": compact,
}


def outcome(folder: Path, first: str, second: str) -> str:
    """What becomes of `second`, from the version that `first` was committed from: "lands", "lost" or "conflict"."""
    uri = str(folder / "t.lance")
    lance.write_dataset(rows(0, ROWS), uri, max_rows_per_file=ROWS // 2)
    mine, theirs = lance.dataset(uri), lance.dataset(uri)
    OPERATIONS[first](theirs, 1)
    try:
        OPERATIONS[second](mine, 2)
    except (CommitConflictError, OSError, RuntimeError) as failure:
        assert re.search("conflict|preempted|concurrent", str(failure), re.IGNORECASE), failure
        return "conflict"
    return "lands" if first == "overwrite" or survives(lance.dataset(uri), first) else "lost"


def survives(table: LanceDataset, first: str) -> bool:
    """Whether the table shows what the first writer did."""
    ids = set(table.to_table(columns=["id"])["id"].to_pylist())
    return {
        "append": "1000" in ids,
        "delete": "1" not in ids,
        "merge column": "c1" in table.schema.names,
        "index": any(found.name == "i1" for found in table.describe_indices()),
        "compact": len(table.get_fragments()) < 3,
    }[first]


def documented() -> dict[tuple[str, str], str]:
    """The matrix as the ADR has it."""
    lines = [line for line in ADR.read_text().splitlines() if line.startswith("| ")]
    cells = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in lines]
    return {(row[0], name): found for row in cells[1:] for name, found in zip(cells[0][1:], row[1:], strict=True)}


@pytest.mark.parametrize("first", OPERATIONS)
def test_the_matrix_of_the_adr_is_what_lance_does(tmp_path: Path, first: str) -> None:
    found = {(first, second): outcome(tmp_path / second, first, second) for second in OPERATIONS}
    assert found == {pair: what for pair, what in documented().items() if pair[0] == first}


def test_two_upserts_of_one_new_key_both_land(tmp_path: Path) -> None:
    uri = str(tmp_path / "t.lance")
    lance.write_dataset(rows(0, ROWS), uri)
    tables, keys = [lance.dataset(uri), lance.dataset(uri)], pa.table({"id": ["9999"]})
    for table in tables:
        found, _ = table.merge_insert("id").when_matched_delete().execute_uncommitted(keys)
        fragments = write_fragments(rows(9999, 1), uri, schema=table.schema)
        removed, updated = found.operation.removed_fragment_ids, found.operation.updated_fragments
        commit(table, LanceOperation.Update(removed, updated, fragments, update_mode=""))
    assert lance.dataset(uri).count_rows("id = '9999'") == 2
