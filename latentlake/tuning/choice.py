"""Which index: each kind is built on a sample of the table, tuned to the target there, and the fastest wins, or none."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from latentlake.indexes import TRAINING_ROWS, vector_field
from latentlake.tuning.efforts import SLOWER, cheapest, is_graph, tune_effort
from latentlake.tuning.settings import Effort
from latentlake.tuning.trials import Trial, find_truth, run_trial
from latentlake.vectors import Vectors

SAMPLE_ROWS = 50_000  # at most, and a quarter of the table, but all of a small one
LEAST_SAMPLE_ROWS = 16_384
SAMPLE_BYTES = 128 * 2**20
SMALL_ROWS = 1024  # what a kind that builds slowly is timed on first
SLOW_ROWS = 4096  # what it is tried on
QUERIES = 24  # of those that tune
EXACT_QUERIES = 5
EXACT_MS = 2.0  # an index that answers in less than half of this was not met: a call alone takes about one
EXACT_GAIN = 1.25  # an index has to be so many times faster than exact search, which loses nothing and needs no upkeep
# CPU seconds that IVF_PQ takes at most by its defaults for vectors of 384 numbers, to train, and for each vector: fitted to its seconds on
# two idle cores, times two (docs/indexes.md). A slower machine takes more, and then chooses what is built sooner.
PQ_TRAINING_S, PQ_TRAINING_ROWS, PQ_TRAINING_POWER, PQ_ROWS_AT_MOST = 2.4, 5_000, 1.3, 65_536
PQ_ROW_S = 0.05e-3
GRAPH_POWER = 1.3  # of the rows, by which a graph takes longer to build: measured, 4,096 and 43,333 texts
BUDGET = 0.9  # of that, for the choice and the build
CHOICE_SHARE = 0.2  # of the budget; the rest is for the build
SLOW = frozenset({"ivf_hnsw_flat", "ivf_hnsw_sq", "ivf_pq"})


@dataclass(frozen=True)
class Candidate:
    """A kind of index as it did on the sample. Milliseconds and CPU seconds of the whole table are estimated."""

    name: str
    build: Mapping[str, Any]  # arguments of Lance's `create_index`; none: exact search
    recall: float = 0.0
    ms: float = math.inf  # on the sample, see `Trial.quiet_ms`
    table_ms: float = math.inf
    table_build_s: float = 0.0
    size_bytes: int = 0
    left_out: str = ""  # why it was not tried, or cannot be taken
    sampled: int = 0  # vectors of the sample


@dataclass
class Choice:
    """What was chosen, and everything that it was chosen from."""

    chosen: Candidate
    why: str
    candidates: list[Candidate] = field(default_factory=list)
    seconds: float = 0.0
    sample_rows: int = 0


def kinds_of(dimension: int, metric: str) -> list[tuple[str, dict[str, Any]]]:
    """Name and `create_index` arguments of every kind that vectors can have, first those that are the fastest in most tables.

    IVF_FLAT leads: it tells how many partitions have to be probed, which the others share.
    """
    if metric == "hamming":
        return [("ivf_flat", {"index_type": "IVF_FLAT", "metric": metric})]
    parts = max(n for n in range(1, max(1, dimension // 8) + 1) if dimension % n == 0)
    rq: dict[int, tuple[str, dict[str, Any]]] = {
        bits: ("ivf_rq", {"index_type": "IVF_RQ", "metric": metric, "num_bits": bits}) for bits in (1, 2, 4, 8)
    }
    plain: dict[str, tuple[str, dict[str, Any]]] = {
        name: (name, {"index_type": name.upper(), "metric": metric})
        for name in ("ivf_flat", "ivf_sq", "ivf_hnsw_flat", "ivf_hnsw_sq")
    }
    pq: tuple[str, dict[str, Any]] = ("ivf_pq", {"index_type": "IVF_PQ", "metric": metric, "num_sub_vectors": parts})
    ordered = [
        plain["ivf_flat"],
        rq[8],
        plain["ivf_hnsw_flat"],
        rq[4],
        plain["ivf_hnsw_sq"],
        plain["ivf_sq"],
        rq[2],
        rq[1],
        pq,
    ]
    return [kind for kind in ordered if dimension % 8 == 0 or kind[0] != "ivf_rq"]


def pq_seconds(rows: float, dimension: int) -> float:
    """CPU seconds that IVF_PQ takes by its defaults to index a column; not those of the clock, so that a busy machine chooses as an idle one."""
    trained = min(rows, PQ_ROWS_AT_MOST) / PQ_TRAINING_ROWS
    return (PQ_TRAINING_S * trained**PQ_TRAINING_POWER + PQ_ROW_S * rows) * dimension / 384


def growth(name: str, rows: int, more: float) -> float:
    """Times as long as an index of `rows` vectors that one of `more` takes to build, of a kind that builds slowly."""
    if is_graph(name):
        return float((more / rows) ** GRAPH_POWER)
    return pq_seconds(more, 1) / pq_seconds(rows, 1)


def label(build: Mapping[str, Any]) -> str:
    """A kind in words: "ivf_rq, 1 bit"."""
    if not build:
        return "exact search"
    bits = build.get("num_bits")
    name = str(build["index_type"]).lower()
    return name if bits is None else f"{name}, {bits} bit{'s' if bits > 1 else ''}"


def choose(
    dataset: Any,
    column: str,
    metric: str,
    rows: int,
    queries: np.ndarray,
    k: int,
    target: float,
    max_p95_ms: float | None = None,
    seed: int = 0,
) -> Choice:
    """The kind of index for a column of `rows` vectors: the fastest that meets the target on a sample, or exact search.

    The sample, at most `SAMPLE_ROWS` and `SAMPLE_BYTES`, is copied to a temporary folder of this machine. Kinds are tried until
    their share of the budget is spent; one that would take longer to build than the rest of it is left out, and named.
    """
    began, cpu = time.perf_counter(), time.process_time()
    kind = vector_field(dataset, column).type
    width = kind.list_size * kind.value_type.bit_width // 8
    number = min(rows, max(LEAST_SAMPLE_ROWS, rows // 4), SAMPLE_ROWS, SAMPLE_BYTES // width)
    if rows < TRAINING_ROWS:
        return Choice(Candidate("exact", {}), f"{rows} vectors are too few to train an index on")
    with tempfile.TemporaryDirectory(prefix="latentlake-index-") as folder:
        sample = copy_sample(dataset, column, number, Path(folder) / "sample.lance", seed)
        trier = Trier(Asked(column, metric, k, queries, target, max_p95_ms), sample, rows)
        exact = trier.exact()
        if exact.table_ms <= EXACT_MS:
            why = f"exact search takes {exact.table_ms:.1f} ms, about what a call costs in any case"
            return Choice(exact, why, [exact], time.perf_counter() - began, number)
        budget = BUDGET * pq_seconds(rows, kind.list_size)
        found = [exact]
        for name, build in kinds_of(kind.list_size, metric):
            spent = time.process_time() - cpu
            if spent > CHOICE_SHARE * budget and len(found) > 1:  # one is always tried
                reason = f"the choice had used its {CHOICE_SHARE * budget:.1f} CPU seconds"
                found.append(Candidate(name, build, left_out=reason))
                continue
            found.append(trier.attempt(name, build, budget - spent))
        # The cheapest call is known now.
        found = [exact, *(replace(one, table_ms=trier.in_table(one)) for one in found[1:])]
    return decide(found, target, number, time.perf_counter() - began)


def copy_sample(dataset: Any, column: str, rows: int, place: Path, seed: int) -> Any:
    """A dataset of one column with `rows` of the vectors at random, in a folder."""
    import lance

    every = dataset.count_rows() <= rows
    vectors = Vectors(dataset, [column], [column], None, None if every else rows, seed, 8192)
    return lance.write_dataset(vectors.reader(), str(place))


@dataclass(frozen=True)
class Asked:
    """What an index is chosen for."""

    column: str
    metric: str
    k: int
    queries: np.ndarray
    target: float
    max_p95_ms: float | None


class Trier:
    """Tries kinds of index on a sample (pylance) of a table of `rows` vectors."""

    def __init__(self, asked: Asked, sample: Any, rows: int) -> None:
        self.asked, self.sample, self.rows = asked, sample, rows
        self.sampled = sample.count_rows()
        self.larger = rows / max(1, self.sampled)
        self.truth = find_truth(sample, asked.column, asked.metric, asked.queries, asked.k)[1.0]
        self.parts: dict[int, Trier] = {}  # the same, of some of the sample's rows
        self.fewest: tuple[int, float] | None = None  # partitions, and the share of them that has to be probed
        self.limit_ms = math.inf  # what the fastest of the kinds takes in the table
        self.call_ms = math.inf  # what the fastest search through an index took: about what a call costs in any case

    def exact(self) -> Candidate:
        """Exact search: its time grows with the table."""
        trial = self._run(None, math.inf, EXACT_QUERIES)
        return Candidate("exact", {}, 1.0, trial.quiet_ms, trial.quiet_ms * self.larger)

    def attempt(self, name: str, build: Mapping[str, Any], left_s: float) -> Candidate:
        """A kind, built and tuned on the sample, unless building the table's would take more than `left_s` CPU seconds.

        One that builds slowly is built on two parts of it, on the second where the first does not tell that it would take too long.
        """
        if label(build) not in SLOW:
            return self._tune(name, build, self._build(build))
        spent = 0.0
        for part in dict.fromkeys(self._part(number) for number in (SMALL_ROWS, SLOW_ROWS)):
            seconds = part._build(build)
            spent += seconds
            expected = seconds * growth(name, part.sampled, self.rows)
            if spent + expected > left_s:
                reason = f"it would take {expected:.0f} CPU seconds, {left_s - spent:.0f} of the budget are left"
                return Candidate(name, build, left_out=reason, table_build_s=expected)
        found = part._tune(name, build, seconds)
        self.limit_ms, self.call_ms = part.limit_ms, part.call_ms
        return replace(found, table_build_s=expected)

    def _build(self, build: Mapping[str, Any]) -> float:
        """Build an index of the sample; CPU seconds."""
        began = time.process_time()
        self.sample.create_index(self.asked.column, name="tried", replace=True, **build)
        return time.process_time() - began

    def _part(self, rows: int) -> Trier:
        """The first `rows` of the sample, which are as random as all of it; itself where it is not much larger."""
        import lance

        if self.sampled <= 2 * rows:
            return self
        if rows not in self.parts:
            part = lance.write_dataset(self.sample.scanner(limit=rows).to_reader(), f"{self.sample.uri}-{rows}")
            self.parts[rows] = Trier(self.asked, part, self.rows)
        self.parts[rows].limit_ms, self.parts[rows].call_ms = self.limit_ms, self.call_ms
        return self.parts[rows]

    def _tune(self, name: str, build: Mapping[str, Any], seconds: float) -> Candidate:
        """A kind that was built on the sample in so many seconds, searched with the cheapest effort that meets the target."""
        asked = self.asked
        partitions = count_partitions(self.sample, "tried")
        fewest = self.fewest[1] if self.fewest and self.fewest[0] == partitions and not is_graph(name) else None
        trials = tune_effort(
            name, partitions, asked.k, asked.target, self._run, fewest, asked.max_p95_ms, SLOWER * self.limit_ms
        )
        best = cheapest(trials, asked.target, asked.max_p95_ms)
        if name == "ivf_flat" and best and best.effort:
            self.fewest = partitions, best.effort.search_effort
        told = best or max(trials, key=lambda trial: trial.recall)
        self.call_ms = min(self.call_ms, *(trial.quiet_ms for trial in trials))
        slow = any(trial.slow for trial in trials)
        size = sum(segment.size_bytes for segment in describe(self.sample, "tried").segments)
        found = Candidate(
            name,
            build,
            recall=told.recall,
            ms=told.quiet_ms,
            table_build_s=seconds * self.larger,
            size_bytes=round(size * self.larger),
            left_out="" if best else "slower than others" if slow else f"finds {told.recall:.3f} at most",
            sampled=self.sampled,
        )
        if best and (asked.max_p95_ms is None or best.p95_ms <= asked.max_p95_ms):
            self.limit_ms = min(self.limit_ms, self.in_table(found))
        return found

    def _run(self, effort: Effort | None, limit_ms: float, most: int | None = None) -> Trial:
        asked = self.asked
        return run_trial(
            self.sample,
            asked.column,
            asked.metric,
            asked.k,
            asked.queries[:most],
            self.truth,
            effort,
            limit_ms=limit_ms,
            target=asked.target,
        )

    def in_table(self, found: Candidate) -> float:
        """Milliseconds in the table: what is above the cheapest call grows with the rows, and in a graph with their logarithm."""
        if not found.sampled:
            return math.inf
        times = math.log(self.rows) / math.log(found.sampled) if is_graph(found.name) else self.rows / found.sampled
        return self.call_ms + (found.ms - self.call_ms) * times


def decide(found: Sequence[Candidate], target: float, sample_rows: int, seconds: float) -> Choice:
    """The fastest of the candidates that can be taken; of those as fast to a tenth, the one that is built first."""
    exact, *others = found
    able = [candidate for candidate in others if not candidate.left_out]
    if not able:
        why = f"no index met recall {target} on the sample; exact search is estimated at {exact.table_ms:.1f} ms"
        return Choice(exact, why, list(found), seconds, sample_rows)
    fastest = min(candidate.table_ms for candidate in able)
    best = min((c for c in able if c.table_ms <= 1.1 * fastest), key=lambda candidate: candidate.table_build_s)
    if exact.table_ms < EXACT_GAIN * best.table_ms:
        why = f"exact search takes {exact.table_ms:.1f} ms, {label(best.build)} {best.table_ms:.1f} ms: too little gain"
        return Choice(exact, why, list(found), seconds, sample_rows)
    untried = [label(c.build) for c in others if math.isinf(c.ms)]
    why = (
        f"{best.table_ms:.1f} ms estimated, exact search {exact.table_ms:.1f} ms; on {sample_rows} vectors {len(able)} "
        f"of {len(others) - len(untried)} kinds tried met recall {target}, and this is the fastest"
        + (f"; not tried, to stay within the budget: {', '.join(untried)}" if untried else "")
    )
    return Choice(best, why, list(found), seconds, sample_rows)


def describe(dataset: Any, name: str) -> Any:
    """What Lance says of an index."""
    return next(found for found in dataset.describe_indices() if found.name == name)


def count_partitions(dataset: Any, name: str) -> int:
    """Partitions of an index of vectors, in each of its segments. Reads its centroids, and no row."""
    return len(dataset.get_ivf_model(name).centroids)
