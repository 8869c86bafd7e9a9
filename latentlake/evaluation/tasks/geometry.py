"""How a column's vectors lie: spread, directions, hubs, lengths and near-duplicates. No labels are needed but for alignment."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from latentlake.evaluation.base import Measured, Subject, TaskSpec
from latentlake.evaluation.geometry import (
    alignment,
    effective_rank,
    isotropy,
    mean_cosine,
    near_duplicates,
    neighbour_counts,
    skewness,
    uniformity,
)
from latentlake.evaluation.rows import Facts, draw_rows, only
from latentlake.evaluation.statistics import Sample
from operators.embedders.base import normalize_rows


class Task(TaskSpec):
    """Figures of vectors alone; `positives` are labels that rows share which should lie together."""

    gives: ClassVar[tuple[str, ...]] = (
        "uniformity",
        "mean cosine",
        "isotropy",
        "effective rank",
        "hubness",
        "norm",
        "norm spread",
        "near-duplicate rate",
        "alignment",
    )

    kind: Literal["geometry"]
    positives: Facts | None = None
    neighbours: int = Field(default=10, ge=1)  # of which hubs have too many
    duplicate_distance: float = Field(default=0.05, gt=0)  # cosine distance of the nearest other row, at most
    duplicate_rows: int = Field(default=1000, ge=1)  # looked at for near-duplicates among the whole table
    rows: int = Field(default=5000, ge=10)  # drawn at random

    def run(self, subject: Subject) -> Iterator[Measured]:
        """See `TaskSpec.run`."""
        drawn = draw_rows(subject, self.rows)
        n, units = len(drawn), normalize_rows(drawn.vectors)
        lengths = np.linalg.norm(drawn.vectors, axis=1).astype(np.float64)
        yield Measured("uniformity", value=uniformity(units), n=n)
        yield Measured("mean cosine", value=mean_cosine(units), n=n)
        yield Measured("isotropy", value=isotropy(drawn.vectors), n=n)
        yield Measured("effective rank", value=effective_rank(drawn.vectors), n=n)
        yield Measured("hubness", value=skewness(neighbour_counts(units, min(self.neighbours, n - 1))), n=n)
        yield Measured("norm", Sample("mean", drawn.ids, lengths[:, None]))
        yield Measured("norm spread", value=float(lengths.std() / lengths.mean()) if lengths.any() else 0.0, n=n)
        places = np.arange(n)[: self.duplicate_rows]
        near = near_duplicates(subject, drawn.ids[places], drawn.vectors[places], self.duplicate_distance)
        yield Measured("near-duplicate rate", Sample("mean", drawn.ids[places], near[:, None]))
        if self.positives is not None:
            together = draw_rows(subject, self.rows, self.positives)
            labels = np.array([str(label) for label in only(together.facts)])
            ids, distances = alignment(together.ids, normalize_rows(together.vectors), labels, subject.seed)
            yield Measured("alignment", Sample("mean", ids, distances[:, None]))
