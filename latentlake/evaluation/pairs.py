"""Files of pairs with a score that people gave, and how alike a model finds them."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latentlake.evaluation.base import Measured, Subject
from latentlake.evaluation.files import read_text
from latentlake.evaluation.statistics import Sample
from operators.embedders.base import Role, normalize_rows
from operators.errors import SpecError

LEMMA = re.compile(r"-[nvjar]$")  # MEN: "sun-n"
SCORES = ("SimLex999", "Human (mean)", "score", "rating", "relevance")


@dataclass(frozen=True)
class Pairs:
    """Two sides, and the score of each pair, float64 (n,)."""

    first: Sequence[str]
    second: Sequence[str]
    scores: np.ndarray


def read_word_pairs(path: str | Path) -> Pairs:
    """Word pairs as WordSim-353 (comma or tab), SimLex-999 (tab, a head) and MEN (spaces, lemmas such as `sun-n`) have them.

    The first two columns are the words. The score is the column that a head calls so, or else the third. Raises `SpecError`.
    """
    lines = [line for line in read_text(path).splitlines() if line.strip() and not line.startswith("#")]
    if not lines:
        raise SpecError(f"'{path}' of the suite holds no pair of words.")
    delimiter = next((mark for mark in "\t," if mark in lines[0]), " ")
    rows = [[cell.strip() for cell in row if cell.strip()] for row in csv.reader(lines, delimiter=delimiter)]
    place = 2
    if not is_number(rows[0][2] if len(rows[0]) > 2 else ""):
        place = next((rows[0].index(name) for name in SCORES if name in rows[0]), 2)
        rows = rows[1:]
    if not rows:
        raise SpecError(f"'{path}' of the suite holds no pair of words with a score.")
    if wrong := next((row for row in rows if len(row) <= place or not is_number(row[place])), None):
        raise SpecError(f"'{path}' of the suite: the line '{' '.join(wrong)[:60]}' is not two words and a score.")
    first, second = ([LEMMA.sub("", row[side]) for row in rows] for side in (0, 1))
    return Pairs(first, second, np.array([float(row[place]) for row in rows]))


def is_number(text: str) -> bool:
    """Whether a cell is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def similarities(subject: Subject, pairs: Pairs, role: Role) -> np.ndarray:
    """Cosine of each pair, float64 (n,); each different text is embedded once."""
    texts = list(dict.fromkeys([*pairs.first, *pairs.second]))
    vectors = normalize_rows(subject.embed(texts, role)).astype(np.float64)
    places = {text: place for place, text in enumerate(texts)}
    first, second = (vectors[[places[text] for text in side]] for side in (pairs.first, pairs.second))
    return np.einsum("nd,nd->n", first, second)


def correlations(subject: Subject, pairs: Pairs, role: Role) -> Iterator[Measured]:
    """Spearman and Pearson correlation of the model's cosines with people's scores, with intervals over pairs."""
    data = np.column_stack([similarities(subject, pairs, role), pairs.scores])
    ids = np.array(
        [f"{n}: {a} | {b}" for n, (a, b) in enumerate(zip(pairs.first, pairs.second, strict=True))], dtype=object
    )
    yield Measured("Spearman", Sample("spearman", ids, data))
    yield Measured("Pearson", Sample("pearson", ids, data))
