"""Documents and questions about them, for gates that measure retrieval: each document has words of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from job_maker import HASHING, make_job, write_jsonl

DOCUMENTS = 40


def text_of(number: int) -> str:
    return " ".join(f"{word}{number}" for word in ("subject", "topic", "matter", "theme", "thread"))


def write_documents(folder: Path, numbers: Sequence[int], **texts: str) -> dict[str, Any]:
    """Documents as JSON lines; the source that reads them. `texts` are further ones, by id."""
    rows = [{"id": f"d{number}", "text": text_of(number)} for number in numbers]
    rows += [{"id": name, "text": text} for name, text in texts.items()]
    return write_jsonl(folder / "in" / "documents.jsonl", rows)


def write_suite(folder: Path, numbers: Sequence[int] = range(DOCUMENTS), **task: Any) -> str:
    """A suite that asks for each document by three of its words; its path."""
    questions = [{"_id": f"q{number}", "text": " ".join(text_of(number).split()[:3])} for number in numbers]
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    (folder / "qrels.txt").write_text("".join(f"q{number} 0 d{number} 1\n" for number in numbers))
    told = {
        "kind": "retrieval",
        "queries": "queries.jsonl",
        "qrels": "qrels.txt",
        "measures": ["nDCG@10", "RR"],
        **task,
    }
    path = folder / "suite.json"
    path.write_text(json.dumps({"name": "questions", "tasks": [told]}))
    return str(path)


def measured_job(
    folder: Path, dim: int = 256, numbers: Sequence[int] = range(DOCUMENTS), **sections: Any
) -> dict[str, Any]:
    """A job whose gates may measure by a suite; few dimensions make its vectors bad. Its table is rebuilt, as models differ."""
    source = write_documents(folder, numbers)
    table = {"mode": "rebuild", **sections.pop("table", {})}
    return make_job(folder, source, [{**HASHING, "dim": dim}], table=table, **sections)
