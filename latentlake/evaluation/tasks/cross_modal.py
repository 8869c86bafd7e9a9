"""Cross-modal retrieval: the objects of a column of a joint model, and texts that describe them, each found by the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from latentlake.evaluation.base import Measured, Subject, TaskSpec
from latentlake.evaluation.rows import Drawn, Facts, as_numbers, check_columns, draw_rows, objects
from latentlake.evaluation.statistics import Sample
from latentlake.vectors import array_of
from operators.embedders.base import Role, normalize_rows
from operators.errors import SpecError

BLOCK = 512  # queries compared at once
CLIP_SCALE = (
    2.5  # of CLIPScore: Hessel et al. 2021, "CLIPScore: A Reference-free Evaluation Metric for Image Captioning", eq. 1
)


class Task(TaskSpec):
    """Texts from `captions`, embedded by the column's model; or the vectors of the column `against`, of the same space, row by row."""

    takes: ClassVar[frozenset[str]] = frozenset({"text"})

    kind: Literal["cross_modal"]
    captions: Facts | None = None
    against: str | None = None
    prompt: str = "{}"  # what a caption stands in; CLIPScore's authors have "A photo depicts {}"
    cutoffs: tuple[int, ...] = (1, 5, 10)
    role: Role = "query"
    rows: int = Field(default=5000, ge=2)  # drawn at random; each is looked for among all of them

    def measures_given(self) -> tuple[str, ...]:
        """See `TaskSpec.measures_given`."""
        return (*(f"R@{cutoff}" for cutoff in self.cutoffs), "median rank", "CLIPScore")

    @model_validator(mode="after")
    def one(self) -> Self:
        """Captions or a column, and a place for the caption in the prompt."""
        if (self.captions is None) == (self.against is None):
            raise ValueError("give `captions`, or the vector column `against`")
        if "{}" not in self.prompt:
            raise ValueError("`prompt` needs {} where the caption stands")
        return self

    def run(self, subject: Subject) -> Iterator[Measured]:
        """See `TaskSpec.run`."""
        ids, vectors, texts, owners = self.sides(subject)
        vectors, texts = normalize_rows(vectors), normalize_rows(texts)
        single = len(owners) == len(ids)
        # As the ids of an object's rows are, so that what deletes an object finds what was measured of it.
        names = ids if single else objects([f"{ids[owner]}#{n}" for n, owner in enumerate(owners.tolist())])
        places = np.arange(len(vectors))
        to_object = ranks_of(texts, owners, vectors, places)
        to_text = ranks_of(vectors, places, texts, owners)
        for mode, units, ranks in (("text to object", names, to_object), ("object to text", ids, to_text)):
            for cutoff in self.cutoffs:
                hits = (ranks <= cutoff).astype(np.float64)
                yield Measured(f"R@{cutoff}", Sample("mean", units, hits[:, None]), mode=mode)
            yield Measured("median rank", Sample("median", units, ranks[:, None]), mode=mode)
        own = np.einsum("nd,nd->n", texts, vectors[owners]).astype(np.float64)
        yield Measured("CLIPScore", Sample("mean", names, CLIP_SCALE * np.maximum(own, 0)[:, None]))

    def sides(self, subject: Subject) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Ids (n,) and vectors (n, dim) of objects, vectors of texts (m, dim), and the place of each text's object (m,)."""
        if self.against is not None:
            ids, first, second = read_both(subject, self.against, self.rows)
            return ids, first, second, np.arange(len(ids))
        drawn: Drawn = draw_rows(subject, self.rows, self.captions)
        owners = np.array([place for place, captions in enumerate(drawn.facts) for _ in captions], dtype=np.int64)
        captions = [self.prompt.replace("{}", str(caption)) for captions in drawn.facts for caption in captions]
        return drawn.ids, drawn.vectors, subject.embed(captions, self.role), owners


def read_both(subject: Subject, against: str, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids, and the vectors of the subject's column and of `against`, of rows that have both. Raises `SpecError`."""
    other = subject.table.provenance(against)
    if other.dimension != subject.stored.dimension:
        raise SpecError(
            f"columns '{subject.column}' and '{against}' have {subject.stored.dimension} and {other.dimension} numbers: "
            "they are not of one space.\n  Compare two columns of one joint model."
        )
    check_columns(subject, [against])
    columns = ["id", subject.column, against]
    batches = list(subject.table.vectors(columns, sample=rows, seed=subject.seed))
    if not batches:
        raise SpecError(
            f"no row of table '{subject.table.name}' has vectors in both '{subject.column}' and '{against}'."
        )
    ids = objects([name for batch in batches for name in batch["id"].to_pylist()])
    first, second = (
        np.concatenate([as_numbers(array_of(batch[name], True)) for batch in batches]) for name in columns[1:]
    )
    return ids, first, second


def ranks_of(queries: np.ndarray, asked: np.ndarray, gallery: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Rank from 1, float64 (n,), of the best of each query's own items among the gallery, by the product; ties share the mean.

    An item is a query's own where `held` of it, int64 (m,), is `asked` of the query, int64 (n,). Its other own ones do not count.
    """
    ranks = np.zeros(len(queries))
    for start in range(0, len(queries), BLOCK):
        products = queries[start : start + BLOCK] @ gallery.T
        own = asked[start : start + BLOCK, None] == held[None]
        best = np.where(own, products, -np.inf).max(axis=1)[:, None]
        before, level = (products > best) & ~own, (products == best) & ~own
        ranks[start : start + BLOCK] = 1 + before.sum(axis=1) + level.sum(axis=1) / 2
    return ranks
