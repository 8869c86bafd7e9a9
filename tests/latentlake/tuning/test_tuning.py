"""An index tuned to a recall: what is chosen, what it finds, by numpy, and how it stays so."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest
from lake_maker import LakeMaker

import latentlake
from latentlake.building import build_index
from latentlake.provenance import read_provenance
from latentlake.tuning import choice, tune, upkeep
from latentlake.tuning.choice import Candidate, decide, kinds_of
from latentlake.tuning.goal import Goal
from latentlake.tuning.queries import Queries, split
from latentlake.tuning.settings import Effort, SearchSettings, read_settings, write_settings
from latentlake.tuning.trials import find_truth, run_trial, share_filter
from operators.chain import Chain
from operators.embedders.hashing import Config

DIM, ROWS, K = 32, 1500, 10
QUICK = {"ivf_rq", "ivf_flat", "ivf_sq"}


def let_small_tables_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an index be chosen however fast exact search is, among kinds that are built at once."""
    monkeypatch.setattr(choice, "EXACT_MS", 0.0)
    monkeypatch.setattr(choice, "EXACT_GAIN", 0.0)
    monkeypatch.setattr(upkeep, "SLOWER", 1e9)  # a busy machine is no reason to tune again
    every = kinds_of
    monkeypatch.setattr(
        choice,
        "kinds_of",
        lambda *a: [kind for kind in every(*a) if kind[0] in QUICK and kind[1].get("num_bits", 1) == 1],
    )


def let_exact_search_seem_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of a large table is."""
    real = tune.Column.attempt

    def attempt(self: Any, effort: Any, *how: Any, **named: Any) -> Any:
        trial = real(self, effort, *how, **named)
        if effort is None:
            trial.ms[:] = 10_000.0
        return trial

    monkeypatch.setattr(tune.Column, "attempt", attempt)


@pytest.fixture(autouse=True)
def small_tables_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    let_small_tables_gain(monkeypatch)


@pytest.fixture
def slow_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    let_exact_search_seem_slow(monkeypatch)


def make_vectors(rows: int, seed: int, dim: int = DIM, spread: float = 0.5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((60, dim))
    return (centres[rng.integers(0, 60, rows)] + spread * rng.standard_normal((rows, dim))).astype("f4")


def write_vectors(
    maker: LakeMaker, vectors: np.ndarray, metric: str = "cosine", mode: str = "create", **how: Any
) -> Any:
    field = maker.vector_field("words", Config(dim=vectors.shape[1]), Chain("text"), "float32", metric)
    data = {"id": [f"{mode}{how}{row}" for row in range(len(vectors))], "number": list(range(len(vectors)))}
    return maker.write("vectors", data, {"words": (field, vectors)}, mode, **how)


def nearest_by_numpy(rows: np.ndarray, queries: np.ndarray, metric: str, k: int = K) -> np.ndarray:
    """Places of the nearest rows, (queries, k)."""
    if metric == "cosine":
        rows, queries = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (rows, queries))
    far = ((rows[None].astype("f8") - queries[:, None]) ** 2).sum(axis=2) if metric != "dot" else -(queries @ rows.T)
    return np.argsort(far, axis=1, kind="stable")[:, :k]


def recall_of_search(uri: str, rows: np.ndarray, queries: np.ndarray, metric: str, where: str | None = None) -> float:
    """Recall@k of `Table.search`, by numpy. Rows are known by their number."""
    table = latentlake.connect(uri).open("vectors")
    numbers = np.array(table.to_arrow(["number"], where=where)["number"])
    truth = numbers[nearest_by_numpy(rows[numbers], queries, metric)]
    hits = 0
    for query, wanted in zip(queries, truth, strict=True):
        found = table.search(query, k=K, where=where, columns=["number"]).to_arrow()["number"].to_pylist()
        hits += len(set(found) & set(wanted.tolist()))
    return hits / truth.size


@pytest.mark.parametrize("metric", ["cosine", "l2", "dot"])
def test_truth_is_what_numpy_says(maker: LakeMaker, metric: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("latentlake.tuning.trials.BATCH_ROWS", 100)
    rows, queries = make_vectors(500, 1), make_vectors(7, 2)
    dataset = write_vectors(maker, rows, metric, no_vector=[3, 4])
    found = find_truth(dataset, "words", metric, queries, 5, (1.0, 0.1))
    numbers = np.array(dataset.to_table(columns=["number"], filter="words IS NOT NULL")["number"])
    ids = dataset.scanner(columns=["number"], with_row_id=True).to_table()
    place = dict(zip(ids["_rowid"].to_pylist(), ids["number"].to_pylist(), strict=True))
    assert found[1.0].share == 1
    assert [[place[i] for i in row] for row in found[1.0].ids] == numbers[
        nearest_by_numpy(rows[numbers], queries, metric, 5)
    ].tolist()
    kept = np.array(dataset.to_table(columns=["number"], filter=f"words IS NOT NULL AND {share_filter(0.1)}")["number"])
    assert 30 <= len(kept) <= 70
    assert [[place[i] for i in row] for row in found[0.1].ids] == kept[
        nearest_by_numpy(rows[kept], queries, metric, 5)
    ].tolist()


def test_recall_on_a_sample_is_near_that_on_all_rows(maker: LakeMaker, monkeypatch: pytest.MonkeyPatch):
    dataset = write_vectors(maker, make_vectors(ROWS, 1))
    dataset.create_index("words", "IVF_SQ", metric="cosine", num_partitions=20)
    queries, effort = make_vectors(300, 2, spread=1.0), Effort(0.3, 1)
    ask = lambda: run_trial(  # noqa: E731
        dataset, "words", "cosine", K, queries, find_truth(dataset, "words", "cosine", queries, K)[1.0], effort
    )
    whole = ask()
    monkeypatch.setattr("latentlake.tuning.trials.TRUTH_BYTES", ROWS // 3 * DIM * 4)
    monkeypatch.setattr("latentlake.tuning.trials.BATCH_ROWS", 100)
    monkeypatch.setattr("latentlake.recall.RUN_ROWS", 100)
    sample = ask()
    assert 0.9 < whole.recall < 0.99 and whole.due.sum() == K * len(queries) > sample.due.sum()
    assert sample.recall == pytest.approx(whole.recall, abs=0.03)
    low, high = whole.interval()
    assert low < whole.recall < high and high - low < 0.1


@pytest.mark.usefixtures("slow_exact")
@pytest.mark.parametrize("target", [0.9, 0.99])
def test_search_finds_what_it_was_tuned_to_and_what_is_told_is_true(maker: LakeMaker, target: float):
    rows, queries, others = make_vectors(ROWS, 1), make_vectors(200, 2, spread=0.8), make_vectors(200, 3, spread=0.8)
    dataset = write_vectors(maker, rows)
    report = build_index(dataset, "words", "cosine", "auto", None, Goal(target, K), lambda _: split(queries, "file"))
    settings = read_settings(lance.dataset(dataset.uri).schema, "words")
    assert report.tuned == settings and settings is not None
    assert report.type == settings.index != "exact" and report.recall == settings.measured.recall
    assert settings.measured.queries == 100 and settings.queries_from == "file"
    assert recall_of_search(maker.uri, rows, others, "cosine") >= target - 0.01
    assert recall_of_search(maker.uri, rows, split(queries, "file").measure, "cosine") == pytest.approx(
        settings.measured.recall, abs=1e-4
    )
    assert settings.measured.low <= settings.measured.recall <= settings.measured.high
    assert [found.share for found in settings.filtered] == [0.5, 0.1, 0.01]
    for where in ("number % 10 = 3", "number % 100 = 5", "number % 2 = 0"):
        assert recall_of_search(maker.uri, rows, others, "cosine", where) >= target - 0.015, where
    few = f"number % {ROWS // 20} = 7"  # 20 rows, fewer than any share that was measured: all are compared
    assert recall_of_search(maker.uri, rows, others[:50], "cosine", few) == 1.0


def test_exact_search_is_taken_where_an_index_is_no_faster(maker: LakeMaker, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(choice, "EXACT_GAIN", 1e9)
    dataset = write_vectors(maker, make_vectors(ROWS, 1))
    report = build_index(
        dataset, "words", "cosine", "auto", None, Goal(0.95), lambda _: split(make_vectors(80, 2), "file")
    )
    assert report.tuned is not None
    assert (report.type, report.recall, dataset.describe_indices()) == ("exact", None, [])
    assert "exact search takes" in report.tuned.why


def test_the_fastest_wins_and_of_equals_the_one_that_is_built_first():
    exact = Candidate("exact", {}, 1.0, 50.0, 50.0)
    slow = Candidate("ivf_sq", {"index_type": "IVF_SQ"}, 0.97, 4.0, 4.0, 1.0)
    fast = Candidate("ivf_hnsw_flat", {"index_type": "IVF_HNSW_FLAT"}, 0.97, 2.0, 2.0, 60.0)
    near = Candidate("ivf_rq", {"index_type": "IVF_RQ", "num_bits": 1}, 0.97, 2.1, 2.1, 3.0)
    short = Candidate("ivf_pq", {"index_type": "IVF_PQ"}, 0.7, 1.0, 1.0, 3.0, left_out="finds 0.700 at most")
    assert decide([exact, slow, fast, near, short], 0.95, 1000, 1.0).chosen == near
    assert decide([exact, slow, fast], 0.95, 1000, 1.0).chosen == fast
    assert decide([exact, short], 0.95, 1000, 1.0).chosen == exact
    assert decide([Candidate("exact", {}, 1.0, 1.0, 1.0), slow], 0.95, 1000, 1.0).chosen.name in ("ivf_sq", "exact")


def test_every_kind_is_among_the_candidates():
    every = {(name, build.get("num_bits")) for name, build in kinds_of(384, "cosine")}
    graphs = {("ivf_hnsw_sq", None), ("ivf_hnsw_flat", None)}
    assert every == {("ivf_rq", bits) for bits in (1, 2, 4, 8)} | graphs | {
        ("ivf_pq", None),
        ("ivf_sq", None),
        ("ivf_flat", None),
    }
    assert "ivf_rq" not in {name for name, _ in kinds_of(20, "cosine")}
    assert kinds_of(8, "hamming") == [("ivf_flat", {"index_type": "IVF_FLAT", "metric": "hamming"})]


@pytest.mark.usefixtures("slow_exact")
@pytest.mark.parametrize("kind", ["ivf_hnsw_flat", "ivf_hnsw_sq", "ivf_pq", "ivf_rq", "ivf_sq", "ivf_flat"])
def test_a_kind_that_is_asked_for_is_tuned(maker: LakeMaker, kind: Any):
    rows = make_vectors(800, 1)
    dataset = write_vectors(maker, rows, "l2")
    report = build_index(dataset, "words", "l2", kind, None, Goal(0.95), lambda _: split(make_vectors(80, 2), "file"))
    assert report.type == kind and report.tuned is not None and report.tuned.why == "the job names it"
    assert recall_of_search(maker.uri, rows, make_vectors(50, 5), "l2") >= 0.93
    table = latentlake.connect(maker.uri).open("vectors")
    far = ((rows - rows[0]) ** 2).sum(axis=1)
    found = table.search(rows[0], k=30, columns=["number"]).to_arrow()  # more than it was tuned for
    assert found.num_rows == 30
    wanted = far[np.array(found["number"])]
    assert np.allclose(
        found["_distance"].to_numpy(), wanted, rtol=1e-3, atol=1e-3
    )  # true distances, whatever is quantised


def test_odd_tables_are_tuned_too(maker: LakeMaker, tmp_path: Path):
    queries = lambda dim: lambda _: split(make_vectors(60, 2, dim), "file")  # noqa: E731
    nothing = write_vectors(maker, make_vectors(10, 1), no_vector=list(range(10)))
    report = build_index(nothing, "words", "cosine", "auto", None, Goal(0.95))
    assert (report.type, report.rows, report.recall) == ("exact", 0, None)
    few = write_vectors(LakeMaker(str(tmp_path / "few")), make_vectors(40, 1))
    report = build_index(few, "words", "cosine", "auto", None, Goal(0.95))
    assert report.tuned is not None
    assert (report.type, report.tuned.queries_from, report.tuned.measured.recall) == ("exact", "rows", 1.0)
    zeros = write_vectors(LakeMaker(str(tmp_path / "zeros")), np.zeros((400, DIM), "f4"))  # no query comes of them
    report = build_index(zeros, "words", "cosine", "ivf_flat", None, Goal(0.95))
    assert report.tuned is not None and (report.type, report.tuned.why) == (
        "exact",
        "there are no queries to tune with",
    )
    odd = write_vectors(LakeMaker(str(tmp_path / "odd")), make_vectors(1500, 1, 20))
    assert build_index(odd, "words", "cosine", "auto", None, Goal(0.95), queries(20)).type in (
        "ivf_sq",
        "ivf_flat",
        "exact",
    )


@pytest.mark.usefixtures("slow_exact")
def test_bits_are_tuned_to_their_own_distance(tmp_path: Path):
    rng = np.random.default_rng(0)
    bits = np.packbits(rng.random((2000, 64)) < 0.5, axis=1)
    flips = np.packbits(rng.random((100, 64)) < 0.1, axis=1)
    column = pa.FixedSizeListArray.from_arrays(pa.array(bits.reshape(-1)), 8)
    dataset = lance.write_dataset(pa.table({"words": column}), tmp_path / "bits.lance")
    asked = split(bits[:100] ^ flips, "file")
    report = build_index(dataset, "words", "hamming", "auto", None, Goal(0.95), lambda _: asked)
    assert report.type == "ivf_flat" and report.tuned is not None and report.tuned.measured.recall >= 0.93
    moved = build_index(dataset, "words", "hamming", "auto", None, Goal(0.9))  # another goal, and no queries
    assert moved.tuned is not None and moved.tuned.queries_from == "rows"


QUERIES = split(make_vectors(80, 2), "file")


@pytest.fixture(scope="module")
def tuned_lake(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A lake with a table that was tuned with `QUERIES`."""
    maker = LakeMaker(str(tmp_path_factory.mktemp("tuned")))
    dataset = write_vectors(maker, make_vectors(ROWS, 1))
    with pytest.MonkeyPatch.context() as patch:
        let_small_tables_gain(patch)
        let_exact_search_seem_slow(patch)
        assert build_index(dataset, "words", "cosine", "auto", None, Goal(0.9, K), lambda _: QUERIES).tuned is not None
    return maker.uri


@pytest.fixture
def tuned(tuned_lake: str, maker: LakeMaker) -> tuple[Any, SearchSettings]:
    """A copy of that table, in the lake of `maker`, and its settings."""
    shutil.copytree(tuned_lake, maker.uri, dirs_exist_ok=True)
    dataset = lance.dataset(f"{maker.uri}/vectors.lance")
    settings = read_settings(dataset.schema, "words")
    assert settings is not None
    return dataset, settings


@pytest.mark.usefixtures("slow_exact")
def test_an_extension_within_the_bounds_keeps_what_was_measured(maker: LakeMaker, tuned: tuple[Any, SearchSettings]):
    _, before = tuned
    dataset = write_vectors(maker, make_vectors(100, 7), mode="append")
    version = dataset.version

    def none(_: Any) -> Queries:
        raise AssertionError("nothing is measured")

    report = build_index(dataset, "words", "cosine", "auto", None, None, none)
    assert report.tuned == before and report.measured_at == before.measured_at < version
    assert (report.added, report.rows) == (100, ROWS + 100)
    assert dataset.version == version + 1  # the extension alone
    null = write_vectors(maker, make_vectors(5, 8), mode="append", no_vector=range(5))
    assert len(before.segments) == 1 and upkeep.bounds_passed(null, "words", ROWS + 100, before) is None
    assert build_index(null, "words", "cosine", "auto", None, None, none).tuned == before
    assert build_index(null, "words", "cosine", "auto", None, Goal(0.9, K), none).tuned == before


@pytest.mark.usefixtures("slow_exact")
def test_a_merge_of_segments_is_a_bound(maker: LakeMaker, tuned: tuple[Any, SearchSettings]):
    _, before = tuned
    dataset = write_vectors(maker, make_vectors(50, 7), mode="append")
    build_index(dataset, "words", "cosine", "auto", None, None, lambda _: QUERIES)
    dataset.optimize.optimize_indices(num_indices_to_merge=2)
    assert upkeep.bounds_passed(dataset, "words", ROWS + 50, before) == "its segments are other ones"
    report = build_index(dataset, "words", "cosine", "auto", None, None, lambda _: QUERIES)
    assert report.measured_at is not None and report.measured_at > before.measured_at
    assert build_index(dataset, "words", "cosine", "auto", None, None).tuned == report.tuned  # once is enough


@pytest.mark.usefixtures("slow_exact")
def test_past_a_bound_recall_is_measured_again_and_the_version_told(
    maker: LakeMaker, tuned: tuple[Any, SearchSettings]
):
    _, before = tuned
    dataset = write_vectors(maker, make_vectors(ROWS // 3, 7), mode="append")
    report = build_index(dataset, "words", "cosine", "auto", None, None, lambda _: QUERIES)
    assert report.tuned is not None and report.tuned.rows == ROWS + ROWS // 3
    assert report.measured_at is not None and report.measured_at > before.measured_at
    assert report.tuned.measured.high >= 0.9


@pytest.mark.usefixtures("slow_exact")
def test_an_index_that_misses_its_target_is_tuned_again_then_built_again(
    tuned: tuple[Any, SearchSettings], monkeypatch: pytest.MonkeyPatch
):
    queries = split(make_vectors(60, 2, spread=0.8), "file")
    dataset, before = tuned
    # Partitions that are far too fine, as an older release made them, searched with the least effort.
    worse = Effort(0.0, before.effort.refine_factor if before.effort else None)
    dataset.create_index(
        "words", "IVF_RQ", name="words_idx", metric="cosine", num_bits=1, num_partitions=25, replace=True
    )
    found = SearchSettings(
        **{**vars(before), "effort": Effort(0.0, 1), "index": "ivf_rq", "partitions": 4, "segments": ()}
    )
    write_settings(dataset, "words", found)
    assert "partitions" in str(upkeep.bounds_passed(dataset, "words", ROWS, found))
    report = build_index(dataset, "words", "cosine", "auto", None, None, lambda _: queries)
    assert report.tuned is not None and report.tuned.effort not in (worse, None)
    assert report.tuned.measured.high >= 0.9 and report.tuned.partitions == 25  # tuned again was enough
    built: list[str] = []
    monkeypatch.setattr(upkeep, "tune_index", lambda *a: built.append("built"))
    monkeypatch.setattr(upkeep, "holds", lambda *_: False)
    upkeep.check_tuned(dataset, "words", "cosine", ROWS, report.tuned, lambda _: queries, always=True)
    assert built == ["built"]


def test_a_column_is_tuned_again_where_the_job_asks_for_something_else():
    found = SearchSettings("ivf_rq", Effort(0.5, 5), 0.9, 10, None, 1, "file", asked="ivf_rq")  # type: ignore[arg-type]
    other = upkeep.asks_other
    assert (
        not other(found, Goal(0.9, 10), "ivf_rq")
        and not other(found, None, "ivf_rq")
        and not other(found, None, "auto")
    )
    assert (
        other(found, Goal(0.95, 10), "ivf_rq") and other(found, Goal(0.9, 10), "auto") and other(found, None, "ivf_pq")
    )


@pytest.mark.usefixtures("slow_exact")
def test_without_a_target_nothing_is_tuned_and_none_drops_the_tuning(tuned: tuple[Any, SearchSettings]):
    dataset, _ = tuned
    assert build_index(dataset, "words", "cosine", "none").type == "exact"
    assert dataset.describe_indices() == [] and read_settings(dataset.schema, "words") is None
    assert build_index(dataset, "words", "cosine").tuned is None


@pytest.mark.usefixtures("slow_exact")
def test_a_roll_back_restores_the_settings_with_the_index(tuned: tuple[Any, SearchSettings]):
    dataset, before = tuned
    version = dataset.version
    build_index(dataset, "words", "cosine", "none")
    dataset.checkout_version(version).restore()
    again = lance.dataset(dataset.uri)
    assert read_settings(again.schema, "words") == before
    assert [d.index_type.lower() for d in again.describe_indices()] == [before.index]
    assert read_provenance(again.schema, "words").metric == "cosine"
