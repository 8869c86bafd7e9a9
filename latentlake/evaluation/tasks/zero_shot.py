"""Zero-shot classification: each object gets the class whose description is nearest in a joint model's space."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from latentlake.evaluation.base import Measured, Subject, TaskSpec
from latentlake.evaluation.rows import Facts, draw_rows, only
from latentlake.evaluation.statistics import Sample
from operators.embedders.base import Role, normalize_rows
from operators.errors import SpecError


class Task(TaskSpec):
    """`labels` are told from descriptions: each class's name in each of the `prompts`, their vectors averaged.

    Prompt ensembles are of Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision", 3.1.4.
    """

    takes: ClassVar[frozenset[str]] = frozenset({"text"})
    gives: ClassVar[tuple[str, ...]] = ("accuracy", "accuracy@5", "F1")

    kind: Literal["zero_shot"]
    labels: Facts
    classes: Mapping[str, str | tuple[str, ...]] = {}  # what a label is called in words; itself, where it is left out
    prompts: tuple[str, ...] = ("a photo of a {}.",)
    role: Role = "query"
    rows: int = Field(default=10_000, ge=1)  # drawn at random

    @field_validator("prompts")
    @classmethod
    def with_places(cls, prompts: tuple[str, ...]) -> tuple[str, ...]:
        """Each has a place for the name."""
        if not prompts or any("{}" not in prompt for prompt in prompts):
            raise ValueError("each prompt needs {} where the name stands")
        return prompts

    def run(self, subject: Subject) -> Iterator[Measured]:
        """See `TaskSpec.run`."""
        drawn = draw_rows(subject, self.rows, self.labels)
        names = np.array([str(label) for label in only(drawn.facts)])
        classes = sorted({*names.tolist(), *self.classes})
        if len(classes) < 2:
            raise SpecError(f"task '{self.title}': the labels tell one class, '{classes[0]}'; name more in `classes`.")
        centres = np.stack([self.describe(subject, label) for label in classes])
        scores = normalize_rows(drawn.vectors) @ centres.T
        codes = np.searchsorted(classes, names)
        order = np.argsort(-scores, axis=1, kind="stable")
        for cutoff in (1, 5):
            if cutoff < len(classes):
                hits = (order[:, :cutoff] == codes[:, None]).any(axis=1).astype(np.float64)
                yield Measured(
                    "accuracy" if cutoff == 1 else f"accuracy@{cutoff}", Sample("mean", drawn.ids, hits[:, None])
                )
        data = np.column_stack([codes, order[:, 0]]).astype(np.float64)
        yield Measured("F1", Sample("macro_f1", drawn.ids, data))

    def describe(self, subject: Subject, label: str) -> np.ndarray:
        """Vector of a class, (dim,) of length 1: the mean of its descriptions' vectors, each of length 1."""
        words = self.classes.get(label, label)
        texts = [
            prompt.replace("{}", word)
            for word in ([words] if isinstance(words, str) else words)
            for prompt in self.prompts
        ]
        return normalize_rows(normalize_rows(subject.embed(texts, self.role)).mean(axis=0, keepdims=True))[0]
