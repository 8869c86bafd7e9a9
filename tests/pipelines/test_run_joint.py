"""Jobs whose models have one space for several modalities: a text finds pictures, and what is no joint model is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_models import write_model, write_open_clip
from job_maker import make_job, open_table, run, write_texts
from libraries import library
from PIL import Image

import latentlake
from operators.errors import SpecError

library("open_clip")


def pictures_job(tmp_path: Path, *embed: dict[str, Any], **sections: Any) -> dict[str, Any]:
    """Twelve plain pictures."""
    folder = tmp_path / "in"
    folder.mkdir()
    for n in range(12):
        Image.new("RGB", (40, 30), (20 * n, 255 - 20 * n, (90 * n) % 256)).save(folder / f"{n:02}.png")
    return make_job(tmp_path, {"kind": "files", "uri": str(folder)}, embed, "image", **sections)


@pytest.mark.parametrize("family", ["open_clip", "transformers_image"])
def test_a_text_finds_pictures(tmp_path: Path, family: str):
    writes = {"open_clip": write_open_clip, "transformers_image": lambda folder: write_model(folder, "clip")}
    model = str(writes[family](tmp_path / "model"))
    preprocess = [{"op": "resize_image", "size": 36}]  # which is for pictures, and leaves the text alone
    job = pictures_job(tmp_path, {"column": "v", "family": family, "model": model}, preprocess=preprocess)
    assert run(job)["counts"]["embedded"] == 12
    table = open_table(job)
    hits = table.search("a red square", k=12).to_list()
    query = latentlake.create_text_embedder(family, model, device="cpu", threads=1).embed("a red square", "query")
    rows = table.to_arrow(["id", "v"]).to_pylist()
    vectors = np.array([row["v"] for row in rows])
    cosines = vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)
    expected = {row["id"]: 1 - cosine for row, cosine in zip(rows, cosines, strict=True)}
    assert [hit["_distance"] for hit in hits] == pytest.approx(sorted(expected.values()), abs=1e-4)
    assert all(hit["_distance"] == pytest.approx(expected[hit["id"]], abs=1e-4) for hit in hits)
    picture = tmp_path / "in" / "03.png"
    for image in (picture, Image.open(picture)):
        (first, *_) = table.search(image, k=1).to_list()
        assert (first["id"], first["_distance"]) == ("03.png", pytest.approx(0, abs=1e-4))


def test_a_model_of_images_alone_takes_no_text(tmp_path: Path):
    vit = {"column": "v", "family": "transformers_image", "model": str(write_model(tmp_path / "vit", "vit"))}
    job = pictures_job(tmp_path, vit)
    run(job)
    with pytest.raises(
        SpecError, match="column 'v' takes images: a Path, or a PIL image, or a vector; this query is text"
    ):
        open_table(job).search("a red square")
    texts = make_job(tmp_path / "t", write_texts(tmp_path / "texts", {"a.txt": "a"}), [vit])
    with pytest.raises(SpecError, match=r"model of column 'v' .* takes image, and the job's modality is 'text'"):
        run(texts)
    assert not (tmp_path / "t" / "lake" / "t.lance").exists()


def test_three_families_read_a_picture_once(tmp_path: Path):
    clip, vit = write_open_clip(tmp_path / "clip"), write_model(tmp_path / "vit", "vit")
    job = pictures_job(
        tmp_path,
        {"column": "a", "family": "open_clip", "model": str(clip)},
        {"column": "b", "family": "transformers_image", "model": str(vit), "pooling": "cls"},
        {"column": "c", "family": "hashing", "dim": 32, "dtype": "binary"},
    )
    report = run(job)
    assert (report["objects_read"], report["version"]) == (12, 1)
    assert open_table(job).count("a IS NOT NULL AND b IS NOT NULL AND c IS NOT NULL") == 12
