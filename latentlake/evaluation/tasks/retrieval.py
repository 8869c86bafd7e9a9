"""Retrieval: queries with judged documents, searched as readers search, and exactly where there is an index to compare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from latentlake.evaluation.base import DataPath, Measured, Subject, TaskSpec
from latentlake.evaluation.judgements import Judgements, Queries, read_beir, read_judgements, read_queries
from latentlake.evaluation.measures import canonical_measure, cutoff_of, measure_queries, parse_measures
from latentlake.evaluation.ranking import Way, has_index, rank_documents
from latentlake.evaluation.rows import check_texts
from latentlake.evaluation.statistics import Sample
from latentlake.keys import scan_keys
from latentlake.searching.fulltext import TEXT, text_indexes
from latentlake.searching.request import Fusion, Match, Mode
from operators.errors import NotFound, SpecError, did_you_mean

EXACT = " exact"


class Task(TaskSpec):
    """Queries and their judgements: a BEIR `folder`, or the files `queries` and `qrels`."""

    takes: ClassVar[frozenset[str]] = frozenset({"text"})

    kind: Literal["retrieval"]
    folder: DataPath | None = None
    split: str = "test"
    queries: DataPath | None = None
    qrels: DataPath | None = None
    topic_field: str = "title"  # of TREC topics
    documents: str = "object_id"  # column with the names that the judgements use
    measures: tuple[str, ...] = ("nDCG@10", "AP", "RR", "R@100", "P@10")
    modes: tuple[Mode, ...] | None = None  # None: vector, and where a column has a full-text index also text and hybrid
    text_column: str | None = None  # whose words are searched; those with an index, else `text`
    match: Match = "any"
    fusion: Fusion = "rrf"
    exact: bool = True  # also without the index, where there is one
    depth: int = Field(default=1000, ge=1)  # hits for measures without a cutoff

    @model_validator(mode="after")
    def one_place(self) -> Self:
        """A folder, or both files."""
        files = self.queries is not None and self.qrels is not None
        if (self.folder is not None) == files or (self.folder is not None and (self.queries or self.qrels)):
            raise ValueError("give `folder` (BEIR), or both `queries` and `qrels`")
        return self

    def measures_given(self) -> tuple[str, ...]:
        """See `TaskSpec.measures_given`."""
        return tuple(canonical_measure(name) for name in self.measures)

    def read(self) -> tuple[Queries, Judgements]:
        """Queries that have judgements, and these. Raises `SpecError`."""
        if self.folder is not None:
            queries, judged = read_beir(self.folder, self.split)
        else:
            assert self.queries is not None and self.qrels is not None
            queries, judged = read_queries(self.queries, self.topic_field), read_judgements(self.qrels)
        shared = {query: text for query, text in queries.items() if query in judged}
        if not shared:
            raise SpecError(
                f"task '{self.title}': no query of the judgements is among the {len(queries)} queries; are the ids the same?"
            )
        return shared, {query: judged[query] for query in shared}

    def run(self, subject: Subject) -> Iterator[Measured]:
        """See `TaskSpec.run`."""
        queries, judged = self.read()
        measures = parse_measures(self.measures)
        check_documents(self, subject, judged)
        vectors = subject.embed(list(queries.values()))
        for way in self.ways(subject):
            asked: Sequence[Any] = list(vectors) if way.mode == "vector" else list(queries.values())
            column = (self.text_column or TEXT) if way.mode == "text" else None
            hits: dict[int, dict[str, list[str]]] = {}
            for name, measure in measures.items():
                # The number of hits asked for changes what is found, through an index and in a pool: each cutoff is measured by
                # a search for so many.
                depth = self.depth if way.exact and way.mode == "vector" else cutoff_of(measure) or self.depth
                if depth not in hits:
                    ranked = rank_documents(subject.table, subject.column, asked, depth, self.documents, way)
                    hits[depth] = dict(zip(queries, ranked, strict=True))
                values = measure_queries({name: measure}, judged, hits[depth])[name]
                yield Measured(name, sample_of(values), mode=way.name, column=column)

    def ways(self, subject: Subject) -> Iterator[Way]:
        """How the queries are searched: in each mode as readers search, and where there is an index also without it."""
        offered: tuple[Mode, ...] = (
            ("vector", "text", "hybrid") if text_indexes(subject.table.to_lance()) else ("vector",)
        )
        indexed = self.exact and has_index(subject.table, subject.column)
        for mode in self.modes or offered:
            way = Way(mode, mode, False, self.text_column, self.match, self.fusion)
            yield way
            if indexed and mode != "text":
                yield replace(way, name=mode + EXACT, exact=True)


def sample_of(values: Mapping[str, float]) -> Sample:
    """A sample whose figure is the mean of values by query."""
    return Sample("mean", np.array(list(values), dtype=object), np.array(list(values.values()))[:, None])


def check_documents(task: Task, subject: Subject, judged: Judgements) -> None:
    """Note how many relevant documents the table lacks. Raises `NotFound` (no such column), `SpecError` (it has none of them)."""
    table, column = subject.table, task.documents
    if column not in table.columns:
        raise NotFound(
            f"table '{table.name}' has no column '{column}' of document names.{did_you_mean(column, table.columns)}\n"
            f"  Name it with `documents` of task '{task.title}'. Columns: {', '.join(table.columns)}"
        )
    check_texts(table, column)
    relevant = {document for grades in judged.values() for document, grade in grades.items() if grade > 0}
    found: set[Any] = set()
    for batch in scan_keys(table.to_lance(), column, relevant, [column]):
        found.update(batch[column].to_pylist())
    if relevant and not found:
        raise SpecError(
            f"task '{task.title}': none of the {len(relevant)} relevant documents is in column '{column}' of table "
            f"'{table.name}', such as '{min(relevant)}'.\n  Name the column that holds such names with `documents`."
        )
    if missing := len(relevant) - len(found):
        subject.note(f"task '{task.title}': {missing} of {len(relevant)} relevant documents are not in the table")
