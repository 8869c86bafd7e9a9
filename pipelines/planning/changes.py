"""What a listing asks for, next to what the table holds: the objects to read, and the accounting of all others.

Both sides may be larger than memory. They meet in a DuckDB database on local disk.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from latentlake.filters import sql_string
from latentlake.table import DUPLICATE_FIELDS, REJECTS_SCHEMA
from operators.errors import LatentLakeError
from pipelines.sources._bounds import UNLISTED
from pipelines.sources._names import LEFT_OUT
from pipelines.sources.base import LISTING_ROWS, LISTING_SCHEMA
from pipelines.state.forgotten import FORGOTTEN
from pipelines.state.manifest import Carried, Changes, Retry

# A row of work: an entry of the listing, with the hash that the table holds for the object (null: it holds none).
WORK_SCHEMA = LISTING_SCHEMA.append(pa.field("base_hash", pa.string()))
OBJECTS_SCHEMA = pa.schema([pa.field("object_id", pa.string()), pa.field("object_hash", pa.string())])
NUMBERED_SCHEMA = LISTING_SCHEMA.append(pa.field("row", pa.int64()))
KEPT_OBJECT = DUPLICATE_FIELDS[1]
FAULTS_SCHEMA = pa.schema(
    [*(REJECTS_SCHEMA.field(name) for name in ("object_id", "column", "outcome", "stage")), KEPT_OBJECT]
)
IDS_SCHEMA = pa.schema([pa.field("object_id", pa.string())])

INCOMPLETE = ""  # in place of the hash of an object that lacks a vector: no content is equal to it, and it sorts first
MEMORY_MB = 512
THREADS = 2
SCAN_ROWS = 1024  # rows of a batch of the table: 768-d vectors of 8,192 rows, which are 25 MB, are read ahead 16 times
SCAN_BYTES = 64 * 2**20


def table_objects(base: lance.LanceDataset | None, complete_for: Sequence[str] = ()) -> Iterator[pa.Table]:
    """Stream object_id and object_hash of every row of the table (`INCOMPLETE` where the row lacks a vector).

    `complete_for` are the vector columns that every row must have. Lance keeps nulls beside the values: to look them up
    reads these columns whole, a bounded piece at a time.
    """
    if base is None:
        return
    columns = {"object_id": "object_id", "object_hash": "object_hash"}
    wanted = [f"`{column}` IS NULL" for column in complete_for if column in base.schema.names]
    if wanted:
        columns["lacking"] = " OR ".join(wanted)
    for batch in base.scanner(columns=columns, batch_size=SCAN_ROWS, io_buffer_size=SCAN_BYTES).to_batches():
        hashes = batch["object_hash"]
        if wanted:
            hashes = pc.if_else(batch["lacking"], INCOMPLETE, hashes)
        yield pa.Table.from_arrays([batch["object_id"], hashes], schema=OBJECTS_SCHEMA)


# Later entries of an id that was listed before. Text stands in for what is null, as Python would write it.
REPEATS = """
CREATE TABLE {name}_repeats AS
WITH firsts AS (SELECT object_id, min(row) AS row FROM {name} GROUP BY object_id HAVING count(*) > 1)
SELECT later.row,
       concat(coalesce(later.uri, 'None'), ':', coalesce(later.position::VARCHAR, 'None')) AS object_id,
       concat('duplicate id ''', later.object_id, ''', first in ', coalesce(first.uri, 'None'),
              ' at ', coalesce(first.position::VARCHAR, 'None')) AS error
FROM {name} AS later
JOIN firsts ON later.object_id = firsts.object_id AND later.row > firsts.row
JOIN {name} AS first ON first.row = firsts.row
ORDER BY later.row
"""
MARKED = """
CREATE VIEW {name}_marked AS
SELECT {name}.row, coalesce(repeats.object_id, {name}.object_id) AS object_id, uri, version, size, position,
       coalesce(repeats.error, {name}.error) AS error
FROM {name} LEFT JOIN {name}_repeats AS repeats ON {name}.row = repeats.row
"""
# The id that a repeat was given may be another entry's own. The first entry of an id stands for it, so that a join by id
# never multiplies rows.
UNIQUE = """
CREATE TABLE clashes AS
SELECT row FROM previous_marked WHERE object_id IN (SELECT object_id FROM previous_repeats)
QUALIFY row_number() OVER (PARTITION BY object_id ORDER BY row) > 1;
CREATE VIEW previous_unique AS SELECT * FROM previous_marked ANTI JOIN clashes USING (row);
"""
# One row an entry. `missing` says for each column whether the object was rejected for it.
FATES = """
CREATE TABLE fates AS
WITH refused AS (
    SELECT object_id, bool_or({again}) AS again, bool_or({partly}) AS partly,
           bool_or("column" IS NULL AND outcome = 'filtered') AS filtered, [{missing}] AS missing
    FROM rejects GROUP BY object_id
), known AS (
    SELECT entry.row, entry.size,
           objects.object_id IS NOT NULL AS in_table,
           CASE WHEN objects.object_id IS NOT NULL AND refused.partly THEN {incomplete}
                ELSE objects.object_hash END AS base_hash,
           {as_before} AS as_before,
           coalesce(refused.again, false) AS again,
           coalesce(refused.filtered, false) AS filtered,
           coalesce(refused.missing, {none_missing}) AS missing,
           list_bool_and(coalesce(refused.missing, {none_missing})) AS rejected
    FROM listing_marked AS entry
    LEFT JOIN objects ON entry.object_id = objects.object_id
    LEFT JOIN refused ON entry.object_id = refused.object_id
    LEFT JOIN previous_unique AS before
        ON entry.object_id = before.object_id AND entry.uri = before.uri AND entry.version = before.version
        AND entry.position IS NOT DISTINCT FROM before.position
)
SELECT *, as_before AND NOT again AND (in_table OR rejected OR filtered) AS same FROM known
"""
# A row was dropped because of another object's row. Where that object is read again, leaves the table or has left it, the
# dropped row's object is read again too; and so are the objects whose rows were dropped because of this one's.
SETTLED_AGAIN = """
CREATE TABLE moved AS
WITH RECURSIVE moved(object_id) AS (
    SELECT object_id FROM (
        SELECT object_id FROM fates JOIN listing_marked USING (row) WHERE NOT same
        UNION ALL SELECT object_id FROM gone WHERE {prunes}
        UNION ALL SELECT duplicates.object_id FROM duplicates ANTI JOIN objects ON duplicate_of_object = objects.object_id
    )
    UNION
    SELECT duplicates.object_id FROM duplicates JOIN moved ON duplicates.duplicate_of_object = moved.object_id
)
SELECT object_id FROM moved;
UPDATE fates SET same = false WHERE row IN (SELECT row FROM listing_marked JOIN moved USING (object_id))
"""
TALLY = """
SELECT same, in_table, rejected, filtered, missing, count(*), coalesce(sum(size), 0)
FROM fates GROUP BY same, in_table, rejected, filtered, missing
"""
WORK = """
SELECT {names}, piece.base_hash FROM listing_marked JOIN piece ON listing_marked.row = piece.row
WHERE listing_marked.row BETWEEN {first} AND {last} ORDER BY listing_marked.row
"""


class Comparison:
    """A listing beside what is known of a table, while the `with` block lasts; once for each listing.

    DuckDB takes `memory_mb` at most, and disk in the folder for temporary files (`TMPDIR`) with the number of entries:
    measured, 130 to 410 bytes an object (`benchmarks/change_detection.py`). The iterables given to it may be read in other
    threads, and what they raise is raised here. Tables are streamed in pieces of at most `LISTING_ROWS` rows.
    """

    def __init__(self, memory_mb: int = MEMORY_MB) -> None:
        self.memory_mb = memory_mb

    def __enter__(self) -> Comparison:
        import duckdb  # here: workers, which read what the comparison leaves, never compare

        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="latentlake-"))
            self._database = stack.enter_context(
                duckdb.connect(
                    f"{folder}/comparison.duckdb",
                    config={
                        "memory_limit": f"{self.memory_mb}MiB",
                        "temp_directory": f"{folder}/spilled",
                        "threads": THREADS,
                        "preserve_insertion_order": False,
                        "autoinstall_known_extensions": False,
                        "autoload_known_extensions": False,
                    },
                )
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: object, failure: BaseException | None, trace: object) -> None:
        import duckdb

        self._stack.close()
        if isinstance(failure, RuntimeError) and str(failure) == "Query interrupted":  # DuckDB's word for Ctrl-C
            raise KeyboardInterrupt from failure
        if isinstance(failure, duckdb.OutOfMemoryException | duckdb.IOException):
            raise LatentLakeError(
                f"the listing cannot be compared with the table: {str(failure).splitlines()[0]}\n"
                f"  It takes {self.memory_mb} MB of memory, and about 500 bytes an object in '{tempfile.gettempdir()}'; "
                "set TMPDIR to a place with more room."
            ) from failure

    def load(self, listing: Iterable[pa.Table] | None) -> int:
        """Take in the listing and mark its duplicates; the number of entries.

        Each later entry of an id that was listed before gets an id of its own and an error; the first stays.
        """
        self._load_listing("listing", listing or ())
        return self._count("listing")

    def entries(self) -> Iterator[pa.Table]:
        """The listing, in its order, with duplicates marked."""
        (rows,) = self._database.execute("SELECT coalesce(max(row) + 1, 0) FROM listing").fetchall()[0]
        for first in range(0, rows, LISTING_ROWS):
            yield (
                self._database.cursor()
                .sql(
                    f"SELECT {', '.join(LISTING_SCHEMA.names)} FROM listing_marked "
                    f"WHERE row BETWEEN {first} AND {first + LISTING_ROWS - 1} ORDER BY row"
                )
                .to_arrow_table()
                .cast(LISTING_SCHEMA)
            )

    def find_changes(
        self,
        previous: Iterable[pa.Table] | None,
        objects: Iterable[pa.Table],
        rejects: Iterable[pa.Table],
        columns: Sequence[str],
        retry: Retry | None = None,
        own: str | None = None,
        prune: bool = False,
    ) -> Changes:
        """Compare the listing with the one that the table's version stands for.

        `previous` None: nothing is known of what the source held, and every object is read and compared by its hash. An
        entry is unchanged when its file and version are the same and its fate is known: its object is in the table, or was
        rejected (whole, or in every column) or filtered then. An object that could not be *read* is tried again, also where
        the table holds rows of an earlier content; one that could not be listed stays rejected beside such rows. An object
        of the table that was rejected in one of `columns` lacks that vector, and is `INCOMPLETE` where it is read again.

        With `retry` every entry counts as the one before (`previous` is not looked at) and nothing as gone; what has a
        reject of that kind, whole or in one of `columns`, is tried again, and so is an entry of which nothing is known.

        An object with a row that was dropped as a duplicate of another object's is read again when that object is, when it is
        not in the table, or when it is gone and the run prunes (`prune`). It is `INCOMPLETE` where it is read again.

        What is left out by its name, or has a name that matches `own` (see `SourceConfig.own`), is not gone.
        """
        self._load_listing("previous", () if retry else previous or ())
        self._load("CREATE TABLE rejects AS SELECT * FROM pieces", map(with_kept_object, rejects), FAULTS_SCHEMA)
        self._load(
            "CREATE TABLE objects AS SELECT object_id, min(object_hash) AS object_hash FROM pieces GROUP BY object_id",
            objects,
            OBJECTS_SCHEMA,
        )
        self._database.execute(UNIQUE)
        self._database.execute(fates_query(columns, retry))
        unlisted = "WHERE false" if retry else "ANTI JOIN listing_marked USING (object_id)"
        self._database.execute(f"CREATE TABLE left_over AS SELECT DISTINCT object_id FROM rejects {unlisted}")
        if not retry:
            mine = "" if own is None else f"WHERE NOT regexp_matches(object_id, {sql_string(own)})"
            unlisted += f" ANTI JOIN listing_left_out USING (object_id) {mine}"
        self._database.execute(f"CREATE TABLE gone AS SELECT object_id FROM objects {unlisted}")
        unlisted_files = self._count(f"listing WHERE starts_with(error, {sql_string(UNLISTED)})")
        self._look_again(prune and retry is None and not unlisted_files)
        tally = self._database.execute(TALLY).fetchall()
        return Changes(
            listed=self._count("listing"),
            work=sum(count for same, *_, count, _ in tally if not same),
            work_bytes=int(sum(size for same, *_, size in tally if not same)),
            carried={column: carry(tally, at) for at, column in enumerate(columns)},
            gone=self._count("gone"),
            in_table=self._count("objects"),
            left=self._count("left_over"),
            left_out=self._count("listing_left_out"),
            forgotten=self._count("listing_forgotten"),
            unlisted=unlisted_files,
        )

    def _look_again(self, prunes: bool) -> None:
        """Read the objects again whose rows were dropped because of a row that may not stay; see `SETTLED_AGAIN`."""
        named = "duplicate_of_object IS NOT NULL"
        pairs = f"SELECT DISTINCT object_id, duplicate_of_object FROM rejects WHERE {named}"
        self._database.execute(f"CREATE TABLE duplicates AS {pairs}")
        if self._count("duplicates"):
            self._database.execute(SETTLED_AGAIN.format(prunes=str(prunes).lower()))

    def work(self) -> Iterator[pa.Table]:
        """The entries to read (`WORK_SCHEMA`), in the order of the listing."""
        names = ", ".join(LISTING_SCHEMA.names)
        rows = self._database.cursor().sql("SELECT row, base_hash FROM fates WHERE NOT same ORDER BY row")
        for batch in rows.to_arrow_reader(LISTING_ROWS):
            with self._database.cursor() as cursor:
                cursor.register("piece", pa.Table.from_batches([batch]))
                first, last = batch["row"][0], batch["row"][-1]
                yield cursor.sql(WORK.format(names=names, first=first, last=last)).to_arrow_table().cast(WORK_SCHEMA)

    def gone(self) -> Iterator[pa.Table]:
        """Ids of the objects that are in the table and no longer in the source."""
        return self._ids("gone")

    def left(self) -> Iterator[pa.Table]:
        """Ids of the objects that have a reject and are no longer in the source."""
        return self._ids("left_over")

    def _ids(self, table: str) -> Iterator[pa.Table]:
        for batch in self._database.cursor().sql(f"SELECT object_id FROM {table}").to_arrow_reader(LISTING_ROWS):
            yield pa.Table.from_batches([batch]).cast(IDS_SCHEMA)

    def _load_listing(self, name: str, pieces: Iterable[pa.Table]) -> None:
        self._load(f"CREATE TABLE {name} AS SELECT * FROM pieces", numbered(pieces), NUMBERED_SCHEMA)
        for table, error in ((f"{name}_left_out", LEFT_OUT), (f"{name}_forgotten", FORGOTTEN)):
            entries = f"FROM {name} WHERE error IS NOT DISTINCT FROM {sql_string(error)}"
            self._database.execute(f"CREATE TABLE {table} AS SELECT object_id {entries}; DELETE {entries}")
        self._database.execute(REPEATS.format(name=name))
        self._database.execute(MARKED.format(name=name))

    def _load(self, query: str, pieces: Iterable[pa.Table], schema: pa.Schema) -> None:
        """Run a query over `pieces`, which are read while it runs."""
        import duckdb

        failures: list[BaseException] = []

        def batches() -> Iterator[pa.RecordBatch]:
            try:
                for piece in pieces:
                    yield from piece.select(schema.names).cast(schema).to_batches()
            except BaseException as failure:
                failures.append(failure)
                raise

        self._database.register("pieces", pa.RecordBatchReader.from_batches(schema, batches()))
        try:
            self._database.execute(query)
        except duckdb.Error:
            if failures:
                raise failures[0] from None  # DuckDB's own error only quotes it
            raise
        finally:
            self._database.unregister("pieces")

    def _count(self, table: str) -> int:
        (count,) = self._database.execute(f"SELECT count(*) FROM {table}").fetchall()[0]
        return int(count)


def with_kept_object(rejects: pa.Table) -> pa.Table:
    """Rejects with the column `duplicate_of_object`, all null where no run of the table has dropped duplicates."""
    if KEPT_OBJECT.name in rejects.column_names:
        return rejects
    return rejects.append_column(KEPT_OBJECT, pa.nulls(rejects.num_rows, KEPT_OBJECT.type))


def numbered(pieces: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Pieces with each row's place in the whole, in `row`."""
    start = 0
    for piece in pieces:
        yield piece.append_column("row", pa.array(np.arange(start, start + piece.num_rows)))
        start += piece.num_rows


def fates_query(columns: Sequence[str], retry: Retry | None) -> str:
    """SQL that decides what becomes of each entry; see `Comparison.find_changes`."""
    names = ", ".join(sql_string(column) for column in columns)
    again = "\"column\" IS NULL AND stage = 'read'"
    if retry is not None:
        kind = "outcome = 'rejected'" if retry.stage is None else f"stage = {sql_string(retry.stage)}"
        again = f'{kind} AND ("column" IS NULL OR "column" IN ({names}))'
    return FATES.format(
        again=again,
        partly=f'"column" IN ({names}) OR duplicate_of_object IS NOT NULL',
        incomplete=sql_string(INCOMPLETE),
        missing=", ".join(
            f'coalesce(bool_or(("column" IS NULL AND outcome = \'rejected\') OR "column" = {sql_string(column)}), false)'
            for column in columns
        ),
        as_before="before.object_id IS NOT NULL" if retry is None else "true",
        none_missing=[False] * len(columns),
    )


def carry(tally: Sequence[tuple[Any, ...]], at: int) -> Carried:
    """What is carried over for one column, the one `at` this place of `missing`."""
    unchanged = rejected = dropped = 0
    for same, in_table, refused, filtered, missing, count, _ in tally:
        if not same:
            continue
        if in_table:
            unchanged, rejected = unchanged + count * (not missing[at]), rejected + count * missing[at]
        elif refused:
            rejected += count
        elif filtered:  # an object whose rows were dropped as duplicates may have been rejected by a column before
            dropped, rejected = dropped + count * (not missing[at]), rejected + count * missing[at]
    return Carried(unchanged, rejected, dropped)
