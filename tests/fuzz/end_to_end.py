"""A whole run over a file that ends the process that reads it, beside good ones: the run ends well, without that file."""

from __future__ import annotations

import tempfile
from pathlib import Path
from random import Random

from corpus import CORPUS
from job_maker import make_job, rows_of
from processes import Driver
from targets import TABLES

GOOD = 3  # files beside it
GATES = {"max_reject_rate": 1}


def survives(kind: str, content: bytes, object_timeout_s: float = 30) -> bool:
    """Whether a run ends with 0, and the table has what the good files hold."""
    with tempfile.TemporaryDirectory(prefix="ll-fuzz-") as name:
        folder = Path(name)
        (folder / "in").mkdir()
        (folder / "in" / f"bad.{kind}").write_bytes(content)
        modality = "text" if kind in TABLES else kind
        good = good_files(kind)
        for at, (_, whole) in enumerate(good):
            (folder / "in" / f"good{at}.{kind}").write_bytes(whole)
        source: dict[str, object] = {"kind": kind if kind in TABLES else "files", "uri": str(folder / "in")}
        if kind in TABLES:
            source |= {"id": "id", "content": "text"}
        limits = {"object_timeout_s": object_timeout_s}
        job = make_job(folder, source, modality=modality, gates=GATES, limits=limits)
        driver = Driver(folder, job)
        if driver.wait(600) != 0:
            print(driver.log)
            return False
        wanted = {ids for ids, _ in good} if kind in TABLES else {f"good{at}.{kind}" for at in range(GOOD)}
        return wanted <= set(rows_of(job))


def good_files(kind: str) -> list[tuple[str, bytes]]:
    """An id and a whole file, of rows where the kind has them."""
    if kind == "parquet":
        import io

        import pyarrow as pa
        import pyarrow.parquet as pq

        made = []
        for at in range(GOOD):
            out = io.BytesIO()
            pq.write_table(pa.table({"id": [f"good {at}"], "text": [f"a good text {at}"]}), out)
            made.append((f"good {at}", out.getvalue()))
        return made
    if kind == "jsonl":
        return [(f"good {at}", f'{{"id": "good {at}", "text": "a good text {at}"}}\n'.encode()) for at in range(GOOD)]
    if kind == "csv":
        return [(f"good {at}", f"id,text\ngood {at},a good text {at}\n".encode()) for at in range(GOOD)]
    if kind == "text":
        return [(f"good{at}", f"a good text {at}".encode()) for at in range(GOOD)]
    if kind == "image":
        from odd_images import encode, picture

        return [(f"good{at}", encode(picture(Random(at), "RGB", (32, 32)), "PNG")) for at in range(GOOD)]
    if kind == "audio":
        from sound_maker import sndfile_bytes, tone

        return [(f"good{at}", sndfile_bytes(tone(seed=at))) for at in range(GOOD)]
    raise ValueError(f"no good file of kind {kind} among {', '.join(CORPUS)}")
