"""Objects that end the process that reads them: found one by one, and rejected unread."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from job_maker import make_job, write_texts
from reading_maker import by_id, fates, list_work

from latentlake.storage import Storage
from operators.chain import Chain
from pipelines.flow.reading import ReadShard
from pipelines.flow.shard import Status, unpack
from pipelines.job.jobfile import parse_job
from pipelines.state.journal import DIED, Journal


def careful_read(job: Mapping[str, Any], place: Storage) -> tuple[Status, pa.Table]:
    """Read as a task does, once an earlier attempt has died."""
    spec = parse_job(job)
    with Journal(place, "000000003-read") as journal:
        assert journal.careful
        return unpack(ReadShard(spec, place, (), None, False).read(3, list_work(spec), journal))


def leave_note(place: Storage, **note: Any) -> None:
    folder = place.child("attempts")
    folder.remove("000000003-read.json")
    assert folder.put_if_absent("000000003-read.json", json.dumps(note).encode())


def test_an_object_that_killed_its_process_is_rejected_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    texts = {f"{k}": f"text {k}" for k in range(5)}
    job = make_job(tmp_path, write_texts(tmp_path / "in", texts))
    spec = parse_job(job)
    place = spec.table.lake
    asked: list[list[str]] = []
    read_objects = type(spec.source).read_objects

    def noted(self: Any, work: pa.Table, fields: Any) -> Any:
        asked.append(work["object_id"].to_pylist())
        return read_objects(self, work, fields)

    monkeypatch.setattr(type(spec.source), "read_objects", noted)
    leave_note(place, dead=["2"], alone=["3", "4"])
    status, rows = careful_read(job, place)
    assert asked == [["0", "1"], ["3"], ["4"]]
    assert sorted(by_id(rows)) == ["0", "1", "3", "4"]
    assert fates(status) == {"2": ("rejected", "decode", DIED, None)}
    assert (status.listed, status.reads) == (5, 4)
    assert place.child("attempts").list_names() == []


def test_a_shard_whose_objects_all_killed_their_process(tmp_path: Path):
    job = make_job(tmp_path, write_texts(tmp_path / "in", {"a": "x", "b": "y"}))
    leave_note(parse_job(job).table.lake, dead=["a", "b"])
    status, rows = careful_read(job, parse_job(job).table.lake)
    assert (rows.num_rows, len(status.rejects), status.reads, status.listed) == (0, 2, 0, 2)
    assert {"id", "origin.h", "h"} <= set(rows.column_names)


def test_an_object_that_kills_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Killed(BaseException):
        """As a SIGKILL would be."""

    job = make_job(tmp_path, write_texts(tmp_path / "in", {f"{k:02}": f"text {k}" for k in range(70)}))
    spec = parse_job(job)
    run = Chain.run

    def deadly(self: Chain, batch: Any, *how: Any) -> Any:
        if "text 40" in batch["content"] or b"text 40" in batch["content"]:
            raise Killed
        return run(self, batch, *how)

    monkeypatch.setattr(Chain, "run", deadly)
    for deaths in range(6):
        journal = Journal(spec.table.lake, "000000003-read").__enter__()
        try:
            status, rows = unpack(ReadShard(spec, spec.table.lake, (), None, False).read(3, list_work(spec), journal))
            break
        except Killed:
            assert deaths < 4
    assert deaths == 4  # unnoted, in its unit, twice alone
    assert {name: fate[:3] for name, fate in fates(status).items()} == {"40": ("rejected", "decode", DIED)}
    assert (rows.num_rows, status.listed) == (69, 70)
