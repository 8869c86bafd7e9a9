"""A folder of odd Parquet files through a whole job: what pyarrow reads is in the table, all else is a reject per row or file."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from job_maker import check_accounting, make_job, open_table, run
from odd_tables import other_verdicts, write_odd_tables

from pipelines.sources.parquet import Source

FILES, SEED = 27, 0


def test_each_file_gets_the_verdict_of_pyarrow(tmp_path: Path) -> None:
    verdicts = write_odd_tables(tmp_path / "src", FILES, seed=SEED)
    source = {"kind": "parquet", "uri": str(tmp_path / "src"), "id": "id", "content": "text"}
    job = make_job(tmp_path, source, gates={"max_reject_rate": 1.0})
    report = run(job)
    check_accounting(report)
    assert None in verdicts.values(), "no file is bad: the folder tries nothing"
    table = open_table(job)
    texts = {row["id"]: row["text"] for row in table.to_arrow(["id", "text"]).to_pylist()}
    assert other_verdicts(verdicts, texts, table.rejects()["object_id"].to_pylist()) == []


def test_damaged_row_groups_cost_their_own_rows_alone(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    file = tmp_path / "src" / "a.parquet"
    rows = pa.table({"id": list("abcdef"), "text": [f"text {name}" for name in "abcdef"], "n": list(range(6))})
    pq.write_table(rows, file, row_group_size=2, compression="none", use_dictionary=False, write_page_checksum=True)
    pages = pq.read_metadata(file).row_group(1).column(1)
    content = bytearray(file.read_bytes())
    content[pages.data_page_offset : pages.data_page_offset + pages.total_compressed_size] = bytes(
        pages.total_compressed_size
    )
    file.write_bytes(content)
    source = Source(kind="parquet", uri=str(tmp_path / "src"), id="id", content="text", metadata=["n"])
    listing = pa.concat_tables(source.list_objects(lambda uri, version: None))
    fields = source.metadata_fields(iter([listing]))
    for order in ([0, 1, 2, 3, 4, 5], [2, 5], [4, 3, 0]):
        read = source.read_objects(listing.take(order), fields)
        told = [None if isinstance(found, Exception) else found for found in read.contents]
        assert told == [None if at in (2, 3) else f"text {'abcdef'[at]}" for at in order]
        kept = [at for at, found in enumerate(read.contents) if not isinstance(found, Exception)]
        assert read.metadata["n"].take(kept).to_pylist() == [order[at] for at in kept]
