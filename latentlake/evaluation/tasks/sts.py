"""Semantic textual similarity: pairs of sentences with a score, against the cosine of their vectors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from latentlake.evaluation.base import DataPath, Measured, Subject, TaskSpec
from latentlake.evaluation.files import pick, read_records
from latentlake.evaluation.pairs import Pairs, correlations
from latentlake.evaluation.probing import to_numbers
from operators.embedders.base import Role

FIRST = ("sentence1", "sentence_1", "first", "text1")
SECOND = ("sentence2", "sentence_2", "second", "text2")
SCORES = ("score", "similarity", "relatedness_score", "label")


class Task(TaskSpec):
    """A table of `sentence1`, `sentence2` and `score`."""

    takes: ClassVar[frozenset[str]] = frozenset({"text"})
    gives: ClassVar[tuple[str, ...]] = ("Spearman", "Pearson")

    kind: Literal["sts"]
    pairs: DataPath
    role: Role = "document"  # the model's prompt for both sentences

    def run(self, subject: Subject) -> Iterator[Measured]:
        """See `TaskSpec.run`."""
        columns = read_records(self.pairs)
        first = [str(text) for text in pick(columns, FIRST, self.pairs, "first sentences")]
        second = [str(text) for text in pick(columns, SECOND, self.pairs, "second sentences")]
        scores = to_numbers(pick(columns, SCORES, self.pairs, "scores"), "score")
        yield from correlations(subject, Pairs(first, second, scores), self.role)
