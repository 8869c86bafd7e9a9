"""Measures of retrieval: their names, as ir-measures writes them, and the values that it computes per query."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from operators.errors import MissingExtra, SpecError

# What people call them, in lower case, and ir-measures' name.
ALIASES = {
    "map": "AP",
    "ap": "AP",
    "mrr": "RR",
    "rr": "RR",
    "ndcg": "nDCG",
    "recall": "R",
    "r": "R",
    "precision": "P",
    "p": "P",
    "success": "Success",
    "hit": "Success",
}
NAMED = re.compile(r"([A-Za-z]+)(.*)")


def canonical_measure(name: str) -> str:
    """The name that results carry: "recall@100" is "R@100", "map" is "AP". A name that is not known here stays as it is."""
    found = NAMED.fullmatch(name.strip())
    return name.strip() if found is None else ALIASES.get(found[1].lower(), found[1]) + found[2]


def parse_measures(names: Sequence[str]) -> dict[str, Any]:
    """ir-measures' measures by their canonical names. Raises `SpecError` for one that it does not know, `MissingExtra`."""
    library = ir_measures()
    found = {}
    for name in names:
        try:
            measure = library.parse_measure(canonical_measure(name))
        except (NameError, ValueError, SyntaxError, KeyError, AssertionError) as failure:
            raise SpecError(
                f"no measure '{name}'. Write it as ir-measures does: nDCG@10, AP, RR, R@100, P@10, Success@1."
            ) from failure
        found[str(measure)] = measure
    return found


def cutoff_of(measure: Any) -> int | None:
    """How many hits a measure looks at; None where it looks at all."""
    return measure.params.get("cutoff")


def measure_queries(
    measures: Mapping[str, Any], judgements: Mapping[str, Mapping[str, int]], hits: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, float]]:
    """Values by measure and query: of the documents found for each query, best first, and its judgements.

    The order of the hits counts, and not a score: trec_eval would order hits with equal scores by their names. A query that
    nothing was found for has 0 of every measure.
    """
    run = {
        query: {document: float(len(found) - rank) for rank, document in enumerate(found)}
        for query, found in hits.items()
        if found
    }
    values = {name: dict.fromkeys(judgements, 0.0) for name in measures}
    qrels = {query: dict(judged) for query, judged in judgements.items()}
    for metric in ir_measures().iter_calc(list(measures.values()), qrels, run):
        values[str(metric.measure)][metric.query_id] = float(metric.value)
    return values


def ir_measures() -> Any:
    """The library. Raises `MissingExtra`."""
    try:
        import ir_measures as library
    except ImportError as failure:
        raise MissingExtra("evaluation of retrieval needs ir-measures: pip install 'latentlake[eval]'") from failure
    return library
