"""Looks in a child process: what it finds, and what its death or silence costs: one file, and never the driver."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import look_maker
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from job_maker import check_accounting, make_job, rows_of, run, write_jsonl
from source_maker import nothing_known

import latentlake
from operators.errors import LatentLakeError, SourceError
from pipelines.child import end_children, give_back, take_child
from pipelines.sources import _looks
from pipelines.sources._bounds import UNLISTED
from pipelines.sources._looks import LookFailed, bounded_looks, look


@pytest.fixture(autouse=True)
def a_child() -> Iterator[None]:
    with bounded_looks(60):
        yield


def test_what_a_look_gives():
    assert list(look(look_maker.count, 3)) == [0, 1, 2]
    assert list(look(look_maker.talk)) == [1]
    assert list(look(look_maker.count, 0)) == []


def test_one_child_serves_many_looks_and_ends():
    one, last = take_child(), take_child()
    give_back(one)
    give_back(last)
    (first,), (second,) = look(look_maker.process), look(look_maker.process)
    assert first == second == last.pid
    end_children()
    assert not psutil.pid_exists(first) or psutil.Process(first).status() == psutil.STATUS_ZOMBIE
    (third,) = look(look_maker.process)
    assert third != first


def test_a_child_that_prepares_is_handed_back():
    end_children()
    child = take_child()
    for function, argument in ((look_maker.count, 3), (look_maker.fail, "it is lost")):
        child.prepare(function, (argument,))
    give_back(child)
    assert list(look(look_maker.process)) == [child.pid]


def test_two_threads_have_a_child_each():
    found = []

    def take() -> None:
        with bounded_looks(60):
            found.extend(look(look_maker.sleep, 0.5))

    threads = [threading.Thread(target=take) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found.count(1) == found.count(2) == 2


def test_the_child_has_our_environment_of_now(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (first,) = look(look_maker.process)
    monkeypatch.setenv("LATENTLAKE_TEST_KEY", "x")
    assert list(look(look_maker.environment, "LATENTLAKE_TEST_KEY")) == ["x"]
    monkeypatch.delenv("LATENTLAKE_TEST_KEY")
    monkeypatch.chdir(tmp_path)
    assert list(look(look_maker.environment, "LATENTLAKE_TEST_KEY")) == ["None"]
    assert list(look(look_maker.folder)) == [str(tmp_path)]
    assert list(look(look_maker.process)) == [first]


def test_death_says_of_what():
    found = []
    with pytest.raises(LookFailed, match=r"died: SIGABRT: terminate called: what\(\): it is encrypted"):
        found.extend(look(look_maker.abort, 2))
    assert found == [0, 1]
    assert list(look(look_maker.count, 1)) == [0]


def test_one_death_may_be_chance_and_nothing_is_given_twice(tmp_path: Path):
    assert list(look(look_maker.abort_once, str(tmp_path / "mark"))) == [0, 1, 2]


@pytest.mark.parametrize("slow", [look_maker.sleep, look_maker.hold_the_lock])
def test_silence_has_a_bound(slow: object):
    began = time.monotonic()
    with bounded_looks(1), pytest.raises(LookFailed, match="took longer than 1 s"):
        list(look(slow, 300))  # type: ignore[arg-type]
    assert time.monotonic() - began < 60


def test_what_a_look_raises_is_raised_here():
    with pytest.raises(ValueError, match="the file is bad"):
        list(look(look_maker.fail, "the file is bad"))
    with pytest.raises(LatentLakeError, match="Strange: it cannot travel"):
        list(look(look_maker.fail_strangely))
    assert list(look(look_maker.count, 1)) == [0]


def test_a_look_that_nobody_hears_to_its_end():
    for number in look(look_maker.count, 10**6):
        assert number == 0
        break
    assert list(look(look_maker.count, 2)) == [0, 1]


def test_without_a_bound_looks_are_taken_here():
    token = _looks.BOUND_S.set(None)
    assert list(look(look_maker.process)) == [psutil.Process().pid]
    _looks.BOUND_S.reset(token)


def rejects_of(job: dict) -> list[tuple[str, str]]:
    found = latentlake.connect(job["table"]["uri"]).rejects("t").to_pylist()
    return sorted((row["object_id"], row["error"]) for row in found)


@pytest.mark.parametrize("columns", [["text"], ["id"]])
def test_parquet_with_encrypted_columns_is_one_reject(tmp_path: Path, columns: list[str]):
    """`shared/cases/encrypted_plain_footer.py`, beside a good file: the run continues."""
    folder = tmp_path / "in"
    folder.mkdir()
    look_maker.write_encrypted(folder / "a.parquet", columns)
    look_maker.write_encrypted(folder / "b.parquet", columns, plain_footer=False)
    pq.write_table(pa.table({"id": ["x"], "text": ["good"], "title": ["t"]}), folder / "c.parquet")
    (folder / "d.parquet").write_bytes(b"PAR1 no Parquet PAR1")
    (folder / "e.parquet").touch()
    source = {"kind": "parquet", "uri": str(folder), "id": "id", "content": "text"}
    job = make_job(tmp_path, source, gates={"max_reject_rate": 1})
    report = run(job)
    check_accounting(report)
    assert (report["counts"]["listed"], report["counts"]["rejected"], set(rows_of(job))) == (5, 4, {"x"})
    told = dict(rejects_of(job))
    assert set(told) == {f"{name}.parquet" for name in "abde"}
    assert all(text.startswith(UNLISTED) for text in told.values())
    assert "Cannot decrypt" in told["a.parquet"] and "encrypted" in told["b.parquet"]
    again = run(job)
    assert (again["state"], again["counts"]["rejected"], again["objects_read"]) == ("unchanged", 4, 0)


def test_a_source_without_a_file_that_can_be_listed_fails_the_run(tmp_path: Path):
    """`shared/cases/encrypted_plain_footer.py` as it is: there is nothing else in the source."""
    (tmp_path / "in").mkdir()
    look_maker.write_encrypted(tmp_path / "in" / "a.parquet", ["text"])
    source = {"kind": "parquet", "uri": str(tmp_path / "in"), "id": "id", "content": "text"}
    with pytest.raises(SourceError, match=r"The first, 'a\.parquet', cannot be listed: a process .* Cannot decrypt"):
        run(make_job(tmp_path, source, gates={"max_reject_rate": 1}))


def test_nothing_is_pruned_while_a_file_cannot_be_listed(tmp_path: Path):
    source = {**write_jsonl(tmp_path / "in" / "a.jsonl", [{"id": "a", "text": "a"}]), "uri": str(tmp_path / "in")}
    source |= {"kind": "parquet", "include": ["*"]}
    (tmp_path / "in" / "a.jsonl").unlink()
    for name in "ab":
        pq.write_table(pa.table({"id": [name], "text": [name]}), tmp_path / "in" / f"{name}.parquet")
    gates = {"max_reject_rate": 1, "max_objects_removed": 1}
    job = make_job(tmp_path, source, table={"prune": True}, gates=gates)
    run(job)
    whole = (tmp_path / "in" / "a.parquet").read_bytes()
    (tmp_path / "in" / "a.parquet").write_bytes(whole[:-1])
    for _ in range(2):
        assert run(job)["counts"]["rejected"] == 1
        assert set(rows_of(job)) == {"a", "b"}
    (tmp_path / "in" / "a.parquet").unlink()
    run(job)
    assert set(rows_of(job)) == {"b"}


def test_a_reader_that_dies_or_hangs_costs_its_file(tmp_path: Path):
    for name in ("a", "abort", "hang", "z"):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"id": f"{name}{n}", "text": "x"} for n in range(3)])
    source = look_maker.Source(uri=str(tmp_path), id="id", content="text")
    with bounded_looks(10):
        (listing,) = [pa.concat_tables(source.list_objects(nothing_known)).to_pylist()]
    errors = {row["object_id"]: row["error"] for row in listing}
    assert [name for name, error in errors.items() if error is None] == ["a0", "a1", "a2", "z0", "z1", "z2"]
    assert "SIGABRT" in errors["abort.jsonl"] and "took longer than 10 s" in errors["hang.jsonl"]


def test_a_job_that_names_a_column_wrongly_still_fails(tmp_path: Path):
    write_jsonl(tmp_path / "a.jsonl", [{"id": "a", "body": "x"}])
    source = look_maker.Source(uri=str(tmp_path), id="id", content="text")
    with pytest.raises(SourceError, match="has no column 'text'"):
        list(source.list_objects(nothing_known))


def test_a_file_that_the_disk_refuses_is_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_jsonl(tmp_path / "a.jsonl", [{"id": "a", "text": "x"}])
    source = look_maker.Source(uri=str(tmp_path), id="id", content="text")
    _looks.BOUND_S.set(None)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(look_maker.Source, "scan", refuse)
    (piece,) = source.list_objects(nothing_known)
    assert piece.select(["object_id", "version", "error"]).to_pylist() == [
        {"object_id": "a.jsonl", "version": None, "error": f"{UNLISTED}: PermissionError: [Errno 13] Permission denied"}
    ]
