"""Analogies: `a` is to `b` as `c` is to what? By 3CosAdd, on files such as questions-words.txt.

Mikolov et al. 2013, "Efficient Estimation of Word Representations in Vector Space"; the name is Levy and Goldberg's (2014).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from latentlake.evaluation.base import DataPath, Measured, Subject, TaskSpec
from latentlake.evaluation.files import read_text
from latentlake.evaluation.statistics import Sample
from operators.embedders.base import Role, normalize_rows
from operators.errors import SpecError

BLOCK = 2048  # questions answered at once

Question = tuple[str, str, str, str]


class Task(TaskSpec):
    """Lines of four words, below headings that begin with a colon."""

    takes: ClassVar[frozenset[str]] = frozenset({"text"})

    kind: Literal["analogies"]
    questions: DataPath
    vocabulary: DataPath | None = (
        None  # words that answers are looked for among, one per line; else those of the questions
    )
    sections: bool = False  # also a figure per heading
    role: Role = "document"

    def run(self, subject: Subject) -> Iterator[Measured]:
        """See `TaskSpec.run`."""
        asked = read_questions(self.questions)
        questions = [question for section in asked.values() for question in section]
        listed = [] if self.vocabulary is None else read_text(self.vocabulary).split()
        words = list(dict.fromkeys([*listed, *(word for question in questions for word in question)]))
        vectors = normalize_rows(subject.embed(words, self.role))
        places = {word: place for place, word in enumerate(words)}
        numbers = np.array([[places[word] for word in question] for question in questions])
        right = (answer(vectors, numbers[:, :3]) == numbers[:, 3]).astype(np.float64)
        ids = np.array([f"{n}: {' '.join(question)}" for n, question in enumerate(questions)], dtype=object)
        yield Measured("accuracy", Sample("mean", ids, right[:, None]))
        start = 0
        for name, section in asked.items():
            chosen = slice(start, start := start + len(section))
            if self.sections and section:
                yield Measured(f"accuracy {name}", Sample("mean", ids[chosen], right[chosen, None]))


def read_questions(path: str | Path) -> dict[str, list[Question]]:
    """Questions by heading. Raises `SpecError`."""
    found: dict[str, list[Question]] = {}
    section = found.setdefault("", [])
    for line in read_text(path).splitlines():
        words = line.split()
        if line.startswith(":"):
            section = found.setdefault(" ".join(words)[1:].strip(), [])
        elif len(words) == 4:
            section.append((words[0], words[1], words[2], words[3]))
        elif words:
            raise SpecError(f"'{path}' of the suite: the line '{line[:60]}' is not four words.")
    if not any(found.values()):
        raise SpecError(f"'{path}' of the suite holds no question.")
    return found


def answer(vectors: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Place of the word nearest to b - a + c, int64 (n,): of `vectors` (words, dim) of length 1, and `asked` (n, 3), places of a, b and c.

    The three words themselves are no answers.
    """
    found = np.zeros(len(asked), dtype=np.int64)
    for start in range(0, len(asked), BLOCK):
        a, b, c = asked[start : start + BLOCK].T
        products = (vectors[b] - vectors[a] + vectors[c]) @ vectors.T
        for side in (a, b, c):
            products[np.arange(len(side)), side] = -np.inf
        found[start : start + BLOCK] = products.argmax(axis=1)
    return found
