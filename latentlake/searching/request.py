"""What a search is asked for: its options, and which of them go together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import isfinite
from typing import Any, Literal, get_args

from operators.errors import SpecError, unknown_name

Mode = Literal["vector", "text", "hybrid"]
Fusion = Literal["rrf", "scores"]
Match = Literal["any", "all", "phrase", "query"]

# Rows of each part that are fused, thinned out or ranked again. It does not follow `k`, so that scores do not either.
POOL = 100
OF_MATCHING = ("match", "fuzzy")
OF_VECTORS = ("id", "unlike", "unlike_id", "column", "exact", "distance_range", "mmr", "bridge")
OF_PARTS = ("fusion", "weights")


@dataclass(frozen=True)
class Request:
    """The options of `Table.search`, which says what they mean."""

    query: Any = None
    id: str | Sequence[str] | None = None
    unlike: Any = None
    unlike_id: str | Sequence[str] | None = None
    k: int = 10
    offset: int = 0
    column: str | Sequence[str] | None = None
    where: str | None = None
    columns: Sequence[str] | None = None
    exact: bool = False
    mode: Mode = "vector"
    text: Any = None
    text_column: str | Sequence[str] | None = None
    match: Match = "any"
    fuzzy: int = 0
    fusion: Fusion = "rrf"
    weights: Mapping[str, float] | None = None
    pool: int = POOL
    distance_range: tuple[float | None, float | None] | None = None
    group_by: str | None = None
    mmr: float | None = None
    rerank: Any = None
    bridge: str | None = None

    def __post_init__(self) -> None:
        """Raise `SpecError` or `UnknownName` for options that cannot be, or do not go together."""
        for name, kinds in (("mode", Mode), ("fusion", Fusion), ("match", Match)):
            if getattr(self, name) not in get_args(kinds):
                raise unknown_name(name, str(getattr(self, name)), get_args(kinds))
        self._check_numbers()
        self._check_mode()

    @property
    def needed(self) -> int:
        """Rows up to the last one that is asked for."""
        return self.offset + self.k

    @property
    def words(self) -> Any:
        """What is searched for by words, or ranked again by."""
        return self.query if self.text is None else self.text

    @property
    def pooled(self) -> bool:
        """Whether the order comes from a pool of fixed size."""
        return self.mode == "hybrid" or self.several_columns or self.mmr is not None or self.rerank is not None

    @property
    def several_columns(self) -> bool:
        """Whether more than one vector column is searched."""
        return self.mode != "text" and not isinstance(self.column, str | None) and len(self.column) > 1

    def _check_numbers(self) -> None:
        if self.k < 1:
            raise SpecError(f"k is {self.k}; it must be 1 or more.")
        if self.offset < 0:
            raise SpecError(f"offset is {self.offset}; it must be 0 or more.")
        if self.pool < POOL:
            raise SpecError(f"pool is {self.pool}; it must be {POOL} or more, since ranks over few rows say little.")
        if self.pooled and self.needed > self.pool:
            raise SpecError(
                f"{self.needed} rows are asked for, of a pool of {self.pool}; give `pool={self.needed}` or more.\n"
                "  It does not grow by itself, because the scores would change with `k`."
            )
        if self.fuzzy not in (0, 1, 2):
            raise SpecError(f"fuzzy is {self.fuzzy}; it counts the letters that may differ in a word: 0, 1 or 2.")
        if self.mmr is not None and not 0 <= self.mmr <= 1:
            raise SpecError(f"mmr is {self.mmr}; it must be from 0 (diversity alone) to 1 (the plain order).")
        for part, weight in (self.weights or {}).items():
            if not (isfinite(weight) and weight >= 0):
                raise SpecError(f"the weight of '{part}' is {weight}; it must be 0 or more.")
        if self.distance_range is not None:
            low, high = self.distance_range
            if low is not None and high is not None and not low < high:
                raise SpecError(f"distance_range is ({low}, {high}); the first must be less than the second.")

    def _check_mode(self) -> None:
        if self.mode == "text":
            self._refuse(OF_VECTORS, "`mode='text'` compares no vectors")
            if self.query is None:
                raise SpecError("`mode='text'` needs words: a text as the query.")
        elif (self.query is None) == (self.id is None):
            raise SpecError("give a query or `id=`, and not both.")
        if self.mode == "vector":
            self._refuse(OF_MATCHING, "they are of `mode='text'` and `mode='hybrid'`")
        if self.mode != "hybrid" and self.rerank is None:
            self._refuse(("text",), "the words are the query")
        if self.mode == "vector" and self.rerank is None:
            self._refuse(("text_column",), "`mode='vector'` reads no words")
        if self.mode != "hybrid" and not self.several_columns:
            self._refuse(OF_PARTS, "there is one part, and nothing to fuse")
        if self.distance_range is not None and self.pooled:
            raise SpecError("`distance_range` goes with the order by distance alone: one column, no mmr, no rerank.")
        if self.match in ("phrase", "query") and self.fuzzy:
            raise SpecError("`fuzzy` goes with `match='any'` and 'all'; in `match='query'` write word~1.")

    def _refuse(self, names: Sequence[str], why: str) -> None:
        defaults = {field.name: field.default for field in fields(self)}
        given = [
            name
            for name in names
            if getattr(self, name) is not defaults[name] and getattr(self, name) != defaults[name]
        ]
        if given:
            raise SpecError(f"{', '.join(f'`{name}`' for name in given)} cannot be used here: {why}.")
