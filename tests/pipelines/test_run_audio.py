"""Jobs over sound: spoken digits through models of sound, from files to a search."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from job_maker import check_accounting, make_job, open_table, rows_of, run
from libraries import library
from sound_maker import ffmpeg_bytes, sndfile_bytes, tone, write_clap, write_speech_model

from operators.batch import make_batch
from operators.decode.audio import decode
from operators.embedders import load_config
from operators.errors import SpecError

pytest.importorskip("soundfile")
library("transformers")

DIGITS = 40
HASHING = {"column": "h", "family": "hashing", "dim": 64}


@pytest.fixture
def digits(data: Path, tmp_path: Path) -> Path:
    """A folder of spoken digits."""
    paths = sorted((data / "fsdd").glob("*.wav"))[:: 480 // DIGITS][:DIGITS]
    if len(paths) < DIGITS:
        pytest.skip(f"no spoken digits below {data / 'fsdd'}: set LATENTLAKE_TEST_DATA")
    folder = tmp_path / "digits"
    folder.mkdir()
    for path in paths:
        shutil.copy(path, folder)
    return folder


def job_of(tmp_path: Path, folder: Path, **sections: Any) -> dict[str, Any]:
    return make_job(tmp_path, {"kind": "files", "uri": str(folder)}, modality="audio", **sections)


def speech_column(tmp_path: Path, name: str = "wav2vec2-layer", **fields: Any) -> dict[str, Any]:
    folder = tmp_path / name
    model = folder if folder.is_dir() else write_speech_model(folder, name)
    return {"column": "speech", "family": "transformers_audio", "model": str(model), **fields}


def check_speech(job: dict[str, Any], report: dict[str, Any], folder: Path, broken: str) -> None:
    """Every digit has the vector that the model gives it, the broken file is rejected, and a file finds itself."""
    check_accounting(report)
    counts = report["columns"]["speech"]
    assert (counts["listed"], counts["embedded"], counts["rejected"]) == (DIGITS + 1, DIGITS, 1)
    table = open_table(job)
    (reject,) = [row for row in table.rejects().to_pylist() if row["outcome"] == "rejected"]
    assert (reject["object_id"], reject["stage"]) == (broken, "decode")
    assert reject["error"].startswith("truncated WAV: ")
    rows = rows_of(job)
    names = sorted(path.name for path in folder.iterdir() if path.name != broken)
    assert sorted(rows) == names
    batch = decode(make_batch(names, [(folder / name).read_bytes() for name in names]))
    entry = {name: value for name, value in job["embed"][0].items() if name not in ("column", "pool")}
    config = load_config(entry).resolve()
    expected = config.load("cpu", threads=1).embed(config.prepare(batch, "document"))
    np.testing.assert_allclose(np.stack([rows[name]["speech"] for name in names]), expected, atol=1e-4)
    for name in names[::13]:
        found = table.search(folder / name, k=3).to_pandas()
        assert found["id"][0] == name and found["_distance"][0] < 1e-4


def cut_off(folder: Path, name: str = "broken.wav") -> str:
    """Add half of a digit's file to a folder."""
    whole = next(folder.iterdir()).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    return name


@pytest.mark.parametrize("model", ["wav2vec2-group", "whisper"])
def test_spoken_digits(model: str, tmp_path: Path, digits: Path):
    broken = cut_off(digits)
    embed = [speech_column(tmp_path, model, pooling="mean_std"), HASHING]
    job = job_of(tmp_path, digits, embed=embed)
    report = run(job)
    check_accounting(report)
    assert report["counts"]["listed"] == DIGITS + 1
    table = open_table(job)
    for name in sorted(rows_of(job))[::9]:
        for column in ("speech", "h"):
            found = table.search(digits / name, column=column, k=1).to_pandas()
            assert found["id"][0] == name and found["_distance"][0] < 1e-4
    assert run(job)["columns"]["speech"]["unchanged"] == DIGITS
    with pytest.raises(SpecError, match="2 vector columns and 2 of them fit"):
        table.search(digits / name)
    with pytest.raises(SpecError, match=r"does not pass the preprocessing of column 'h': decode: truncated WAV"):
        table.search(digits / broken, column="h")
    with pytest.raises(
        SpecError, match=r"column 'h' takes sound: a Path, or \(samples, rate\), or a vector; this query is text"
    ):
        table.search("seven", column="h")


def test_every_digit_has_the_vector_of_its_model(tmp_path: Path, digits: Path):
    broken = cut_off(digits)
    job = job_of(tmp_path, digits, embed=[speech_column(tmp_path)])
    check_speech(job, run(job), digits, broken)


def test_operators_on_the_way(tmp_path: Path):
    folder = tmp_path / "sounds"
    folder.mkdir()
    quiet = np.zeros(8_000, np.float32)
    (folder / "padded.flac").write_bytes(sndfile_bytes(np.concatenate([quiet, tone(2.0), quiet]), 16_000, "FLAC"))
    (folder / "short.wav").write_bytes(sndfile_bytes(tone(0.1), 16_000))
    (folder / "silent.wav").write_bytes(sndfile_bytes(quiet, 16_000))
    (folder / "song.m4a").write_bytes(ffmpeg_bytes(tone(3.0, 44_100, 700), 44_100, "ipod", "aac"))
    steps = [
        {"op": "trim_silence"},
        {"op": "limit_duration", "min_seconds": 0.5},
        {"op": "resample", "rate": 16_000},
        {"op": "normalize_loudness", "target_lufs": -20},
    ]
    job = job_of(tmp_path, folder, embed=[speech_column(tmp_path), HASHING], preprocess=steps)
    report = run(job)
    check_accounting(report)
    assert sorted(rows_of(job)) == ["padded.flac", "song.m4a"]
    reasons = {row["object_id"]: f"{row['stage']}: {row['error']}" for row in open_table(job).rejects().to_pylist()}
    assert reasons == {
        "short.wav": "limit_duration: 0.10 seconds, shorter than 0.5",
        "silent.wav": "trim_silence: nothing but silence",
    }
    louder = folder.parent / "louder.wav"  # the same sound: other silence around it, another level
    louder.write_bytes(sndfile_bytes(np.concatenate([quiet, 2 * tone(2.0)]), 16_000, subtype="FLOAT"))
    found = open_table(job).search(louder, column="speech").to_pandas()
    assert found["id"][0] == "padded.flac" and found["_distance"][0] < 1e-3


def test_a_row_a_window(tmp_path: Path):
    folder = tmp_path / "sounds"
    folder.mkdir()
    talk = np.concatenate([tone(1.0, pitch=pitch) for pitch in (300, 500, 900)])
    (folder / "talk.wav").write_bytes(sndfile_bytes(talk, 16_000))
    (folder / "short.wav").write_bytes(sndfile_bytes(tone(0.4, pitch=1_500), 16_000))
    embed = [speech_column(tmp_path), HASHING]
    job = job_of(tmp_path, folder, embed=embed, preprocess=[{"op": "window_audio", "seconds": 1.0}])
    report = run(job)
    check_accounting(report)
    rows = rows_of(job)
    assert sorted(rows) == ["short.wav#0", "talk.wav#0", "talk.wav#1", "talk.wav#2"]
    assert [(rows[f"talk.wav#{k}"]["start"], rows[f"talk.wav#{k}"]["end"]) for k in range(3)] == [
        (0, 1000),
        (1000, 2000),
        (2000, 3000),
    ]
    assert len({row["content_hash"] for row in rows.values()}) == 4
    part = tmp_path / "part.wav"
    part.write_bytes(sndfile_bytes(talk[16_000:32_000], 16_000))
    for column in ("speech", "h"):
        found = open_table(job).search(part, column=column).to_pandas()
        assert found["id"][0] == "talk.wav#1" and found["_distance"][0] < 1e-4
    # A new end of the talk: the windows before it keep their vectors.
    (folder / "talk.wav").write_bytes(sndfile_bytes(np.concatenate([talk[:32_000], tone(1.0, pitch=50)]), 16_000))
    second = run(job)
    check_accounting(second)
    assert second["columns"]["speech"]["embedded"] == 1, json.dumps(second["columns"])


def test_a_text_finds_sounds(tmp_path: Path, digits: Path):
    model = write_clap(tmp_path / "clap")
    job = job_of(
        tmp_path, digits, embed=[{"column": "c", "family": "clap", "model": str(model), "query_prompt": "say "}]
    )
    check_accounting(run(job))
    rows, table = rows_of(job), open_table(job)
    found = table.search("seven", k=DIGITS).to_pandas()
    config = load_config({"family": "clap", "model": str(model)}).resolve()
    texts = {**make_batch(["q"], ["say seven"]), "text": np.array(["say seven"], dtype=object)}
    query = config.load("cpu", threads=1).embed(config.prepare(texts, "query"))[0]
    distances = {name: 1 - float(np.dot(row["c"], query)) for name, row in rows.items()}
    assert sorted(found["id"]) == sorted(distances)
    for name, distance in zip(found["id"], found["_distance"], strict=True):
        assert distance == pytest.approx(distances[name], abs=1e-4)
    name = next(iter(rows))
    assert table.search(digits / name, k=1).to_pandas()["id"][0] == name


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_spoken_digits_through_ray(tmp_path: Path, digits: Path):
    broken = cut_off(digits)
    job = job_of(tmp_path, digits, embed=[speech_column(tmp_path, pool={"min": 1, "max": 1})])
    check_speech(job, run(job, runner="ray"), digits, broken)
