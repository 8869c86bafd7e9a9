"""Acceptance lines of search, indexes, evaluation, gates, bridges and exploration. `make acceptance` runs and prints them.

Line 1 (indexes beside FAISS, hnswlib and usearch) is `python benchmarks/index.py`, which needs the extra `bench`.
"""

from __future__ import annotations

from collections.abc import Callable

from lines import Line, Setting, prove, run_benchmark

EXACT_GAIN, INDEX_GAIN = 8, 1.5  # times faster per query, in batches
SAME_RECALL = 0.005
BRIDGE_SHARE = 0.95
PEAK_MB = 2000


def batches(setting: Setting) -> Line:
    """2: many searches at once, and hybrid search beside its parts."""
    found = run_benchmark(setting, "search")
    gains = {name: one["single_ms"] / one["many_ms"] for name, one in found.items()}
    same = all(one["many_recall"] >= one["single_recall"] - SAME_RECALL for one in found.values())
    ways = {name: one["nDCG@10"] for name, one in run_benchmark(setting, "hybrid", "--data", str(setting.data)).items()}
    parts = max(ways["vector"], ways["text"])
    hybrid = [value for name, value in ways.items() if name not in ("vector", "text")]
    return Line(
        f">= {EXACT_GAIN} x exact, >= {INDEX_GAIN} x through an index, at the same recall; hybrid beside both of its parts",
        f"{gains['exact']:.1f} x exact, {gains['index']:.1f} x indexed, recall the same: {same}; nDCG@10 on Cranfield: "
        + ", ".join(f"{name} {value:.3f}" for name, value in ways.items()),
        gains["exact"] >= EXACT_GAIN and gains["index"] >= INDEX_GAIN and same and min(hybrid) > parts,
    )


def evaluation(setting: Setting) -> Line:
    """3: figures of the libraries."""
    return prove(
        setting,
        "Cranfield equals pytrec_eval on numpy rankings to 1e-6; STS-B, WordSim-353, analogies an independent computation; MTEB the same nDCG",
        "tests/latentlake/evaluation",
        environment={"LATENTLAKE_ALL_DATA": "1"},
    )


def gates(setting: Setting) -> Line:
    """4: a worse model is blocked."""
    return prove(
        setting,
        "16 dimensions are blocked; readers of prod never see them; a roll back restores the answers; nothing ungated is published",
        *("tests/pipelines/test_worse_model.py", "tests/pipelines/test_tag_history.py", "tests/faults/test_ungated.py"),
        "--faults",
    )


def bridge(setting: Setting) -> Line:
    """5: queries of one model on the vectors of another."""
    chosen = [one for one in run_benchmark(setting, "bridge") if one["queries"] == "align, all methods"]
    every, few = sorted(chosen, key=lambda one: -one["pairs"])
    return Line(
        f"what `align` chooses keeps >= {BRIDGE_SHARE:.0%} of the old column's native nDCG@10 on Cranfield, MiniLM mean -> CLS",
        f"{every['share']:.1%} of it with {every['pairs']} pairs ({every['chosen']}), {few['share']:.1%} with {few['pairs']}",
        every["share"] >= BRIDGE_SHARE,
    )


def exploration(setting: Setting) -> Line:
    """6: as scikit-learn has it, and what a browser shows."""
    return prove(
        setting,
        "duplicates, outliers, clusters and probes as scikit-learn has them; pages open in Chromium without requests or scripts of the data",
        *(
            "tests/latentlake/test_duplicates.py",
            "tests/latentlake/test_outliers.py",
            "tests/latentlake/test_clusters.py",
        ),
        *("tests/latentlake/test_maps.py", "tests/latentlake/test_plots.py", "tests/pipelines/test_report_page.py"),
        *("tests/pipelines/test_stored_maps.py", "tests/latentlake/evaluation/test_probes.py"),
    )


def memory(setting: Setting) -> Line:
    """7: what 10^6 rows cost."""
    found = [one for name in ("evaluation", "exploring") for one in run_benchmark(setting, name)]
    peak = max(one["peak_mb"] for one in found)
    return Line(
        f"evaluating and exploring 10^6 rows stays under {PEAK_MB} MB",
        f"at most {peak} MB; " + ", ".join(f"{one.get('kind') or one.get('call')} {one['peak_mb']}" for one in found),
        peak < PEAK_MB,
    )


LINES: dict[int, Callable[[Setting], Line]] = {}
TIMINGS: dict[int, Callable[[Setting], Line]] = {
    2: batches,
    3: evaluation,
    4: gates,
    5: bridge,
    6: exploration,
    7: memory,
}
