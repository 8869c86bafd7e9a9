"""A table's vectors as a stream: record batches, or numpy arrays. What exploration and evaluation stand on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from latentlake.filters import explain_filter
from latentlake.indexes import has_vector

BATCH_ROWS = 8192
# What Lance reads ahead of a slow reader; its own bounds are 2 GB and 16 batches.
READ_AHEAD_BYTES, READ_AHEAD_BATCHES = 128 * 2**20, 4
PLACE = "_rowoffset"  # Lance's: the number of a row in its version of a table


@dataclass(frozen=True)
class Vectors:
    """A stream that can be read again: iterating gives record batches, `arrays()` the same as numpy arrays.

    Its rows have a vector in each of `vectors`. It reads as it goes, and holds about `batch_rows` rows at a time.
    """

    dataset: Any
    columns: Sequence[str]
    vectors: Sequence[str]  # those of `columns` that are vector columns
    where: str | None
    sample: int | None
    seed: int
    batch_rows: int

    @property
    def schema(self) -> pa.Schema:
        """Schema of the record batches."""
        return pa.schema([self.dataset.schema.field(name) for name in self.columns])

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        with explain_filter(self.where):
            yield from self._scan() if self.sample is None else self._draw(self.sample)

    def arrays(self) -> Iterator[dict[str, np.ndarray]]:
        """Each batch as arrays by column: vectors as they are stored, (n, dim), or (n, dim / 8) for bits; others (n,)."""
        for batch in self:
            yield {name: array_of(batch[name], name in self.vectors) for name in self.columns}

    def reader(self) -> pa.RecordBatchReader:
        """The stream as Arrow's own, which many libraries take."""
        return pa.RecordBatchReader.from_batches(self.schema, iter(self))

    def _scan(self) -> Iterator[pa.RecordBatch]:
        for batch in self.dataset.scanner(
            columns=list(self.columns),
            filter=self.where,
            batch_size=self.batch_rows,
            io_buffer_size=READ_AHEAD_BYTES,
            batch_readahead=READ_AHEAD_BATCHES,
        ).to_batches():
            if (kept := self._with_vectors(batch)).num_rows:
                yield kept

    def _draw(self, rows: int) -> Iterator[pa.RecordBatch]:
        """Rows at random, each once, in the order of their places within each batch.

        They are drawn without a look at the vectors. Only where too many have none does a scan tell which have.
        """
        rng = np.random.default_rng(self.seed)
        among = self.dataset.count_rows() if self.where is None else self._places(self.where)
        drawn = rng.choice(among, min(rows, among if isinstance(among, int) else len(among)), replace=False)
        left = rows
        for batch in self._take(drawn):
            left -= batch.num_rows
            yield batch
        if left and len(drawn) == rows and self.vectors:
            present = " AND ".join(has_vector(name) for name in self.vectors)
            rest = np.setdiff1d(
                self._places(present if self.where is None else f"({self.where}\n) AND {present}"), drawn
            )
            yield from self._take(rng.choice(rest, min(left, len(rest)), replace=False))

    def _places(self, where: str) -> np.ndarray:
        """Places of the rows that a filter keeps, (n,)."""
        return np.asarray(self.dataset.scanner(columns=[PLACE], filter=where).to_table()[PLACE].to_numpy())

    def _take(self, places: np.ndarray) -> Iterator[pa.RecordBatch]:
        """The rows at some places, as far as they have vectors."""
        for start in range(0, len(places), self.batch_rows):
            chosen = np.sort(places[start : start + self.batch_rows])
            found = self.dataset.take(chosen, columns=list(self.columns)).combine_chunks()
            for batch in found.to_batches():
                if (kept := self._with_vectors(batch)).num_rows:
                    yield kept

    def _with_vectors(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Rows of a batch that have all vectors."""
        present = np.ones(batch.num_rows, dtype=bool)
        for name in self.vectors:
            present &= batch[name].is_valid().to_numpy(zero_copy_only=False)
        kept = batch if present.all() else batch.filter(pa.array(present))
        return pa.RecordBatch.from_arrays([kept[name] for name in self.columns], schema=self.schema)


def array_of(column: pa.Array, is_vector: bool) -> np.ndarray:
    """A column as an array (n,), or (n, length) where it holds vectors, none of them null."""
    if not is_vector:
        return np.asarray(column.to_numpy(zero_copy_only=False))
    flat = pc.list_flatten(column)
    return np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(len(column), column.type.list_size)
