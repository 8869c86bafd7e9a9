"""An index that is tuned to a recall, beside Lance tuned by hand, FAISS, hnswlib and usearch: same vectors, same queries, one run.

Vectors: `clustered` (200,000 x 384 unless --rows says otherwise), `texts` (Debian's package descriptions by MiniLM, see
`debian_texts`), `words` (the same texts by latent
semantic analysis, made in seconds), `docs` (the demo's docstrings of the standard library, by MiniLM). Queries are of another distribution: mixtures of two clusters, package
titles, the words of names. One part tunes and measures (`Queries`), the rest, which nothing is chosen with, judges here.

For each target: seconds of the choice and the build beside IVF_PQ by Lance's defaults, recall@10 on the judging queries with
its 95 % interval, p50, and its ratio to the fastest setting by hand of all kinds that were built within the same seconds. Then, for the
target 0.95, filters of 1 and 10 %, and 20 appends of 1 % each. Prints tables; needs the extra `bench`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa

from latentlake.building import build_index
from latentlake.indexes import nearest
from latentlake.tuning.choice import SLOW, kinds_of, label
from latentlake.tuning.efforts import EFS, SEARCH_EFFORTS, TRUE_DISTANCES, is_graph
from latentlake.tuning.goal import Goal
from latentlake.tuning.queries import split
from latentlake.tuning.settings import Effort, SearchSettings, read_settings
from latentlake.tuning.trials import Trial, empty_truth, find_truth, run_trial

K = 10
MAX_CHARACTERS = 300
METRIC = "cosine"
APPENDS, APPENDED = 20, 0.01


@dataclass(frozen=True)
class Data:
    """Vectors, those that are appended later, and the queries: to tune and measure with, and to judge by."""

    name: str
    rows: np.ndarray
    later: np.ndarray
    tune: np.ndarray
    judge: np.ndarray


def normed(vectors: np.ndarray) -> np.ndarray:
    """Unit vectors, float32."""
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def clustered(rows: int, queries: int, dimension: int = 384) -> Data:
    """Clusters of some 200 rows; a query is a mixture of rows of two clusters."""
    rng = np.random.default_rng(1)
    centres = rng.standard_normal((max(2, rows // 200), dimension))
    make = lambda n: centres[rng.integers(0, len(centres), n)] + 0.6 * rng.standard_normal((n, dimension))  # noqa: E731
    total = round(rows * (1 + APPENDS * APPENDED))
    vectors, weight = normed(make(total)), rng.uniform(0.55, 0.95, (queries, 1))
    asked = normed(weight * make(queries) + (1 - weight) * make(queries))
    return Data("clustered", vectors[:rows], vectors[rows:], asked[: queries // 2], asked[queries // 2 :])


def texts(cache: Path, rows: int, queries: int, model: str) -> Data:
    """Descriptions of packages, asked for by titles."""
    from debian_texts import load_texts

    vectors, asked = load_texts(cache, rows, queries, model)
    kept = round(len(vectors) / (1 + APPENDS * APPENDED))
    asked = asked[np.random.default_rng(2).permutation(len(asked))]
    return Data(f"texts ({model})", vectors[:kept], vectors[kept:], asked[: queries // 2], asked[queries // 2 :])


def docs(cache: Path) -> Data:
    """The demo's docstrings, asked for by the words of their names."""
    from debian_texts import embed

    sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
    from python_docs import write_corpus

    corpus = cache / "python_docs.jsonl"
    if not corpus.exists():
        write_corpus(corpus)
    rows = [json.loads(line) for line in corpus.read_text(encoding="utf-8").splitlines()]
    order = np.random.default_rng(3).permutation(len(rows))
    asked = [re.sub(r"[._]+", " ", rows[at]["id"]) for at in order[:1000]]
    vectors = embed([rows[at]["text"][:MAX_CHARACTERS] for at in order], "document", cache / "docs.npy")
    queries = embed(asked, "query", cache / "docs-queries.npy")
    kept = round(len(vectors) / (1 + APPENDS * APPENDED))
    return Data("docs", vectors[:kept], vectors[kept:], queries[:500], queries[500:])


def table_of(vectors: np.ndarray, start: int = 0) -> pa.Table:
    """Rows with a number and a random percent, by which filters keep them."""
    share = np.random.default_rng(start).integers(0, 100, len(vectors))
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    return pa.table({"id": np.arange(start, start + len(vectors)), "share": share, "v": column})


def judge(dataset: Any, queries: np.ndarray, settings: SearchSettings) -> Trial:
    """What the settings find of what is really nearest, by queries that nothing was chosen with."""
    truth = find_truth(dataset, "v", METRIC, queries, K)[1.0]
    return run_trial(dataset, "v", METRIC, K, queries, truth, settings.effort)


def judge_filter(dataset: Any, queries: np.ndarray, settings: SearchSettings, where: str) -> tuple[float, float]:
    """Recall and median milliseconds under a filter, as `Table.search` asks, counting the rows that it keeps."""
    hits, times = 0, []
    for query in queries:
        scan = lambda asked: dataset.to_table(  # noqa: E731
            columns=["id", "_distance"], nearest=asked, filter=where, prefilter=True
        )
        exact = scan(nearest("v", query, K, METRIC, exact=True))
        began = time.perf_counter()
        kept = (dataset.count_rows(where), dataset.count_rows())
        found = scan(nearest("v", query, K, METRIC, kept=kept, settings=settings))
        times.append((time.perf_counter() - began) * 1000)
        hits += len(set(exact["id"].to_pylist()) & set(found["id"].to_pylist()))
    return hits / (K * len(queries)), float(np.median(times))


def told(trial: Trial) -> str:
    """Recall with its interval, and the median time."""
    low, high = trial.interval()
    return f"recall {trial.recall:.4f} ({low:.4f} to {high:.4f}), p50 {trial.p50_ms:.2f} ms, p95 {trial.p95_ms:.2f} ms"


# by hand


def efforts_of(kind: str) -> Iterator[Effort]:
    """A grid of search settings of a kind."""
    if is_graph(kind):
        for refine in (None,) if kind in TRUE_DISTANCES else (1, 2, 4):
            yield from (Effort(1.0, refine, int(K * times)) for times in EFS[:9] if times >= (refine or 1))
        return
    for step in SEARCH_EFFORTS[2:]:
        yield from (
            Effort(step, refine) for refine in ((None,) if kind in TRUE_DISTANCES else (1, 2, 3, 5, 8, 12, 20, 32))
        )


def by_hand(
    dataset: Any, queries: np.ndarray, targets: Sequence[float], seconds: float
) -> dict[float, tuple[dict[str, Any], Trial]]:
    """For each target the fastest setting of all kinds that are built within so many seconds, with the arguments that build it.

    The hand is lucky: it sees the queries that judge.
    """
    truth = find_truth(dataset, "v", METRIC, queries, K)[1.0]
    attempt = lambda effort, most=None: run_trial(dataset, "v", METRIC, K, queries[:most], truth, effort)  # noqa: E731
    best: dict[float, tuple[dict[str, Any], Trial]] = {}
    for kind, build in kinds_of(dataset.schema.field("v").type.list_size, METRIC):
        if label(build) in SLOW and not worth_building(dataset, build, seconds):
            print(
                f"    {label(build):16} left out: by a tenth of the rows, it takes more than {seconds:.0f} s",
                flush=True,
            )
            continue
        began = time.perf_counter()
        dataset.create_index("v", name="v_idx", replace=True, **build)
        took = time.perf_counter() - began
        print(f"    {label(build):16} built in {took:6.1f} s{'' if took <= seconds else ', too slow'}", flush=True)
        for effort in efforts_of(kind) if took <= seconds else ():
            rough = attempt(effort, 50)
            for target in targets:
                if rough.recall < target - 0.03 or (target in best and rough.p50_ms > 1.1 * best[target][1].p50_ms):
                    continue
                trial = attempt(effort)
                if trial.recall >= target and (target not in best or trial.p50_ms < best[target][1].p50_ms):
                    best[target] = (build, trial)
    return best


def worth_building(dataset: Any, build: dict[str, Any], seconds: float) -> bool:
    """Whether a slow kind may be built in time, from the time that a tenth of the rows take."""
    with tempfile.TemporaryDirectory() as folder:
        part = lance.write_dataset(dataset.scanner(columns=["v"], limit=dataset.count_rows() // 10).to_reader(), folder)
        began = time.perf_counter()
        part.create_index("v", **build)
        return 8 * (time.perf_counter() - began) <= seconds  # the training of IVF_PQ does not grow with the rows


# other libraries


def others(rows: np.ndarray, queries: np.ndarray, truth: np.ndarray, targets: Sequence[float]) -> None:
    """Build and search in memory with FAISS, hnswlib and usearch; the fastest setting that meets each target."""
    for name, build in {
        "faiss IVF-PQ": faiss_ivf_pq,
        "faiss HNSW32": faiss_hnsw,
        "hnswlib": hnsw,
        "usearch": usearch,
    }.items():
        began = time.perf_counter()
        searches = build(rows)
        took = time.perf_counter() - began
        found: dict[float, tuple[float, float, str]] = {}
        for setting, search in searches:
            times, hits = [], 0
            for query, wanted in zip(queries, truth, strict=True):
                began = time.perf_counter()
                ids = search(query[None])
                times.append((time.perf_counter() - began) * 1000)
                hits += len(set(np.asarray(ids).ravel().tolist()) & set(wanted.tolist()))
            recall, p50 = hits / truth.size, float(np.median(times))
            for target in targets:
                if recall >= target and (target not in found or p50 < found[target][1]):
                    found[target] = (recall, p50, setting)
        shown = "; ".join(
            f"{target}: {found[target][1]:.2f} ms at {found[target][0]:.3f} ({found[target][2]})"
            if target in found
            else f"{target}: not met"
            for target in targets
        )
        print(f"  {name:14} built in {took:6.1f} s; {shown}", flush=True)


Search = Callable[[np.ndarray], Any]


def faiss_ivf_pq(rows: np.ndarray) -> list[tuple[str, Search]]:
    """IVF with product quantisation, its candidates refined by the vectors, which are kept beside it."""
    import faiss

    lists = max(1, round(len(rows) ** 0.5))
    quantizer = faiss.IndexFlatIP(rows.shape[1])
    coarse = faiss.IndexIVFPQ(quantizer, rows.shape[1], lists, rows.shape[1] // 8, 8, faiss.METRIC_INNER_PRODUCT)
    index = faiss.IndexRefineFlat(coarse)
    index.train(rows)
    index.add(rows)

    def search(probes: int, factor: int) -> Search:
        def one(query: np.ndarray) -> Any:
            coarse.nprobe, index.k_factor = probes, factor
            return index.search(query, K)[1]

        return one

    return [(f"nprobe {n}, refine {f}", search(n, f)) for n in (4, 8, 16, 32, 64, 128) for f in (5, 20)]


def faiss_hnsw(rows: np.ndarray) -> list[tuple[str, Search]]:
    """A graph with 32 links."""
    import faiss

    index = faiss.IndexHNSWFlat(rows.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    index.add(rows)

    def search(ef: int) -> Search:
        def one(query: np.ndarray) -> Any:
            index.hnsw.efSearch = ef
            return index.search(query, K)[1]

        return one

    return [(f"ef {ef}", search(ef)) for ef in (16, 32, 64, 128, 256, 512)]


def hnsw(rows: np.ndarray) -> list[tuple[str, Search]]:
    """hnswlib's graph, M 16."""
    import hnswlib

    index = hnswlib.Index("cosine", rows.shape[1])
    index.init_index(len(rows), ef_construction=200, M=16)
    index.add_items(rows)

    def search(ef: int) -> Search:
        def one(query: np.ndarray) -> Any:
            index.set_ef(ef)
            return index.knn_query(query, K)[0]

        return one

    return [(f"ef {ef}", search(ef)) for ef in (16, 32, 64, 128, 256, 512)]


def usearch(rows: np.ndarray) -> list[tuple[str, Search]]:
    """usearch's graph, by its defaults."""
    from usearch.index import Index

    index = Index(ndim=rows.shape[1], metric="cos", dtype="f32")
    index.add(np.arange(len(rows)), rows)

    def search(ef: int) -> Search:
        def one(query: np.ndarray) -> Any:
            index.expansion_search = ef
            return index.search(query[0], K).keys

        return one

    return [(f"ef {ef}", search(ef)) for ef in (16, 32, 64, 128, 256, 512)]


# the run


def measure(data: Data, targets: Sequence[float], folder: Path, with_others: bool) -> None:
    """Everything about one set of vectors."""
    rows, dimension = data.rows.shape
    print(
        f"\n{data.name}: {rows:,} x {dimension}, {len(data.tune)} queries tune and measure, {len(data.judge)} judge",
        flush=True,
    )
    dataset = lance.write_dataset(table_of(data.rows), str(folder / f"{data.name}.lance"))
    pq = dict(kinds_of(dimension, METRIC))["ivf_pq"]
    pq_s = None
    if rows > 256:
        began = time.perf_counter()
        dataset.create_index("v", **pq, name="v_idx")
        pq_s = time.perf_counter() - began
        dataset.drop_index("v_idx")
        print(f"  IVF_PQ by defaults built in {pq_s:.1f} s", flush=True)
    queries = split(data.tune, "file")
    auto: dict[float, SearchSettings] = {}
    tuned_tables: dict[float, Any] = {}
    most_s = 0.0
    for target in targets:
        table = lance.write_dataset(table_of(data.rows), str(folder / f"{data.name}-{target}.lance"))
        tuned_tables[target] = table
        began = time.perf_counter()
        report = build_index(table, "v", METRIC, "auto", None, Goal(target, K), lambda _: queries)
        took = time.perf_counter() - began
        tuned = report.tuned
        assert tuned is not None
        auto[target], trial = tuned, judge(table, data.judge, tuned)
        spent = tuned.choice_s + tuned.build_s
        most_s = max(most_s, spent)
        met = "met" if trial.interval()[1] >= target else "MISSED"
        print(f"  target {target}: {tuned.index} {tuned.build.get('num_bits', '')} {tuned.effort}; choice {tuned.choice_s:.1f} + build "
              f"{tuned.build_s:.1f} s = {spent / pq_s if pq_s else 0:.2f} of IVF_PQ, with tuning {took:.1f} s; its own figure {tuned.measured.recall:.4f}; "
              f"{met}: {told(trial)}", flush=True)  # fmt: skip
        print(f"    why: {tuned.why}", flush=True)
    if most_s == 0 or all(tuned.effort is None for tuned in auto.values()):
        print("  exact search won: nothing to tune by hand")
        return
    print(f"  by hand, of what is built within {most_s:.0f} s:", flush=True)
    hand = by_hand(dataset, data.judge, targets, max(most_s, 1.0))
    for target, (build, trial) in hand.items():
        dataset.create_index("v", name="v_idx", replace=True, **build)
        ours, theirs = in_turns(tuned_tables[target], auto[target].effort, dataset, trial.effort, data.judge)
        print(
            f"  target {target}: by hand {label(build)} {trial.effort}: {told(trial)}; in turns {theirs:.2f} ms, tuned {ours:.2f} ms: {ours / theirs:.2f} of its time",
            flush=True,
        )
    if with_others:
        truth = find_truth(dataset, "v", METRIC, data.judge, K)[1.0]
        ids = dataset.scanner(columns=["id"], with_row_id=True).to_table()
        place = dict(zip(ids["_rowid"].to_pylist(), ids["id"].to_pylist(), strict=True))
        wanted = np.array([[place[row] for row in line] for line in truth.ids.tolist()])
        others(normed(data.rows), normed(data.judge), wanted, targets)
    if 0.95 in auto:
        print("  target 0.95, filters and appends:", flush=True)
        keep_up(tuned_tables[0.95], data, auto[0.95], queries)


def in_turns(
    tuned: Any, effort: Effort | None, dataset: Any, other: Effort | None, queries: np.ndarray
) -> tuple[float, float]:
    """Median milliseconds of two searches, asked by turns, so that what else the machine does weighs on both."""
    times: tuple[list[float], list[float]] = ([], [])
    truth = empty_truth(1, K, 1.0)
    for query in queries[:300]:
        for at, (table, chosen) in enumerate(((tuned, effort), (dataset, other))):
            times[at].append(run_trial(table, "v", METRIC, K, query[None], truth, chosen).p50_ms)
    return float(np.median(times[0])), float(np.median(times[1]))


def keep_up(dataset: Any, data: Data, tuned: SearchSettings, queries: Any) -> None:
    """Filters, then appends: the target has to hold."""
    for where in ("share = 0", "share < 10"):
        recall, p50 = judge_filter(dataset, data.judge[:200], tuned, where)
        print(f"    filter {where}: recall {recall:.4f}, p50 {p50:.2f} ms", flush=True)
    size = len(data.later) // APPENDS
    again = 0
    began = time.perf_counter()
    for step in range(APPENDS):
        at = step * size
        dataset = lance.write_dataset(
            table_of(data.later[at : at + size], len(data.rows) + at), dataset.uri, mode="append"
        )
        before = read_settings(dataset.schema, "v")
        build_index(dataset, "v", METRIC, "auto", None, None, lambda _: queries)
        again += read_settings(dataset.schema, "v") != before
    now = read_settings(dataset.schema, "v")
    assert now is not None
    trial = judge(dataset, data.judge, now)
    took = time.perf_counter() - began
    print(
        f"    after {APPENDS} appends of {size:,}: {told(trial)}; measured again {again} times, all in {took:.1f} s",
        flush=True,
    )
    for where in ("share = 0", "share < 10"):
        recall, p50 = judge_filter(dataset, data.judge[:200], now, where)
        print(f"    then filter {where}: recall {recall:.4f}, p50 {p50:.2f} ms", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="docs,texts,clustered")
    parser.add_argument("--rows", type=int, default=200_000, help="of the clustered vectors")
    parser.add_argument("--texts", type=int, default=60_000, help="descriptions at most")
    parser.add_argument("--queries", type=int, default=2000, help="half of them judge")
    parser.add_argument("--targets", type=float, nargs="+", default=[0.95, 0.9, 0.99])
    parser.add_argument("--cache", type=Path, default=Path("benchmark-cache"), help="folder of embedded texts")
    parser.add_argument("--no-others", action="store_true", help="leave out FAISS, hnswlib and usearch")
    asked = parser.parse_args()
    names = ("pylance", "numpy", *(() if asked.no_others else ("faiss-cpu", "hnswlib", "usearch")))
    print(
        ", ".join(f"{name} {version(name)}" for name in names),
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        sep="; ",
    )
    for name in asked.data.split(","):
        made = {
            "clustered": lambda: clustered(asked.rows, asked.queries),
            "texts": lambda: texts(asked.cache, asked.texts, asked.queries, "minilm"),
            "words": lambda: texts(asked.cache, asked.texts, asked.queries, "lsa"),
            "docs": lambda: docs(asked.cache),
        }[name]()
        with tempfile.TemporaryDirectory() as folder:
            measure(made, asked.targets, Path(folder), not asked.no_others)
        print(f"  load {os.getloadavg()[0]:.1f}", flush=True)


if __name__ == "__main__":
    main()
