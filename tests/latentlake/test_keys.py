"""Scalar indexes of keys: when they are there, what they cost, and that they find what a scan finds. Real Lance."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest

from latentlake import keys
from latentlake.indexes import MAX_SEGMENTS, merge_index
from latentlake.keys import (
    KEY_INDEX_MIN_ROWS,
    key_index,
    open_for_look_ups,
    page_rows,
    scan_keys,
    take_rows,
    update_key_indexes,
)
from latentlake.opening import open_lance
from latentlake.storage import open_storage
from operators.errors import NotFound

DIM = 8


def rows_of(numbers: Iterable[int]) -> pa.Table:
    numbers = list(numbers)
    hashes = [hashlib.blake2b(str(n).encode(), digest_size=16).hexdigest() for n in numbers]
    vectors = np.asarray(numbers, "f4").repeat(DIM)
    return pa.table(
        {
            "object_id": [f"it's {n}" for n in numbers],
            "content_hash": hashes,
            "v": pa.FixedSizeListArray.from_arrays(vectors, DIM),
        }
    )


@pytest.fixture(autouse=True)
def small_tables_gain(monkeypatch: pytest.MonkeyPatch):
    """Let a table of 1,000 rows have indexes of its keys."""
    monkeypatch.setattr(keys, "KEY_INDEX_MIN_ROWS", 1000)


def write(folder: Path, numbers: Iterable[int], mode: str = "create") -> Any:
    return lance.write_dataset(rows_of(numbers), str(folder / "t.lance"), mode=mode)


def found_by_hash(dataset: Any, numbers: Iterable[int]) -> list[str]:
    hashes = rows_of(numbers)["content_hash"].to_pylist()
    return sorted(
        n for batch in scan_keys(dataset, "content_hash", hashes, ["object_id"]) for n in batch["object_id"].to_pylist()
    )


def bytes_read(dataset: Any) -> int:
    return int(dataset.io_stats_incremental().read_bytes)


def test_the_threshold_is_the_measured_one():
    assert KEY_INDEX_MIN_ROWS == 20_000


def test_a_small_table_has_none_and_no_version_for_it(tmp_path: Path):
    dataset = write(tmp_path, range(999))
    update_key_indexes(dataset)
    assert (dataset.version, dataset.describe_indices()) == (1, [])
    assert found_by_hash(dataset, [5, 7, 5000]) == ["it's 5", "it's 7"]


def test_an_up_to_date_index_makes_no_version(tmp_path: Path):
    dataset = write(tmp_path, range(1000))
    update_key_indexes(dataset)
    version = dataset.version
    update_key_indexes(dataset)
    assert {info.field_names[0] for info in dataset.describe_indices()} == {"content_hash", "object_id"}
    assert dataset.version == version


def test_what_is_found_is_what_a_scan_finds(tmp_path: Path):
    dataset = write(tmp_path, range(3000))
    update_key_indexes(dataset)
    dataset = write(
        tmp_path, [7, 7, 5000], "append"
    )  # a tail that no index covers, and a content that three rows share
    dataset.delete("object_id = 'it''s 9'")
    asked = [7, 9, 5000, 9999, *range(100, 2500)]  # more than one query's
    assert found_by_hash(dataset, asked) == sorted(
        ["it's 7"] * 3 + ["it's 5000"] + [f"it's {n}" for n in range(100, 2500)]
    )


def test_a_look_up_reads_what_is_asked_for_and_an_extension_what_is_added(tmp_path: Path):
    costs = {}
    for rows in (20_000, 200_000):
        dataset = write(tmp_path, range(rows), "overwrite")
        update_key_indexes(dataset)
        dataset = lance.dataset(dataset.uri)
        bytes_read(dataset)
        assert found_by_hash(dataset, range(rows, rows + 20)) == []
        costs[rows] = [bytes_read(dataset)]
        dataset = write(tmp_path, range(rows, rows + 20), "append")
        bytes_read(dataset)
        update_key_indexes(dataset)
        costs[rows].append(bytes_read(dataset))
        assert key_index(dataset, "content_hash").segments == 2
    column = 200_000 * 32
    assert all(large < 4 * small for small, large in zip(*costs.values(), strict=True)), costs
    assert costs[200_000][1] < 1.1 * costs[20_000][1], costs  # nothing of the segments that are there
    assert all(cost < column / 16 for cost in costs[200_000]), costs


def test_of_an_object_store_little_is_read_around_what_is_asked_for(tmp_path: Path, s3_endpoint: str):
    """Lance's default joins reads that are up to 64 KB apart, and so reads nearly all of an index."""
    options = {
        "aws_endpoint": s3_endpoint,
        "aws_access_key_id": "a",
        "aws_secret_access_key": "b",
        "allow_http": "true",
    }
    place = open_storage(f"s3://lake/{tmp_path.name}/t.lance", {**options, "aws_region": "us-east-1"})
    update_key_indexes(lance.write_dataset(rows_of(range(50_000)), place.lance_uri, **place.lance_arguments))
    read, asked = [], range(50_000, 50_060)
    version = open_lance(place).version
    for dataset in (open_for_look_ups(place, version), open_lance(place)):
        bytes_read(dataset)
        assert found_by_hash(dataset, asked) == []
        read.append(bytes_read(dataset))
    assert read[0] < read[1] / 2, read
    dataset = open_for_look_ups(place, version)
    found_by_hash(dataset, asked)
    bytes_read(dataset)
    assert found_by_hash(dataset, asked) == [] and bytes_read(dataset) == 0  # what was read is kept
    with pytest.raises(NotFound, match="has no version 99"):
        open_for_look_ups(place, 99)


def test_pages_grow_with_the_root_of_the_table():
    rows = {0: 128, 1: 128, 100_000: 128, 1_000_000: 128, 10**7: 256, 10**8: 512, 10**9: 2048}
    assert {number: page_rows(number) for number in rows} == rows


def test_segments_of_changes_are_merged_beside_the_large_one(tmp_path: Path):
    dataset = write(tmp_path, range(1000))
    update_key_indexes(dataset)
    large = segments(dataset)
    for night in range(MAX_SEGMENTS):
        dataset = write(tmp_path, [2000 + night], "append")
        update_key_indexes(dataset)
        assert large < segments(dataset)  # still there
        assert len(segments(dataset)) <= MAX_SEGMENTS
    assert len(segments(dataset)) == 2
    assert found_by_hash(dataset, range(2000, 2000 + MAX_SEGMENTS)) == [f"it's {2000 + n}" for n in range(MAX_SEGMENTS)]
    merge_index(dataset, key_index(dataset, "content_hash"))
    assert len(segments(dataset)) == 1


def segments(dataset: Any) -> set[str]:
    (found,) = [info for info in dataset.describe_indices() if info.field_names == ["content_hash"]]
    return {segment.uuid for segment in found.segments}


def test_an_index_of_another_type_is_left_alone(tmp_path: Path):
    dataset = write(tmp_path, range(1000))
    dataset.create_scalar_index("object_id", "BITMAP")
    update_key_indexes(dataset)
    assert {i.field_names[0]: i.index_type for i in dataset.describe_indices()} == {
        "object_id": "Bitmap",
        "content_hash": "BTree",
    }
    dataset = write(tmp_path, [5000], "append")
    update_key_indexes(dataset)
    assert key_index(dataset, "object_id") is None


def test_rows_are_taken_by_row_id(tmp_path: Path):
    dataset = write(tmp_path, range(5000))
    taken = take_rows(dataset, set(range(0, 5000, 2)), ["object_id", "v"])
    assert sorted(taken["_rowid"].to_pylist()) == list(range(0, 5000, 2))
    assert taken["v"][3].as_py() == [6.0] * DIM


def test_for_no_rows_lance_is_not_asked(tmp_path: Path):
    """For `_rowid IN (NULL)` it reads the whole column, which its own statistics do not show."""
    schema = write(tmp_path, range(10)).schema
    none = take_rows(SimpleNamespace(schema=schema), [], ["v"])
    assert (none.num_rows, none.schema.field("v").type) == (0, schema.field("v").type)
