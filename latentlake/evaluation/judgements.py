"""Queries and judgements of retrieval: BEIR folders, TREC topics and qrels, and tables (Parquet, JSONL, CSV, TSV)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from latentlake.evaluation.files import SUFFIXES, pick, read_records, read_text
from operators.errors import SpecError

QUERY_IDS = ("query_id", "query-id", "_id", "id", "qid")
QUERY_TEXTS = ("text", "query", "title")
DOCUMENT_IDS = ("doc_id", "corpus-id", "document_id", "object_id", "docid", "docno", "id")
GRADES = ("relevance", "score", "rel", "label")
TOPIC = re.compile(r"<top>(.*?)</top>", re.DOTALL | re.IGNORECASE)
TAG = re.compile(r"<(\w+)>\s*(.*?)\s*(?=<\w+>|</|\Z)", re.DOTALL)
LEADING = re.compile(r"^(?:Number|Topic|Description|Narrative):\s*", re.IGNORECASE)

Queries = dict[str, str]
Judgements = dict[str, dict[str, int]]  # by query, then by document


def read_queries(path: str | Path, topic_field: str = "title") -> Queries:
    """Texts of queries by their ids. TREC topics (`<top>`) give their `topic_field`; a text file without a head, id TAB text.

    Raises `SpecError`.
    """
    suffix = Path(path).suffix.lower()
    if suffix in SUFFIXES and suffix not in (".txt", ".tsv"):
        columns = read_records(path)
        ids, texts = pick(columns, QUERY_IDS, path, "query ids"), pick(columns, QUERY_TEXTS, path, "query texts")
        pairs = [(str(query), str(text)) for query, text in zip(ids, texts, strict=True)]
    else:
        text = read_text(path)
        pairs = read_topics(text, topic_field, path) if TOPIC.search(text) else read_tabbed(text, path)
    queries = dict(pairs)
    if len(queries) < len(pairs):
        raise SpecError(f"'{path}' of the suite: {len(pairs) - len(queries)} query ids appear more than once.")
    if not queries:
        raise SpecError(f"'{path}' of the suite holds no query.")
    return queries


def read_topics(text: str, field: str, path: str | Path) -> list[tuple[str, str]]:
    """Ids and texts of TREC topics. Their tags are seldom closed, so that a field ends where the next begins."""
    pairs = []
    for topic in TOPIC.findall(text):
        fields = {name.lower(): " ".join(LEADING.sub("", content).split()) for name, content in TAG.findall(topic)}
        if "num" not in fields or field not in fields:
            raise SpecError(
                f"'{path}' of the suite: a topic has no <{'num' if 'num' not in fields else field}>.\n"
                f"  It has: {', '.join(fields) or 'nothing'}. Name another with `topic_field`."
            )
        pairs.append((fields["num"].lstrip("0") or "0", fields[field]))
    return pairs


def read_tabbed(text: str, path: str | Path) -> list[tuple[str, str]]:
    """Lines of an id and a text with a tab between; a first line that names the columns is left out."""
    lines = [line.split("\t", 1) for line in text.splitlines() if line.strip()]
    if short := next((line for line in lines if len(line) < 2), None):
        raise SpecError(f"'{path}' of the suite: the line '{short[0][:60]}' is not an id, a tab and a text.")
    head = bool(lines) and lines[0][0] in QUERY_IDS
    return [(query, words) for query, words in lines[head:]]


def read_judgements(path: str | Path) -> Judgements:
    """Grades by query and document: TREC's four columns (query, iteration, document, grade), or a table that names them.

    Raises `SpecError`.
    """
    suffix = Path(path).suffix.lower()
    named = suffix in SUFFIXES and suffix not in (".txt", ".tsv")
    rows = None if named else trec_rows(read_text(path), path)
    if rows is None:
        columns = read_records(path)
        ids = pick(columns, QUERY_IDS, path, "query ids")
        documents = pick(columns, DOCUMENT_IDS, path, "document ids")
        grades = pick(columns, GRADES, path, "grades")
        rows = list(zip(ids, documents, grades, strict=True))
    judged: Judgements = {}
    for query, document, grade in rows:
        try:
            value = int(float(grade))
        except (TypeError, ValueError) as failure:
            raise SpecError(f"'{path}' of the suite: '{grade}' is not a grade; it must be a whole number.") from failure
        judged.setdefault(str(query), {})[str(document)] = value
    if not judged:
        raise SpecError(f"'{path}' of the suite holds no judgement.")
    return judged


def trec_rows(text: str, path: str | Path) -> Sequence[tuple[str, str, str]] | None:
    """Query, document and grade of TREC's lines; None where the first line names columns."""
    lines = [line.split() for line in text.splitlines() if line.strip()]
    if lines and len(lines[0]) in (3, 4) and lines[0][0] in QUERY_IDS:
        return None
    if wrong := next((line for line in lines if len(line) != 4), None):
        raise SpecError(
            f"'{path}' of the suite: the line '{' '.join(wrong)[:60]}' is not query, iteration, document and grade."
        )
    return [(query, document, grade) for query, _, document, grade in lines]


def read_beir(folder: str | Path, split: str) -> tuple[Queries, Judgements]:
    """Queries and judgements of a BEIR folder: `queries.jsonl` and `qrels/SPLIT.tsv`. Raises `SpecError`."""
    place = Path(folder)
    qrels = place / "qrels" / f"{split}.tsv"
    if not qrels.is_file():
        known = sorted(file.stem for file in (place / "qrels").glob("*.tsv"))
        raise SpecError(
            f"'{folder}' of the suite is no BEIR folder with the split '{split}': it has no qrels/{split}.tsv.\n"
            f"  Splits: {', '.join(known) or 'none'}"
        )
    return read_queries(place / "queries.jsonl"), read_judgements(qrels)
