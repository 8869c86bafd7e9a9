"""A folder of odd Parquet files through a whole job: what pyarrow reads is in the table, what it refuses is a reject per file."""

from __future__ import annotations

from pathlib import Path

import pytest
from job_maker import check_accounting, make_job, open_table, run
from odd_tables import write_odd_tables

FILES = 27


@pytest.mark.usefixtures("here")
def test_each_file_gets_the_verdict_of_pyarrow(tmp_path: Path) -> None:
    verdicts = write_odd_tables(tmp_path / "src", FILES, seed=0)
    source = {"kind": "parquet", "uri": str(tmp_path / "src"), "id": "id", "content": "text"}
    job = make_job(tmp_path, source, gates={"max_reject_rate": 1.0})
    report = run(job)
    check_accounting(report)
    read = [rows for rows in verdicts.values() if rows is not None]
    assert None in verdicts.values(), "no file is bad: the folder tries nothing"
    assert open_table(job).count() == sum(read)
    rejected = {row["object_id"].partition(".parquet")[0] + ".parquet" for row in open_table(job).rejects().to_pylist()}
    assert rejected == {name for name, rows in verdicts.items() if rows is None}
