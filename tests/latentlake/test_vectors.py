"""A table's vectors as a stream. Real Lance, no model."""

from __future__ import annotations

from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest
from lake_maker import LakeMaker

import latentlake
from operators.chain import Chain
from operators.embedders.hashing import Config
from operators.errors import NotFound, SpecError

ROWS, DIM, EVERY = 5000, 8, 5  # every fifth row has no vector in `g`
VECTORS = np.random.default_rng(0).random((ROWS, DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> latentlake.Table:
    """Two vector columns, of float32 and float16, in several files, some rows of which are deleted."""
    folder = tmp_path_factory.mktemp("lake")
    maker = LakeMaker(str(folder))
    numbers = np.arange(ROWS)
    config = Config(dim=DIM)
    fields = {
        column: maker.vector_field(column, config, Chain("text"), dtype, "l2")
        for column, dtype in (("v", "float32"), ("g", "float16"))
    }
    ids = {"id": [str(n) for n in numbers], "n": pa.array(numbers, pa.int64())}
    maker.write("t", ids, {"v": (fields["v"], VECTORS)})
    dataset = lance.dataset(f"{folder}/t.lance")
    mask = numbers % EVERY == 0
    values = pa.FixedSizeListArray.from_arrays(pa.array(VECTORS.astype(np.float16).ravel()), DIM, mask=pa.array(mask))
    both = dataset.to_table().append_column(fields["g"], values)
    dataset = lance.write_dataset(both, dataset.uri, mode="overwrite", max_rows_per_file=1000)
    dataset.delete("n % 7 = 3")
    return latentlake.connect(str(folder)).open("t")


LIVING = [n for n in range(ROWS) if n % 7 != 3]


def numbers_of(stream: latentlake.Vectors) -> list[int]:
    return [n for batch in stream for n in batch["n"].to_pylist()]


def test_all_vectors_in_bounded_batches(table: latentlake.Table):
    stream = table.vectors(["n", "v"], batch_rows=300)
    batches = list(stream)
    assert max(batch.num_rows for batch in batches) <= 300 and len(batches) > 10
    assert batches[0].schema == stream.schema and stream.schema.names == ["n", "v"]
    assert numbers_of(stream) == LIVING  # and a second time
    found = np.concatenate([arrays["v"] for arrays in stream.arrays()])
    np.testing.assert_array_equal(found, VECTORS[LIVING])
    assert found.dtype == np.float32
    assert stream.reader().read_all().num_rows == len(LIVING)


def test_by_default_all_vector_columns_and_the_id(table: latentlake.Table):
    stream = table.vectors()
    assert stream.schema.names == ["id", "v", "g"]
    arrays = list(stream.arrays())
    found = np.concatenate([part["id"] for part in arrays]).tolist()
    assert found == [str(n) for n in LIVING if n % EVERY]  # those that lack one are left out
    assert {part["g"].dtype for part in arrays} == {np.dtype(np.float16)}
    np.testing.assert_array_equal(
        np.concatenate([part["g"] for part in arrays]), VECTORS[[int(n) for n in found]].astype(np.float16)
    )


@pytest.mark.parametrize("where", ["n >= 4000", "n >= 4000 -- the last", "n >= 4000 OR n < 10"])
@pytest.mark.parametrize("sample", [None, 50, 10_000])
def test_a_filter(table: latentlake.Table, where: str, sample: int | None):
    kept = [n for n in LIVING if n >= 4000 or ("OR" in where and n < 10)]
    found = numbers_of(table.vectors(["n", "v"], where, sample))
    assert set(found) <= set(kept) and len(found) == len(set(found)) == min(len(kept), sample or ROWS)
    assert numbers_of(table.vectors(["n", "g"], where, sample))  # with the vectors that are missing
    assert len(numbers_of(table.vectors(["n", "g"], where, sample))) == min(
        sum(n % EVERY > 0 for n in kept), sample or ROWS
    )


@pytest.mark.parametrize("rows", [0, 1, 100, 3428, 3429, 10_000])
def test_a_sample_has_as_many_rows_as_there_are_and_no_row_twice(table: latentlake.Table, rows: int):
    there = sum(n % EVERY > 0 for n in LIVING)
    found = numbers_of(table.vectors(["n", "g"], sample=rows, batch_rows=64))
    assert len(found) == len(set(found)) == min(rows, there)
    assert all(n % EVERY and n in set(LIVING) for n in found)


def test_a_sample_is_of_all_rows_alike_and_the_same_for_a_seed(table: latentlake.Table):
    first = numbers_of(table.vectors(["n", "v"], sample=1000))
    assert first == numbers_of(table.vectors(["n", "v"], sample=1000))
    assert first != numbers_of(table.vectors(["n", "v"], sample=1000, seed=1))
    counts, _ = np.histogram(first, bins=5, range=(0, ROWS))
    assert counts.min() > 140  # 200 on average, deviation 12


def test_a_sample_of_one_vector_column_ignores_the_others(table: latentlake.Table):
    assert len(numbers_of(table.vectors(["n"], sample=10_000))) == len(LIVING)


def test_a_table_without_rows(tmp_path: Path):
    LakeMaker(str(tmp_path)).write_texts().delete("true")
    empty = latentlake.connect(str(tmp_path)).open("notes")
    for sample in (None, 0, 5):
        assert list(empty.vectors(sample=sample)) == []
    assert empty.vectors().reader().read_all().num_rows == 0


def test_what_cannot_be(table: latentlake.Table):
    with pytest.raises(NotFound, match="no column 'm'"):
        table.vectors(["m"])
    with pytest.raises(SpecError, match="sample is -1"):
        table.vectors(sample=-1)
    with pytest.raises(SpecError, match="batch_rows is 0"):
        table.vectors(batch_rows=0)
    with pytest.raises(SpecError):
        table.vectors(where="n = ")
