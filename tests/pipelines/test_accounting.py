"""Every object is accounted for, once for each vector column, or the run fails."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.errors import AccountingError
from pipelines.flow.counts import Counts, count_shard
from pipelines.flow.shard import Origin, Status, pack, unpack
from pipelines.publish.accounting import count_run
from pipelines.state.manifest import Carried, Changes

E, R, U, X, T = Origin.EMBEDDED, Origin.REUSED, Origin.UNCHANGED, Origin.REJECTED, Origin.TO_EMBED


def rows_of(objects: list[str], **origins: list[Origin]) -> pa.Table:
    """Rows of a shard, as the sink gets them; a vector where the row is not rejected."""
    columns: dict[str, Any] = {"object_id": pa.array(objects, pa.string())}
    for column, values in origins.items():
        columns[f"origin.{column}"] = pa.array(np.array(values, dtype=np.int8))
        vectors = [None if origin == X else [1.0, 0.0] for origin in values]
        columns[column] = pa.array(vectors, pa.list_(pa.float32(), 2))
    _, rows = unpack(pack(Status(0), pa.table(columns)))
    return rows


def whole(name: str, outcome: str = "rejected") -> dict[str, Any]:
    return {"object_id": name, "column": None, "outcome": outcome}


def counted(status: Status, rows: pa.Table, column: str = "a") -> dict[str, int]:
    return {name: value for name, value in asdict(count_shard(status, rows, [column])[column]).items() if value}


@pytest.mark.parametrize(
    ("origin", "outcome"), [(E, "embedded"), (R, "reused"), (U, "unchanged"), (X, "rejected")]
)  # fmt: skip
def test_one_object(origin: Origin, outcome: str):
    assert counted(Status(0, listed=1), rows_of(["x"], a=[origin])) == {"listed": 1, outcome: 1}


def test_a_mixed_shard():
    rejects = [whole("p"), whole("q"), whole("f", "filtered"), {"object_id": "d", "column": "a", "outcome": "rejected"}]
    status = Status(0, listed=9, unchanged=2, rejects=rejects)
    rows = rows_of(["a", "b", "c", "d"], a=[E, R, U, X])
    expected = {"listed": 9, "embedded": 1, "reused": 1, "unchanged": 3, "filtered": 1, "rejected": 3}
    assert counted(status, rows) == expected


def test_columns_are_counted_apart():
    rows = rows_of(["x", "y"], a=[E, U], b=[X, E])
    counts = count_shard(Status(0, listed=3, rejects=[whole("z")]), rows, ["a", "b"])
    assert counts["a"] == Counts(3, embedded=1, unchanged=1, rejected=1)
    assert counts["b"] == Counts(3, embedded=1, rejected=2)


@pytest.mark.parametrize(
    ("origins", "outcome"),
    [
        ([E, E, E], "embedded"),
        ([U, E, R], "embedded"),
        ([U, R, U], "reused"),
        ([U, U, U], "unchanged"),
        ([E, X, U], "rejected"),
    ],
)
def test_an_object_of_several_rows_is_counted_once(origins: list[Origin], outcome: str):
    rows = rows_of(["before", *["x"] * 3, "after"], a=[E, *origins, E])
    expected = {"listed": 3, "embedded": 2}
    expected[outcome] = expected.get(outcome, 0) + 1
    assert counted(Status(0, listed=3), rows) == expected


def test_a_shard_without_rows():
    assert counted(Status(0, listed=2, unchanged=1, rejects=[whole("x")]), rows_of([], a=[])) == {
        "listed": 2,
        "unchanged": 1,
        "rejected": 1,
    }


@pytest.mark.parametrize(
    ("listed", "objects", "rejects"),
    [
        (3, ["a", "b"], []),  # lost
        (1, ["a", "b"], []),  # out of nowhere
        (2, ["a", "b"], [whole("b")]),  # both written and rejected
        (0, ["a"], []),
    ],
)
def test_objects_that_do_not_add_up(listed: int, objects: list[str], rejects: list[Any]):
    with pytest.raises(AccountingError, match=rf"shard 4, column 'a': {listed} objects were listed"):
        count_shard(Status(4, listed=listed, rejects=rejects), rows_of(objects, a=[E] * len(objects)), ["a"])


def test_a_row_that_no_model_saw():
    with pytest.raises(AccountingError):
        count_shard(Status(0, listed=1), rows_of(["x"], a=[T]), ["a"])


@pytest.mark.parametrize("origin", [E, R, U])
def test_a_row_whose_vector_is_missing(origin: Origin):
    rows = rows_of(["x", "y"], a=[E, origin])
    rows = rows.set_column(2, "a", pa.array([[1.0, 0.0], None], pa.list_(pa.float32(), 2)))
    with pytest.raises(AccountingError, match="1 rows have neither vector nor reject"):
        count_shard(Status(0, listed=2), rows, ["a"])


def test_a_rejected_row_that_kept_a_vector():
    rows = rows_of(["x"], a=[X]).set_column(2, "a", pa.array([[1.0, 0.0]], pa.list_(pa.float32(), 2)))
    with pytest.raises(AccountingError):
        count_shard(Status(0, listed=1), rows, ["a"])


@settings(deadline=None)
@given(
    st.lists(st.lists(st.sampled_from([E, R, U, X]), min_size=1, max_size=4), max_size=8),
    st.integers(0, 3),
    st.integers(0, 3),
    st.integers(0, 3),
)
def test_any_mix_adds_up(objects: list[list[Origin]], unchanged: int, rejected: int, filtered: int):
    names = [f"o{k}" for k, origins in enumerate(objects) for _ in origins]
    rows = rows_of(names, a=[origin for origins in objects for origin in origins])
    rejects = [whole(f"r{k}") for k in range(rejected)] + [whole(f"f{k}", "filtered") for k in range(filtered)]
    listed = len(objects) + unchanged + rejected + filtered
    (counts,) = count_shard(Status(0, listed=listed, unchanged=unchanged, rejects=rejects), rows, ["a"]).values()
    assert counts.filtered == filtered
    assert counts.rejected == rejected + sum(X in origins for origins in objects)
    assert counts.embedded == sum(E in origins and X not in origins for origins in objects)
    assert counts.reused == sum(R in o and not {E, X} & set(o) for o in objects)
    assert counts.unchanged == unchanged + sum(set(o) == {U} for o in objects)


# a run


def changes_of(listed: int, work: int, **carried: int) -> Changes:
    return Changes(listed, work, 0, {"a": Carried(**carried)}, gone=0, in_table=0, left=0)


def record(shard: int, **counts: int) -> dict[str, Any]:
    return {"status": {"shard": shard}, "counts": {"a": asdict(Counts(**counts))}}


def test_a_run_adds_up():
    changes = changes_of(20, 5, unchanged=12, rejected=2, filtered=1)
    records = [record(1, listed=2, embedded=2), record(0, listed=3, embedded=1, rejected=1, reused=1)]
    totals = count_run(changes, iter(records), 2, ["a"])
    assert totals["a"] == Counts(20, embedded=3, reused=1, unchanged=12, filtered=1, rejected=3)


def test_a_run_without_work():
    assert count_run(changes_of(3, 0, unchanged=3), [], 0, ["a"])["a"] == Counts(3, unchanged=3)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([record(0, listed=3, embedded=3)], "1 of 2 shards left no record"),
        ([], "2 of 2 shards left no record"),
        ([record(shard, listed=2, embedded=2) for shard in range(3)], "0 of 2 shards left no record"),
        ([record(0, listed=3, embedded=3), record(1, listed=1, embedded=1)], "listed 5 objects, shards saw 4"),
        ([record(0, listed=3, embedded=3), record(1, listed=3, embedded=3)], "listed 5 objects, shards saw 6"),
        ([record(0, listed=3, embedded=3), *[record(1, listed=2, embedded=2)] * 2], "listed 5 objects, shards saw 7"),
        ([record(0, listed=3, embedded=3), record(1, listed=2, embedded=1)], "5 objects were listed, 4 are accounted"),
    ],
)
def test_a_run_that_does_not_add_up(records: list[dict[str, Any]], message: str):
    with pytest.raises(AccountingError, match=message) as failure:
        count_run(changes_of(5, 5), records, 2, ["a"])
    assert failure.value.exit_code == 1


def test_carried_objects_that_do_not_add_up():
    with pytest.raises(AccountingError):
        count_run(changes_of(5, 0, unchanged=4), [], 0, ["a"])
