"""The first stage of the flow, without Ray: what a shard's block holds, and what its status says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest
from job_maker import HASHING, make_job, write_jsonl, write_texts
from reading_maker import blake, by_id, fates, list_work, object_hashes, read

from operators.embedders.hashing import Config
from pipelines.flow.reading import ReadShard
from pipelines.flow.shard import Origin, prepared_batch, unpack
from pipelines.job.jobfile import parse_job


def test_texts(tmp_path: Path):
    texts = {"a.txt": "eins zwei", "b/ü.txt": "grüße drei vier"}
    status, rows = read(make_job(tmp_path, write_texts(tmp_path / "in", texts)))
    assert (status.shard, status.listed, status.unchanged, status.reads) == (3, 2, 0, 2)
    assert status.read_bytes == sum(len(text.encode()) for text in texts.values())
    assert (status.rejects, status.replaced) == ([], [])
    (stage,) = status.stages
    assert stage["stage"] == "read" and stage["ended"] >= stage["began"] > 1e9
    found = by_id(rows)
    for name, text in texts.items():
        row = found[name]
        assert (row["object_id"], row["uri"], row["text"]) == (name, str(tmp_path / "in" / name), text)
        assert row["content_hash"] == blake(text.encode())
        assert (row["origin.h"], row["h"]) == (Origin.TO_EMBED, None)
        assert (row["h_tokens"], row["h_truncated"]) == (len(text.split()), False)
    key = Config(dim=64).preparation_key()
    assert prepared_batch(rows, key, np.array([1, 0]))["words"].tolist() == ["grüße drei vier", "eins zwei"]
    assert rows["h"].type == pa.list_(pa.float32(), 64)
    assert not {"content", "error", "filtered", "entry", "base_hash", "prepared." + key + ".tokens"} & set(
        rows.column_names
    )


def test_unchanged_objects_are_dropped_and_changed_ones_replace_their_rows(tmp_path: Path):
    job = make_job(tmp_path, write_texts(tmp_path / "in", {"same": "one", "new": "two", "changed": "three"}))
    _, rows = read(job)
    known = {"same": object_hashes(rows)["same"], "changed": "another", "elsewhere": "x"}
    status, rows = read(job, known)
    assert (status.listed, status.unchanged, status.reads) == (3, 1, 3)
    assert sorted(by_id(rows)) == ["changed", "new"]
    assert status.replaced == ["changed"]


def test_a_run_that_adds_a_column_writes_unchanged_objects_again(tmp_path: Path):
    job = make_job(tmp_path, write_texts(tmp_path / "in", {"same": "one"}))
    _, rows = read(job)
    status, rows = read(job, object_hashes(rows), rewrites=True)
    assert (status.unchanged, list(by_id(rows)), status.replaced) == (0, ["same"], ["same"])


def test_repeated_contents_are_embedded_once(tmp_path: Path):
    texts = {"a": "same words", "b": "other", "c": "same words", "d": "same words"}
    _, rows = read(make_job(tmp_path, write_texts(tmp_path / "in", texts)))
    assert rows["origin.h"].to_pylist() == [Origin.TO_EMBED, Origin.TO_EMBED, Origin.REUSED, Origin.REUSED]
    assert rows["h"].null_count == 4
    assert rows["h_tokens"].to_pylist() == [2, 1, 2, 2]
    key = Config(dim=64).preparation_key()
    assert rows[f"prepared.{key}.cost"].to_pylist() == [2, 1, None, None]


# what is rejected and filtered


def test_rejects_with_their_stage_and_type(tmp_path: Path):
    folder = tmp_path / "in"
    job = make_job(
        tmp_path, write_texts(folder, {"good": "words"}), preprocess=[{"op": "drop_short_text", "min_chars": 3}]
    )
    (folder / "binary").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
    (folder / "empty").write_bytes(b"")
    (folder / "blank").write_text(" \n")
    (folder / "short").write_text("ab")
    (folder / "dangling").symlink_to(folder / "nowhere")
    status, rows = read(job, {"binary": "x", "short": "y", "dangling": "z"})
    assert list(by_id(rows)) == ["good"]
    found = fates(status)
    assert {name: fate[:2] for name, fate in found.items()} == {
        "binary": ("rejected", "decode"),
        "empty": ("rejected", "decode"),
        "blank": ("rejected", "decode"),
        "short": ("filtered", "drop_short_text"),
        "dangling": ("rejected", "list"),
    }
    assert found["binary"][3] == "image/png"
    assert found["empty"][2:] == ("empty", "inode/x-empty")
    assert found["blank"][2] == "empty"
    assert found["short"][2:] == ("2 characters, fewer than 3", "text/plain")
    assert found["dangling"][2:] == ("cannot be read: No such file or directory", None)
    assert all(reject["uri"] == str(folder / reject["object_id"]) for reject in status.rejects)
    assert sorted(status.replaced) == ["binary", "short"]  # what could not be read stays as it is
    assert (status.listed, status.reads) == (6, 5)


def test_text_that_preprocessing_empties(tmp_path: Path):
    job = make_job(
        tmp_path, write_texts(tmp_path / "in", {"a": "\x1b[31m", "b": "x"}), preprocess=[{"op": "clean_text"}]
    )
    status, rows = read(job)
    assert list(by_id(rows)) == ["b"]
    assert fates(status)["a"][:3] == ("rejected", "preprocess", "empty")


def test_a_file_that_vanished(tmp_path: Path):
    job = make_job(tmp_path, write_texts(tmp_path / "in", {"a": "x", "b": "y"}))
    spec = parse_job(job)
    work = list_work(spec, hashes={"a": "h"})
    (tmp_path / "in" / "a").unlink()
    status, rows = unpack(ReadShard(spec, spec.table.lake, (), None, False).read(0, work))
    assert list(by_id(rows)) == ["b"]
    outcome, stage, error, sniffed = fates(status)["a"]
    assert (outcome, stage, error, sniffed) == ("rejected", "read", "gone since it was listed", None)
    assert (status.reads, status.replaced) == (1, [])


@pytest.mark.parametrize("modality", ["text", "image"])
def test_contents_of_any_json_type_answer_for_themselves(tmp_path: Path, modality: str):
    odd: list[Any] = [5, 1.5, True, None, ["a"], {"b": 1}, "\ud800", [1, 2]]
    rows = [{"id": str(k), "text": value} for k, value in enumerate(odd)]
    source = write_jsonl(tmp_path / "in.jsonl", [*rows, {"id": "good", "text": "words"}])
    status, read_rows = read(make_job(tmp_path, source, modality=modality))
    assert list(by_id(read_rows)) == (["good"] if modality == "text" else [])
    found = fates(status)
    assert {name: fate[:2] for name, fate in found.items() if name != "good"} == {
        row["id"]: ("rejected", "decode") for row in rows
    }


def test_lines_and_ids_that_name_no_object(tmp_path: Path):
    path = tmp_path / "in.jsonl"
    path.write_text('{"id": "a", "text": "x"}\nbroken\n{"text": "no id"}\n')
    source = {"kind": "jsonl", "uri": str(path), "id": "id", "content": "text"}
    status, rows = read(make_job(tmp_path, source))
    assert list(by_id(rows)) == ["a"]
    assert [fate[1] for fate in fates(status).values()] == ["list", "list"]


def test_a_shard_of_rejects_alone(tmp_path: Path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_bytes(b"")
    status, rows = read(make_job(tmp_path, {"kind": "files", "uri": str(tmp_path / "in")}))
    assert (rows.num_rows, len(status.rejects)) == (0, 1)
    assert {"id", "origin.h", "h"} <= set(rows.column_names)


# chunks


def test_chunks(tmp_path: Path):
    text = "one two three four five six seven"
    chunk = [{"op": "chunk_text", "column": "h", "max_tokens": 3, "overlap": 1}]
    job = make_job(
        tmp_path, write_texts(tmp_path / "in", {"a": text, "b": "!!", "c": "one two three"}), preprocess=chunk
    )
    status, rows = read(job, {"a": "old"})
    found = rows.to_pylist()
    assert [row["id"] for row in found] == ["a#0", "a#1", "a#2", "c#0"]
    assert [row["chunk"] for row in found] == [0, 1, 2, 0]
    assert [row["text"] for row in found] == ["one two three", "three four five", "five six seven", "one two three"]
    assert all(row["text"] == text[row["start"] : row["end"]] for row in found[:3])
    assert [row["content_hash"] for row in found] == [blake(row["text"].encode()) for row in found]
    assert len({row["object_hash"] for row in found[:3]}) == 1
    assert rows["origin.h"].to_pylist() == [0, 0, 0, Origin.REUSED]
    assert fates(status)["b"][:3] == ("rejected", "chunk_text", "empty")
    assert status.replaced == ["a"]


# hashes


def test_object_hash_covers_all_that_the_rows_hold(tmp_path: Path):
    def hashes(rows: Sequence[Mapping[str, Any]], metadata: Sequence[str] = ("title",)) -> dict[str, tuple[str, str]]:
        source = write_jsonl(tmp_path / "in.jsonl", rows, metadata)
        _, found = read(make_job(tmp_path, source))
        return {row["id"]: (row["content_hash"], row["object_hash"]) for row in found.to_pylist()}

    first = hashes([{"id": "a", "text": "x", "title": "t", "n": 1}, {"id": "b", "text": "x", "title": None, "n": 1}])
    assert first["a"][0] == first["b"][0] == blake(b"x")
    assert first["a"][1] != first["b"][1]
    other = {"id": "a", "text": "x", "title": "changed", "n": 2}
    assert hashes([other])["a"][0] == first["a"][0] and hashes([other])["a"][1] != first["a"][1]
    same = {"id": "a", "text": "x", "title": "t", "n": 2}  # `n` is in no column
    assert hashes([same])["a"] == first["a"]
    assert hashes([{"id": "b", "text": "x", "title": "None"}])["b"][1] != first["b"][1]


def test_a_moved_file_is_the_same_content_in_another_row(tmp_path: Path):
    found = []
    for folder in ("here", "there"):
        _, rows = read(make_job(tmp_path, write_texts(tmp_path / folder, {"a": "x"})))
        found.append(rows.to_pylist()[0])
    assert found[0]["content_hash"] == found[1]["content_hash"]
    assert found[0]["object_hash"] != found[1]["object_hash"]  # its `uri` is another
    assert found[0]["object_id"] == found[1]["object_id"]


def test_metadata_travels(tmp_path: Path):
    rows = [
        {"id": "a", "text": "x", "status": "new", "n": 1},
        {"id": "b", "text": "", "n": 2},
        {"id": "c", "text": "z", "n": 3},
    ]
    _, found = read(make_job(tmp_path, write_jsonl(tmp_path / "in.jsonl", rows, ["status", "n"])))
    assert found.select(["id", "status", "n"]).to_pydict() == {"id": ["a", "c"], "status": ["new", None], "n": [1, 3]}
    assert found["uri"].null_count == 2  # the file it lies in is not the object's own address


# what the table holds


def write_base(
    job: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], dtype: pa.DataType | None = None
) -> lance.LanceDataset:
    """The job's table, as an earlier run may have left it: vectors are `[v, v, …]`, or null."""
    kind = pa.list_(dtype or pa.float32(), 64)
    vectors = [None if row["v"] is None else np.full(64, row["v"], kind.value_type.to_pandas_dtype()) for row in rows]
    table = pa.table(
        {
            "id": [row["object"] for row in rows],
            "object_id": [row["object"] for row in rows],
            "content_hash": [blake(row["text"].encode()) for row in rows],
            "object_hash": [row.get("hash", "old") for row in rows],
            "h": pa.array(vectors, kind),
            "h_tokens": pa.array([row.get("tokens", 9) for row in rows], pa.int32()),
            "h_truncated": pa.array([True] * len(rows)),
        }
    )
    return lance.write_dataset(table, f"{job['table']['uri']}/t.lance")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_vectors_of_the_same_content_are_copied(tmp_path: Path, dtype: str):
    texts = {"moved": "m", "new": "n", "own": "o", "shared": "s", "null": "z"}
    job = make_job(tmp_path, write_texts(tmp_path / "in", texts), embed=[{**HASHING, "dtype": dtype}])
    rows = [
        {"object": "elsewhere", "text": "m", "v": 1},
        {"object": "other", "text": "s", "v": 2},
        {"object": "shared", "text": "s", "v": 3},
        {"object": "own", "text": "o", "v": 4},
        {"object": "null", "text": "z", "v": None},
    ]
    base = write_base(job, rows, pa.float32() if dtype == "float32" else pa.float16())
    status, found = read(job, base=base)
    by_name = by_id(found)
    assert {name: row["origin.h"] for name, row in by_name.items()} == {
        "moved": Origin.REUSED,
        "new": Origin.TO_EMBED,
        "own": Origin.UNCHANGED,  # its metadata or address changed, its content did not
        "shared": Origin.UNCHANGED,
        "null": Origin.TO_EMBED,
    }
    vectors = {name: None if row["h"] is None else row["h"][0] for name, row in by_name.items()}
    assert vectors == {"moved": 1, "new": None, "own": 4, "shared": 3, "null": None}
    assert (by_name["moved"]["h_tokens"], by_name["moved"]["h_truncated"]) == (9, True)
    assert (by_name["new"]["h_tokens"], by_name["new"]["h_truncated"]) == (1, False)
    assert sorted(status.replaced) == ["null", "own", "shared"]
    assert found["h"].type.value_type == (pa.float32() if dtype == "float32" else pa.float16())


def test_a_table_that_knows_none_of_the_contents(tmp_path: Path):
    job = make_job(tmp_path, write_texts(tmp_path / "in", {"a": "x"}))
    base = write_base(job, [{"object": "b", "text": "y", "v": 1}])
    _, rows = read(job, base=base)
    assert (rows["origin.h"].to_pylist(), rows["h"].to_pylist()) == ([Origin.TO_EMBED], [None])


def test_a_column_that_the_table_does_not_have(tmp_path: Path):
    embed = [HASHING, {**HASHING, "column": "second"}]
    job = make_job(tmp_path, write_texts(tmp_path / "in", {"a": "x"}), embed=embed)
    base = write_base(job, [{"object": "a", "text": "x", "v": 1}])
    _, rows = read(job, base=base, rewrites=True)
    row = rows.to_pylist()[0]
    assert (row["origin.h"], row["origin.second"]) == (Origin.UNCHANGED, Origin.TO_EMBED)
    assert (row["h_tokens"], row["second_tokens"]) == (9, 1)
