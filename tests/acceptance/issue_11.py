"""Acceptance lines of clusters, schedules and what watches them. `make acceptance` runs and prints them; all are real processes.

Airflow's (line 4) is `make test-airflow RUNS=20`, which has an environment of its own. Line 1 needs a GPU: `benchmarks/gpu.py`.
"""

from __future__ import annotations

from collections.abc import Callable

from lines import Line, Setting, prove, run_benchmark

TOLERANCE = 0.2  # of the seconds and of the rows per second that a plan names after a calibration


def submitted(setting: Setting) -> Line:
    """2: jobs that are submitted to a Ray with a token."""
    return prove(
        setting,
        "submitted from a clean folder: published, own exit codes and reasons, re-attached, resumed; the submitter and the driver killed",
        *("tests/clusters/test_submit.py", "tests/faults/test_submitted_jobs.py", "--faults"),
    )


def growing(setting: Setting) -> Line:
    """3: a pool on a cluster that grows and shrinks."""
    return prove(
        setting,
        "submitted to 2 + 2 CPUs: the pool grows when the second node joins; it is killed; the table is a clean run's",
        *("tests/faults/test_growing_pool.py", "--faults"),
    )


def manifests(setting: Setting) -> Line:
    """5: what is printed for Kubernetes, and where secrets are."""
    return prove(
        setting,
        "every manifest holds to the CRDs and the operator's rules; misspelt fields are named; a planted key is in no manifest",
        *("tests/clusters/test_kuberay.py", "tests/clusters/test_infra.py", "tests/clusters/test_profile.py"),
        *("tests/clusters/test_profile_kinds.py", "tests/clusters/test_launcher.py", "tests/clusters/test_tick.py"),
        *("tests/pipelines/test_manifests.py", "tests/faults/test_kuberay_job.py", "--faults"),
    )


def watched(setting: Setting) -> Line:
    """6: metrics, dashboard and rules."""
    return prove(
        setting,
        "a run is scraped: every metric that dashboard and rules name is there; promtool passes",
        *("tests/infra", "tests/pipelines/test_metrics.py", "--faults"),
    )


def forecast(setting: Setting) -> Line:
    """8 (6 in the issue, its second half): the plan against the fact."""
    found = run_benchmark(setting, "forecast")["jobs"]
    ratios = {name: {key: one["ratio"] for key, one in rounds[0].items()} for name, rounds in found.items()}
    return Line(
        f"seconds and rows/s within {TOLERANCE:.0%} of what `plan` names after `calibrate`, on three jobs",
        "; ".join(
            f"{name}: seconds x {one['seconds']:.2f}, rows/s x {one['rows_per_s']:.2f}" for name, one in ratios.items()
        ),
        len(ratios) == 3 and all(abs(ratio - 1) <= TOLERANCE for one in ratios.values() for ratio in one.values()),
    )


def documents(setting: Setting) -> Line:
    """7: what the documents print runs."""
    return prove(
        setting,
        "every command and code block of the docs runs, notebooks too",
        *("tests/test_docs.py", "tests/test_doc_commands.py", "tests/test_doc_tables.py"),
    )


LINES: dict[int, Callable[[Setting], Line]] = {}
TIMINGS: dict[int, Callable[[Setting], Line]] = {
    2: submitted,
    3: growing,
    5: manifests,
    6: watched,
    7: documents,
    8: forecast,
}
