"""A folder of odd texts: every file becomes the text that Python's codecs say it is, or one reject."""

from __future__ import annotations

from pathlib import Path

import pytest
from job_maker import check_accounting, make_job, open_table, run
from odd_texts import GUESSED, KINDS, REJECT, agrees, write_odd_texts

import latentlake


def test_every_odd_text_is_accounted_for(tmp_path: Path) -> None:
    expected = write_odd_texts(tmp_path / "in", 3 * len(KINDS), seed=1)
    job = make_job(tmp_path, {"kind": "files", "uri": str(tmp_path / "in")}, gates={"max_reject_rate": 1.0})
    report = run(job)
    check_accounting(report)
    assert report["counts"]["listed"] == len(expected)
    rows = open_table(job).to_arrow(columns=["id", "text"]).to_pylist()
    texts = {row["id"]: row["text"] for row in rows}
    rejects = {row["object_id"] for row in latentlake.connect(str(tmp_path / "lake")).rejects("t").to_pylist()}
    assert texts.keys() | rejects == expected.keys() and not texts.keys() & rejects
    wrong = {name: texts.get(name) for name, verdict in expected.items() if not agrees(verdict, texts.get(name))}
    assert not wrong


@pytest.mark.parametrize("seed", range(3))
def test_the_generator_repeats_itself_and_makes_every_verdict(tmp_path: Path, seed: int) -> None:
    made = write_odd_texts(tmp_path / "a", 40, seed)
    assert made == write_odd_texts(tmp_path / "b", 40, seed)
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in made)
    verdicts = list(made.values())
    assert REJECT in verdicts and any(v.startswith(GUESSED) for v in verdicts)
    assert agrees(REJECT, None) and not agrees(REJECT, "x") and agrees("x", "x") and not agrees("x", None)
    assert agrees(GUESSED + "x", None) and agrees(GUESSED + "x", "x") and not agrees(GUESSED + "x", "y")
