"""What the first stage prepares for the models: once for all that ask alike, a row rejected alone, pictures a few at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from job_maker import HASHING, make_job, write_texts
from PIL import Image
from reading_maker import by_id, fates, read

from operators.embedders.hashing import Config
from pipelines.flow.reading import ReadShard
from pipelines.flow.shard import Origin, prepared_batch


def count_prepared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls = []
    prepare = Config.prepare

    def counted(self: Config, batch: Any, role: Any) -> Any:
        calls.append(len(batch["id"]))
        return prepare(self, batch, role)

    monkeypatch.setattr(Config, "prepare", counted)
    return calls


def test_models_that_prepare_alike_share_their_preparation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls = count_prepared(monkeypatch)
    embed = [HASHING, {**HASHING, "column": "twin"}, {**HASHING, "column": "other", "dim": 32, "max_words": 1}]
    _, rows = read(make_job(tmp_path, write_texts(tmp_path / "in", {"a": "x y", "b": "z"}), embed=embed))
    assert calls == [2, 2]
    assert len({name.split(".")[1] for name in rows.column_names if name.startswith("prepared.")}) == 2
    assert rows["twin_tokens"].to_pylist() == rows["h_tokens"].to_pylist() == [2, 1]
    assert rows["other_truncated"].to_pylist() == [True, False]
    assert rows["twin"].type.list_size == 64 and rows["other"].type.list_size == 32


def test_a_row_that_cannot_be_prepared_is_rejected_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    prepare = Config.prepare

    def picky(self: Config, batch: Any, role: Any) -> Any:
        if any("poison" in text for text in batch["text"]):
            raise ValueError("I will not")
        return prepare(self, batch, role)

    monkeypatch.setattr(Config, "prepare", picky)
    texts = {"a": "one", "b": "poison", "c": "two words", "d": "three"}
    embed = [HASHING, {**HASHING, "column": "twin"}]
    status, rows = read(make_job(tmp_path, write_texts(tmp_path / "in", texts), embed=embed))
    assert [(r["object_id"], r["column"], r["stage"], r["error"]) for r in status.rejects] == [
        ("b", column, "prepare", "ValueError: I will not") for column in ("h", "twin")
    ]
    assert rows["origin.h"].to_pylist() == [0, Origin.REJECTED, 0, 0]
    assert rows["h_tokens"].to_pylist() == [1, None, 2, 1]
    ready = prepared_batch(rows, Config(dim=64).preparation_key(), np.array([0, 2, 3]))
    assert ready["words"].tolist() == ["one", "two words", "three"]


def test_every_row_that_cannot_be_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def never(self: Config, batch: Any, role: Any) -> Any:
        raise ValueError("I will not")

    monkeypatch.setattr(Config, "prepare", never)
    status, rows = read(make_job(tmp_path, write_texts(tmp_path / "in", {"a": "x", "b": "x", "c": "y"})))
    assert rows["origin.h"].to_pylist() == [Origin.REJECTED, Origin.REUSED, Origin.REJECTED]
    assert len(status.rejects) == 2


def test_images(tmp_path: Path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name, colour in (("red.png", (255, 0, 0)), ("blue.png", (0, 0, 255))):
        Image.new("RGB", (20, 10), colour).save(folder / name)
    (folder / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut off")
    job = make_job(
        tmp_path, {"kind": "files", "uri": str(folder)}, modality="image", preprocess=[{"op": "center_crop", "size": 8}]
    )
    status, rows = read(job)
    assert sorted(by_id(rows)) == ["blue.png", "red.png"]
    assert "text" not in rows.column_names and "h_tokens" not in rows.column_names
    assert fates(status)["cut.jpg"][:2] == ("rejected", "decode")
    pixels = prepared_batch(rows, Config(dim=64).preparation_key(), np.arange(2))["pixels"]
    assert pixels.dtype == np.uint8 and pixels.shape == (2, 16, 16, 3)
    order = rows["id"].to_pylist()
    assert pixels[order.index("red.png"), 5, 5].tolist() == [255, 0, 0]


# bounds


def write_images(folder: Path, count: int = 7) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    for number in range(count):
        Image.new("RGB", (40 + 10 * number, 30), (number * 30, 99, 5)).save(folder / f"{number}.png")
    (folder / "3-cut.png").write_bytes((folder / "3.png").read_bytes()[:60])
    (folder / "5-same.png").write_bytes((folder / "5.png").read_bytes())
    return {"kind": "files", "uri": str(folder)}


@pytest.mark.parametrize(("limit", "most"), [(1, 1), (20_000, 3), (10**9, 9)])
def test_images_are_decoded_a_few_at_a_time_with_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, most: int
):
    job = make_job(tmp_path, write_images(tmp_path / "in"), modality="image")
    whole, rows = read(job)
    sizes: list[int] = []
    finish = ReadShard._finish_piece

    def counted(self: ReadShard, piece: Any, *how: Any) -> pa.Table:
        sizes.append(len(piece["id"]))
        return finish(self, piece, *how)

    monkeypatch.setattr(ReadShard, "_finish_piece", counted)
    monkeypatch.setattr("pipelines.flow.reading.HELD_BYTES", limit)
    status, grouped = read(job)
    assert (sum(sizes), max(sizes)) == (9, most)
    assert (status.rejects, status.reads, status.read_bytes) == (whole.rejects, whole.reads, whole.read_bytes)
    names = ["id", "object_id", "content_hash", "object_hash", "uri"]
    assert grouped.select(names).equals(rows.select(names))
    key = Config(dim=64).preparation_key()
    ready = np.flatnonzero(rows["origin.h"].to_numpy() == Origin.TO_EMBED)
    for row in ready:  # rows of the same content in another group are embedded, or wait for it
        at = np.array([row])
        there = np.flatnonzero(grouped["content_hash"].to_numpy() == rows["content_hash"][int(row)].as_py())[:1]
        assert (
            prepared_batch(grouped, key, there)["pixels"].tolist() == prepared_batch(rows, key, at)["pixels"].tolist()
        )
