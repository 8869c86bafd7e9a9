"""Word similarity: pairs of words with a score, as WordSim-353, SimLex-999 and MEN have them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from latentlake.evaluation.base import DataPath, Measured, Subject, TaskSpec
from latentlake.evaluation.pairs import correlations, read_word_pairs
from operators.embedders.base import Role


class Task(TaskSpec):
    """A file of word pairs."""

    takes: ClassVar[frozenset[str]] = frozenset({"text"})
    gives: ClassVar[tuple[str, ...]] = ("Spearman", "Pearson")

    kind: Literal["word_similarity"]
    pairs: DataPath
    role: Role = "document"  # the model's prompt for both words

    def run(self, subject: Subject) -> Iterator[Measured]:
        """See `TaskSpec.run`."""
        yield from correlations(subject, read_word_pairs(self.pairs), self.role)
