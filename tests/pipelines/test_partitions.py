"""Hive's partition columns: folders as metadata."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from job_maker import check_accounting, make_job, open_table, rows_of, run, write_texts

import latentlake
from operators.errors import InvalidSpec
from pipelines.job.jobfile import parse_job
from pipelines.sources import source_class
from pipelines.sources._partitions import partitions_of

TYPED = [{"column": "year", "type": "int32"}, "city"]


def test_folders_as_columns_of_files(tmp_path: Path):
    names = {
        "year=2024/city=K%C3%B6ln/a.txt": (2024, "Köln"),
        "year=2023/city=a%2Fb%3Dc/b.txt": (2023, "a/b=c"),
        "year=__HIVE_DEFAULT_PARTITION__/city=/c.txt": (None, ""),
        "d.txt": (None, None),
        "year=1/year=2/city=e=f/year=3.txt": (2, "e=f"),
    }
    source = write_texts(tmp_path / "in", {name: f"text of {name}" for name in (*names, "year=soon/bad.txt")})
    job = make_job(tmp_path, {**source, "partitions": TYPED}, gates={"max_reject_rate": 1})
    report = run(job)
    check_accounting(report)
    assert {name: (row["year"], row["city"]) for name, row in rows_of(job).items()} == names
    assert open_table(job).to_arrow().schema.field("year").type == pa.int32()
    (reject,) = latentlake.connect(job["table"]["uri"]).rejects("t").to_pylist()
    assert reject["object_id"] == "year=soon/bad.txt" and "year" in reject["error"] and "soon" in reject["error"]
    assert run(job)["state"] == "unchanged"


def test_folders_as_columns_of_parquet(tmp_path: Path):
    for year in (2023, 2024):
        folder = tmp_path / "in" / f"year={year}"
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"id": [f"{year}"], "text": [f"text of {year}"], "n": [1]}), folder / "a.parquet")
    source = {"kind": "parquet", "uri": str(tmp_path / "in"), "id": "id", "content": "text", "metadata": ["n"]}
    job = make_job(tmp_path, {**source, "partitions": ["year"]})
    run(job)
    assert {name: (row["n"], row["year"]) for name, row in rows_of(job).items()} == {
        "2023": (1, "2023"),
        "2024": (1, "2024"),
    }
    (tmp_path / "in" / "year=2024").rename(tmp_path / "in" / "year=2025")
    report = run(job)
    assert (report["state"], report["counts"]["embedded"], rows_of(job)["2024"]["year"]) == ("published", 0, "2025")


@pytest.mark.parametrize(
    ("partitions", "told"),
    [
        (["text"], "'text' is a column the table makes itself"),
        (["n"], "'n' appears twice"),
        ([{"column": "year", "type": "whole"}], "whole"),
        (["a`b"], "a`b"),
    ],
)
def test_partitions_that_cannot_be(tmp_path: Path, partitions: list[object], told: str):
    source = {"kind": "jsonl", "uri": str(tmp_path), "id": "id", "content": "text", "metadata": ["n"]}
    with pytest.raises(InvalidSpec, match=f"(?s)source.partitions.*{told}"):
        parse_job(make_job(tmp_path, {**source, "partitions": partitions}))


def test_a_job_without_them_keeps_its_keys():
    assert "partitions" not in source_class("files")(kind="files", uri="x").identity()


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=8), st.text(max_size=8), max_size=3))
def test_what_is_escaped_is_regained(values: dict[str, str]):
    path = "".join(f"{quote(name, safe='')}={quote(value, safe='')}/" for name, value in values.items())
    assert partitions_of(f"{path}x=y.parquet") == values
