"""Jobs over .npy and TIFF files: through the whole flow without Ray, and what a job file may not say."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from job_maker import HASHING, check_accounting, make_job, open_table, rows_of, run

from operators.errors import InvalidSpec
from pipelines.job.jobfile import parse_job

sys.path.insert(0, str(Path(__file__).parent.parent / "operators"))
from galaxies import draw, npy_bytes

tifffile = pytest.importorskip("tifffile")
pytest.importorskip("scipy")

GEOMETRY = [{"op": "center_mass"}, {"op": "align_principal_axis"}, {"op": "scale_to_radius"}]
STEPS = [*GEOMETRY, {"op": "normalize_intensity"}]


def job_of(folder: Path, steps: list[dict[str, Any]], **sections: Any) -> dict[str, Any]:
    source = {"kind": "files", "uri": str(folder / "in")}
    embed = [{**HASHING, "dim": 768}]
    return make_job(folder, source, embed, modality="scientific_image", preprocess=steps, **sections)


def write_galaxies(folder: Path) -> None:
    """Twenty pictures of two galaxies, each of them ten times: .npy and TIFF, float and 16 bit, and two rejects."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for n in range(20):
        where = {
            "shift": tuple(rng.uniform(-6, 6, 2)),
            "angle": float(rng.uniform(-3, 3)),
            "scale": float(rng.uniform(0.7, 1.2)),
            "flux": float(10 ** rng.uniform(-0.5, 1)),
        }
        galaxy = draw(**where)
        if n % 2:
            galaxy += draw(**{**where, "angle": where["angle"] + 2.0}) - 100  # a second disc across the first
        if n < 10:
            (folder / f"{n:02}.npy").write_bytes(npy_bytes(galaxy))
        else:
            tifffile.imwrite(folder / f"{n:02}.tif", np.rint(galaxy).astype(np.uint16) if n < 15 else galaxy)
    (folder / "objects.npy").write_bytes(npy_bytes(np.array([[None]])))
    (folder / "dark.npy").write_bytes(npy_bytes(np.zeros((30, 30))))


def test_a_galaxy_finds_itself_however_it_lies(tmp_path: Path) -> None:
    write_galaxies(tmp_path / "in")
    job = job_of(tmp_path, STEPS, gates={"max_reject_rate": 0.2})
    report = run(job)
    check_accounting(report)
    assert (report["counts"]["embedded"], report["counts"]["rejected"]) == (20, 2)
    table = open_table(job)
    reasons = {row["object_id"]: (row["stage"], row["error"]) for row in table.rejects().to_pylist()}
    assert reasons["dark.npy"] == ("center_mass", "no object brighter than the background")
    assert reasons["objects.npy"][0] == "decode" and "allow_pickle=False" in reasons["objects.npy"][1]

    names = sorted(rows_of(job))
    for query in ("00.npy", "11.tif", "16.tif"):
        found = table.search(tmp_path / "in" / query, k=10).to_list()
        assert {int(row["id"][:2]) % 2 for row in found} == {int(query[:2]) % 2}, (query, [row["id"] for row in found])
        assert found[0]["id"] == query
    assert len(names) == 20
    again = run(job)
    assert again["counts"]["unchanged"] == 20 and again["counts"]["embedded"] == 0


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([], r"preprocess: models embed 'image'; name an operator that makes it: normalize_intensity\."),
        (GEOMETRY, "models embed 'image'; name an operator that makes it"),
        (
            [{"op": "resize_image", "size": 64}, {"op": "normalize_intensity"}],
            r"preprocess\[0\]\.op: 'resize_image' is for image, the job's modality is 'scientific_image'\.",
        ),
        ([{"op": "clean_text"}, *STEPS], "'clean_text' is for text, the job's modality is 'scientific_image'"),
        ([{"op": "normalize_intensity", "low": 70}], r"preprocess\[0\]\.low: Input should be less than 50"),
    ],
)
def test_steps_that_do_not_fit(tmp_path: Path, steps: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(InvalidSpec, match=message) as raised:
        parse_job(job_of(tmp_path, steps))
    assert len(raised.value.problems) == 1


def test_a_family_that_embeds_no_images(tmp_path: Path) -> None:
    text = [{"column": "v", "family": "sentence_transformers", "model": "x"}]
    with pytest.raises(
        InvalidSpec, match="'sentence_transformers' embeds text, the job's modality is 'scientific_image'"
    ):
        parse_job({**job_of(tmp_path, STEPS), "embed": text})


def test_operators_of_pictures_come_after(tmp_path: Path) -> None:
    steps = [*STEPS, {"op": "resize_image", "size": 64}, {"op": "center_crop", "size": 48}]
    assert len(parse_job(job_of(tmp_path, steps)).chain.steps) == 6
    pictures = {**job_of(tmp_path, [{"op": "resize_image", "size": 64}, *STEPS]), "modality": "image"}
    assert parse_job(pictures).chain.column == "image"
