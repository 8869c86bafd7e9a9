"""What the sources whose objects are rows of files (Parquet, JSON lines, CSV) have in common."""

from __future__ import annotations

import csv
import logging
import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from obstore.exceptions import BaseError
from pathspec import GitIgnoreSpec
from pydantic import Field

from latentlake.odd_keys import is_odd_uri
from latentlake.storage import Storage
from operators.batch import ReadError, RowError, describe
from operators.errors import SchemaMismatch, SourceError, did_you_mean
from operators.pulse import beat
from pipelines.child import BEAT_S
from pipelines.sources._bounds import CHANGED, GONE, OUTSIDE, UNLISTED, is_below, version_of
from pipelines.sources._looks import LookFailed, look
from pipelines.sources._names import LEFT_OUT, name_matcher
from pipelines.sources.base import LISTING_ROWS, Column, KnownFile, Objects, SourceConfig, as_listing
from pipelines.sources.files import Found, check_alive, walk_files
from pipelines.values.conversions import Values, convert, fits, is_encodable
from pipelines.values.hashing import canonical_rows
from pipelines.values.inference import or_text

log = logging.getLogger(__name__)

# Raised by `fetch` of a file that cannot be read, and of bytes that are not those of the version that was listed.
UNFIT = (OSError, ValueError, LookupError, AttributeError, StopIteration, RecursionError, SourceError, csv.Error, pa.ArrowException, BaseError)  # fmt: skip
SAMPLE_FILES = 8  # of which the types of columns are told
MERGE_GAP_BYTES = 1 << 20  # two records nearer than this are fetched in one request,
REQUEST_BYTES = 16 << 20  # which is no longer than this unless one record is


@dataclass(frozen=True)
class Record:
    """One row that a scan met: its id (None: it has none; an error: it cannot be one), where it lies, its size, and why it is no object."""

    id: str | RowError | None
    position: int
    size: int | None = None
    error: str | None = None


@dataclass(frozen=True)
class Rows:
    """What was fetched of a file: the contents (an exception where there is none to be had), and the metadata columns as they are there.

    A column is an Arrow array, or a list of values of JSON; text is one of them.
    """

    contents: Sequence[Any]
    metadata: Mapping[str, Values]


class TableSource(SourceConfig):
    """Rows of every file below `uri` (a file, or a folder whose files match `include`)."""

    suffixes: ClassVar[tuple[str, ...]]

    id: str
    content: str
    metadata: list[Column] = Field(default_factory=list)
    include: list[str] = Field(default_factory=list)

    @property
    def columns(self) -> list[str]:
        """Columns to read of a row: the content, then the metadata."""
        return list(dict.fromkeys([self.content, *self.metadata_names]))

    @abstractmethod
    def scan(self, storage: Storage, uri: str) -> Iterator[Record]:
        """Every row of a file, in order; reads no more of it than that takes."""

    @abstractmethod
    def fetch(
        self, storage: Storage, uri: str, version: str | None, positions: Sequence[int], sizes: Sequence[int]
    ) -> Rows:
        """The rows at `positions`, which ascend, of a file at one version.

        What is kept of the file for later calls is kept by its version, until `forget`.
        """

    def forget(self) -> None:
        """Drop what `fetch` has kept, for it may be of another version than it is kept by."""

    @abstractmethod
    def infer_types(self, storage: Storage, uris: Sequence[str]) -> dict[str, pa.DataType | None]:
        """Types of the metadata columns, from some of the files; None where these say nothing of it."""

    def list_objects(self, known: KnownFile) -> Iterator[pa.Table]:
        """Stream the listing; a file that has not changed is not opened, and one that was listed before stays listed."""
        left_out = name_matcher(self.leave_out)
        for found in self._files():
            same = known(found.uri, found.version) if found.version is not None else None
            if same is not None:
                yield from same
                continue
            if left_out(found.name) and not self._is_named(found):
                yield as_listing([replace(found, error=LEFT_OUT).entry()])
                continue
            if is_odd_uri(self.storage, found.uri):
                found = replace(found, error=f"{UNLISTED}: only `files` reads objects of such a key")
            if found.error:
                yield as_listing([found.entry()])
                continue
            try:
                yield from look(scan_file, self, found)
            except LookFailed as failure:
                yield as_listing([replace(found, error=f"{UNLISTED}: {failure}").entry()])

    def read_objects(self, entries: pa.Table, fields: list[pa.Field]) -> Objects:
        """Read the rows of a slice of the listing, file by file. Raises `SourceError` where their store is dead."""
        uris, errors = entries["uri"].to_pylist(), entries["error"].to_pylist()
        versions = entries["version"].to_pylist()
        positions, sizes = entries["position"].to_pylist(), entries["size"].to_pylist()
        contents: list[Any] = [RowError(error) if error else None for error in errors]
        canonical = [b""] * len(uris)
        arrays = {field.name: [pa.nulls(1, field.type)] for field in fields}  # where nothing is read, the first value
        place, next_place = np.zeros(len(uris), dtype=np.int64), 1
        storage = self.storage
        files: dict[tuple[str, str | None], list[int]] = {}
        for row in range(len(uris)):
            if not errors[row]:
                files.setdefault((uris[row], versions[row]), []).append(row)
        for (uri, version), rows in files.items():
            beat()
            rows.sort(key=lambda r: positions[r])
            places, lengths = [positions[r] for r in rows], [sizes[r] or 0 for r in rows]
            fetched = self._fetch_unchanged(storage, uri, version, places, lengths)
            if isinstance(fetched, Exception):
                for row in rows:
                    contents[row] = fetched
                continue
            faults: dict[int, str] = {}
            for field in fields:
                values, misfits = convert(fetched.metadata[field.name], field, field.name in self.stated_types)
                arrays[field.name].append(values)
                faults = misfits | faults
            states = canonical_rows(fetched.metadata, len(rows))
            for at, row in enumerate(rows):
                contents[row] = RowError(faults[at]) if at in faults else fetched.contents[at]
                canonical[row] = states[at]
            place[rows] = np.arange(next_place, next_place + len(rows))
            next_place += len(rows)
        found = [pa.concat_arrays(arrays[field.name]).take(pa.array(place)) for field in fields]
        return Objects(contents, pa.Table.from_arrays(found, schema=pa.schema(fields)), canonical)

    def metadata_fields(self, listing: Iterator[pa.Table]) -> list[pa.Field]:
        """The metadata columns: of the type that the job states, else of one that suits the first file, the last, and some between."""
        if not self.metadata:
            return []
        uris = sample_files(listing)
        found = types_of_files(self, uris)
        for name, kind in self.stated_types.items() if self.declares_types else ():
            declared = found.get(name)
            if declared is not None and not fits(declared, kind, stated=True):
                raise SchemaMismatch(
                    f"metadata column '{name}' is {declared} in the source, and the job states {kind}, which it cannot become.\n"
                    "  State another type, or leave it out."
                )
        types = {name: or_text(found.get(name)) for name in self.metadata_names}
        return [pa.field(name, kind) for name, kind in (types | self.stated_types).items()] if uris else []

    def _fetch_unchanged(
        self, storage: Storage, uri: str, version: str | None, positions: Sequence[int], sizes: Sequence[int]
    ) -> Rows | Exception:
        """See `fetch`; or why the file's rows cannot be had: it is gone, or not the one that was listed.

        Positions mean other rows in another version, so the version is looked up before and after.
        """
        try:
            if not is_below(storage, uri):
                return ReadError(OUTSIDE)
            if version is None:
                self.forget()
            elif version_of(storage, uri) != version:
                return ReadError(CHANGED)
            try:
                fetched: Rows | Exception = self.fetch(storage, uri, version, positions, sizes)
            except UNFIT as failure:
                check_alive(storage, failure)
                fetched = failure
            if version is not None and version_of(storage, uri) != version:
                self.forget()
                return ReadError(CHANGED)
        except FileNotFoundError:
            return ReadError(GONE)
        except (OSError, ValueError, BaseError) as failure:
            check_alive(storage, failure)
            return failure
        return ReadError(GONE) if isinstance(fetched, FileNotFoundError) else fetched

    def _files(self) -> Iterator[Found]:
        wanted = GitIgnoreSpec.from_lines(self.include or [f"*{suffix}" for suffix in self.suffixes])
        files = walk_files(self.storage, self.own)
        return (found for found in files if self._is_named(found) or wanted.match_file(found.name))

    def _is_named(self, found: Found) -> bool:
        """Whether the job names the file itself: then it needs no suffix, and has a name that is asked for."""
        return found.uri == self.storage.uri_of(self.storage.root)

    def entry_of(self, found: Found, record: Record) -> dict[str, Any]:
        """A row of the listing for a record of a file; one that names no object gets an error."""
        name = record.id if isinstance(record.id, str) else ""
        error = record.error or fault_of(record.id, self.id)
        return {
            "object_id": f"{found.name}:{record.position}" if error else name,
            "uri": found.uri,
            "version": found.version,
            "size": record.size,
            "position": record.position,
            "error": error,
        }


def sample_files(listing: Iterator[pa.Table]) -> list[str]:
    """Addresses of some files of a listing: the first, the last, and others at even distances, `SAMPLE_FILES` at most.

    Entries of one file stand together.
    """
    kept: list[str] = []
    seen, step, latest = 0, 1, None
    for piece in listing:
        for uri in pc.unique(piece["uri"].filter(pc.is_null(piece["error"]))).to_pylist():
            if uri == latest:
                continue
            if seen % step == 0:
                kept.append(uri)
            if len(kept) == 2 * SAMPLE_FILES:
                kept, step = kept[::2], 2 * step
            seen, latest = seen + 1, uri
    chosen = [kept[at * (len(kept) - 1) // (SAMPLE_FILES - 2)] for at in range(SAMPLE_FILES - 1)] if kept else []
    return list(dict.fromkeys([*chosen, *([latest] if latest is not None else [])]))


def scan_file(source: TableSource, found: Found) -> Iterator[pa.Table | None]:
    """The entries of a file, in pieces; None now and then. A file that cannot be read is one entry, with an error.

    Raises `SourceError` where the store does not answer.
    """
    rows, beat = [], time.monotonic()
    try:
        for record in source.scan(source.storage, found.uri):
            rows.append(source.entry_of(found, record))
            if len(rows) == LISTING_ROWS:
                yield as_listing(rows)
                rows = []
            elif time.monotonic() - beat > BEAT_S:
                yield None
                beat = time.monotonic()
    except UNFIT as failure:
        if isinstance(failure, SourceError):
            raise
        check_alive(source.storage, failure)
        # What the disk or the store refuses now it may give later; without a version the file is looked at again.
        passing = isinstance(failure, BaseError) or bool(getattr(failure, "errno", None))
        version = None if passing else found.version
        rows.append(replace(found, version=version, error=f"{UNLISTED}: {describe(failure)}").entry())
    if rows:
        yield as_listing(rows)


def types_of_files(source: TableSource, uris: Sequence[str]) -> dict[str, pa.DataType | None]:
    """What some of the files say of the metadata columns; those that end the process that looks at them say nothing."""
    if not uris:
        return {}
    try:
        (types,) = look(told_types, source, uris)
    except LookFailed as failure:
        if len(uris) == 1:
            log.warning("the types of '%s' cannot be looked up: %s", uris[0], failure)
            return {}
        alone = [uri for uri in uris if types_of_files(source, [uri])]
        return types_of_files(source, alone if len(alone) < len(uris) else alone[:1])
    return types


def told_types(source: TableSource, uris: Sequence[str]) -> Iterator[dict[str, pa.DataType | None]]:
    """Once, the types of the metadata columns."""
    yield source.infer_types(source.storage, uris)


def fault_of(name: str | RowError | None, column: str) -> str | None:
    """Why a value of the id column names no object; None where it does."""
    if isinstance(name, RowError):
        return f"no text in the id column '{column}': {name}"
    if not name:
        return f"no value in the id column '{column}'"
    return None if is_encodable(name) else f"no text in the id column '{column}': a lone surrogate"


def check_present(uri: str, wanted: Sequence[str], present: Sequence[str]) -> None:
    """Raise `SourceError` unless a file has all the columns that the job names."""
    for name in wanted:
        if name not in present:
            raise SourceError(
                f"'{uri}' has no column '{name}'.{did_you_mean(name, present)}\n  Its columns: {', '.join(present)}"
            )
        if list(present).count(name) > 1:
            raise SourceError(f"'{uri}' has more than one column '{name}'.\n  Rename all but one of them.")


def fetch_ranges(storage: Storage, uri: str, starts: Sequence[int], sizes: Sequence[int]) -> Iterator[bytes]:
    """Bytes of ascending ranges of a file; near ones in one request, one request's bytes in memory at a time."""
    path = storage.path_of(uri)
    first = 0
    while first < len(starts):
        last = first
        while (
            last + 1 < len(starts)
            and starts[last + 1] - (starts[last] + sizes[last]) < MERGE_GAP_BYTES
            and starts[last + 1] + sizes[last + 1] - starts[first] <= REQUEST_BYTES
        ):
            last += 1
        block = storage.fs.cat_file(path, start=starts[first], end=starts[last] + sizes[last])
        for index in range(first, last + 1):
            offset = starts[index] - starts[first]
            yield block[offset : offset + sizes[index]]
        first = last + 1
