"""What `calibrate` measures and keeps, and what `plan` makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from job_maker import make_job, open_table, run, write_texts
from run_maker import lake_of, resolved

from clusters import Capacity, Node
from pipelines.calibration import calibrate_job
from pipelines.job.jobfile import parse_job
from pipelines.jobs import plan_job
from pipelines.planning.calibrations import Calibration, best_calibration, read_calibrations
from pipelines.planning.forecast import FAR, RAY_START_S, SPREAD, Work, forecast_run
from pipelines.planning.machines import place_pools
from pipelines.planning.plan import fingerprints_of
from pipelines.planning.pools import Pool
from pipelines.publish.pace import Pace
from pipelines.state.ledger import CALIBRATED, WORK_FOLDER, record_run

CPU = Pool("h", 1, 1, 2, 0.5, 0, 1, "cpu")
GPU = Pool("h", 1, 1, 4, 1.0, 1.0, 4, "cuda")
L4 = {"device": "cuda", "accelerator": "NVIDIA L4", "threads": 4, "rows_per_s": 50.0, "rows_per_object": 1.0}
GROUPS = [
    {"name": "cpu", "cpus": 8, "memory_mb": 32_000, "min": 1, "max": 2, "price_per_hour": 0.5},
    {"name": "gpu", "cpus": 4, "memory_mb": 16_000, "gpus": 1, "accelerator": "L4", "max": 4, "price_per_hour": 2, "spot": True},
]  # fmt: skip
CLUSTER = {"kind": "kuberay", "image": "i", "worker_groups": GROUPS, "head": {"price_per_hour": 0.25}}


def known(runner: str = "ray", measured: Mapping[str, Any] | None = None, **changes: Any) -> Calibration:
    """100 objects and rows: 10 s of reading, 100 of the model, 5 of writing; and 2, 6 and 1 that come once."""
    made = {
        "run_id": "r",
        "measured_at": datetime(2026, 1, 1, tzinfo=UTC),
        "sampled": True,
        "runner": runner,
        "fingerprints": {"h": "f"},
        "columns": {"h": {"calibration": measured or {**L4, "device": "cpu", "accelerator": None, "threads": 1}}},
        "stages": {
            "read": {"seconds": 12.0, "warm_s": 2.0, "objects": 100, "bytes": 1000},
            "embed": {"h": {"seconds": 106.0, "warm_s": 6.0, "rows": 100}},
            "write": {"seconds": 6.0, "warm_s": 1.0, "rows": 100},
        },
        "seconds": {"setup": 20.0, "stream": 124.0, "commit": 1.0, "index": 2.0},
    }
    return Calibration(**made | changes)


def test_without_ray_the_stages_follow_one_another():
    found = forecast_run(known("inline"), Work(1000, 10_000, 10, "inline", [replace(CPU, max=1)], 2))
    stream = 10 * (10 + 100 + 5) + 9
    assert found.stream_s == pytest.approx((stream / SPREAD, stream, stream * SPREAD))
    assert found.seconds[1] == pytest.approx(20 + stream + 3)
    assert found.rows == 1000 and not found.far


def test_through_ray_the_slowest_pool_sets_the_pace():
    found = forecast_run(known(), Work(1000, 10_000, 10, "ray", [CPU], 100))
    # Two actors have 1000 s of work; the first shard is read and the last written; they get warm side by side.
    assert found.stream_s[1] == pytest.approx(500 + 15 / 10 + 3 + 3)
    assert found.idle == {"h": pytest.approx(1 - 500 / 507.5)}


def test_through_ray_all_cpus_may_be_too_few():
    found = forecast_run(known(), Work(1000, 10_000, 10, "ray", [CPU], 1))
    assert found.stream_s[1] == pytest.approx(10 * (10 + 100 + 5) + 15 / 10 + 6)


def test_the_models_of_gpus_leave_the_cpus_to_reading():
    found = forecast_run(known(measured=L4), Work(1000, 0, 10, "ray", [GPU], 4))
    assert found.stream_s[1] == pytest.approx(1000 / 4 + 15 / 10 + 6 / 4 + 3)


def test_the_models_of_a_service_take_no_cpus_and_know_no_threads():
    served = known(columns={"h": {"calibration": None}})
    found = forecast_run(served, Work(1000, 0, 10, "ray", [replace(CPU, threads=7)], 1))
    assert found.stream_s[1] == pytest.approx(max(1000 / 2, 10 * 15) + 15 / 10 + 3 + 3) and not found.far
    spec = resolved({**JOB_OF_ONE_COLUMN})
    served = known(columns={"h": {"calibration": None}}, fingerprints=fingerprints_of(spec))
    assert served.fault(spec, [CPU], []) == "no run has measured 'h' as this job makes it"  # hashing is no service


def test_bytes_and_objects_are_two_guesses():
    found = forecast_run(known("inline"), Work(1000, 20_000, 10, "inline", [replace(CPU, max=1)], 2))
    low, expected, high = found.stream_s
    assert low == pytest.approx((115 * 10 + 9) / SPREAD) and high == pytest.approx((115 * 20 + 9) * SPREAD)
    assert expected == pytest.approx(115 * 10 + 9)


def test_another_runner_or_other_threads_make_the_range_wide():
    other = forecast_run(known("inline"), Work(100, 0, 10, "ray", [CPU], 100))
    assert other.far and other.start_s == (20, 20 + RAY_START_S, 20 + 2 * RAY_START_S)
    assert forecast_run(known(measured=L4), Work(100, 0, 10, "ray", [GPU], 100, mixed=True)).far
    threads = forecast_run(known(), Work(100, 0, 10, "ray", [replace(CPU, threads=2)], 100))
    assert threads.stream_s[1] < forecast_run(known(), Work(100, 0, 10, "ray", [CPU], 100)).stream_s[1]
    assert threads.stream_s[2] == pytest.approx(threads.stream_s[1] * FAR)


def test_the_first_shard_of_a_worker_tells_what_comes_once():
    pace = Pace()
    for worker, shards in {"a": [(0, 7, 10), (7, 2, 10)], "b": [(9, 4, 20), (0, 6, 10)]}.items():
        for began, seconds, done in shards:
            pace.add(began, seconds, done, worker)
    assert pace.per_s == pytest.approx(30 / 6)
    assert pace.warm_s == pytest.approx(7 + 6 - 20 / 5)
    alone = Pace()
    alone.add(0, 5, 10)
    assert (alone.per_s, alone.warm_s) == (2, 0)
    assert Pace().per_s is None


def test_actors_are_placed_on_the_machines_that_have_what_they_need():
    capacity = Capacity((Node(4, 1, 0, "gpu"), Node(4, 1, 0, "gpu"), Node(8, 0, 0, "cpu")))
    gpu, cpu = place_pools([replace(GPU, max=2), replace(CPU, column="c", max=3)], capacity)
    assert (gpu.name, gpu.most, gpu.at_work, gpu.actors) == ("gpu", 2, 2, {"h": 2})
    assert (cpu.name, cpu.at_work, cpu.actors) == ("cpu", 1, {"c": 3})


def make(folder: Path, **embed: Any) -> dict[str, Any]:
    source = write_texts(folder / "in", {f"{n:03}.txt": f"text number {n} about {n % 3}" for n in range(40)})
    hashing = {"column": "h", "family": "hashing", "dim": 8, "delay_ms": 5, **embed}
    return make_job(folder, source, embed=[hashing])


def test_a_plan_after_a_calibration_tells_what_a_run_will_take(tmp_path: Path):
    job = make(tmp_path)
    missing = plan_job(job, runner="inline")["forecast"]
    assert missing == {
        "missing": "no run of this table has measured anything. Measure it on a sample: latentlake calibrate JOB"
    }
    lake_of(job).child(WORK_FOLDER, "_calibration-20250101T000000-abcdef").put("x", b"of a process that was killed")
    found = calibrate_job(parse_job(job), 20, runner="inline")
    assert {(one["threads"], one["batch_cost"]) for one in found["speeds"]} >= {(1, 512), (1, 1024), (1, 2048)}
    assert all(0 < one["rows_per_s"] <= 200 for one in found["speeds"])  # it sleeps for 5 ms a row
    (report,) = found["runs"]
    assert report["stages"]["read"]["objects"] == report["stages"]["embed"]["h"]["rows"] == 20
    lake = lake_of(job)
    assert lake.child(WORK_FOLDER).list_names() == ["_runs"] and sorted(lake.list_names()) == [
        "_latentlake",
        "_runs.lance",
    ]
    (kept,) = read_calibrations(lake, "t")
    assert (kept.sampled, kept.runner, kept.rows) == (True, "inline", 20)
    told = plan_job(job, runner="inline")["forecast"]
    low, expected, high = told["stream_seconds"].values()
    assert low < expected < high and expected > 40 * 0.005
    assert told["seconds"]["expected"] > expected and "a sample" in told["stands_on"][0]
    assert told["cost"] == "not known: the cluster profile states no price_per_hour for machine"
    fact = run(job)
    assert len(open_table(job).to_arrow()) == 40
    assert [one.sampled for one in read_calibrations(lake, "t")] == [False, True]
    assert fact["stages"]["read"]["objects"] == 40


def test_a_calibration_of_what_cannot_be_embedded_says_nothing(tmp_path: Path):
    job = make_job(tmp_path, write_texts(tmp_path / "in", {"a.txt": "", "b.txt": " "}))
    assert calibrate_job(parse_job(job), 2, runner="inline")["speeds"] == []
    assert "has measured 'h' as this job makes it" in plan_job(job, runner="inline")["forecast"]["missing"]


def remember(job: Mapping[str, Any], measured: Mapping[str, Any], rows: int = 1000) -> None:
    """A run of the job that measured its model so, 10 rows per second in all stages."""
    spec = resolved(job)
    report = {
        "runner": "ray: asked for",
        "fingerprints": fingerprints_of(spec),
        "columns": {"h": {"calibration": dict(measured)}},
        "stages": {
            "read": {"seconds": rows / 100, "warm_s": 0, "objects": rows, "bytes": 0},
            "embed": {"h": {"seconds": rows / 10, "warm_s": 0, "rows": rows}},
            "write": {"seconds": rows / 100, "warm_s": 0, "rows": rows},
        },
        "seconds": {"setup": 60, "stream": 1, "commit": 1, "index": 1},
    }
    line = {"run_id": f"r{rows}", "table": "t", "job": "job", "state": CALIBRATED, "started_at": datetime.now(UTC)}
    record_run(lake_of(job), {**line, "report": report})


def test_a_plan_for_a_cluster_tells_machines_and_money(tmp_path: Path, minilm: str):
    source = write_texts(tmp_path / "in", {f"{n:03}.txt": f"text {n}" for n in range(400)})
    embed = {"column": "h", "family": "sentence_transformers", "model": minilm}
    job = make_job(tmp_path, source, embed=[embed], shard={"max_objects": 50})
    first = plan_job(job, cluster=CLUSTER)
    gpu, cpu = first["machines"]
    assert (gpu["group"], gpu["with_actors"], gpu["actors"], gpu["spot"], gpu["accelerator"]) == ("gpu", 4, {"h": 4}, True, "L4")  # fmt: skip
    assert (cpu["group"], cpu["with_actors"]) == ("cpu", 0) and "no actor stands here" in cpu["note"]
    assert first["forecast"]["missing"].endswith("latentlake calibrate JOB --cluster FILE")
    remember(job, {**L4, "accelerator": "Tesla T4"})
    assert "'h' was measured on Tesla T4, not on L4" in plan_job(job, cluster=CLUSTER)["forecast"]["missing"]
    remember(job, L4, rows=2000)
    found = plan_job(job, cluster=CLUSTER)["forecast"]
    low, high = found["cost"]["low"], found["cost"]["high"]
    seconds = found["seconds"]
    # The head, one CPU machine that is always there, four GPU machines, from start to end.
    assert low == pytest.approx((0.25 + 0.5 + 4 * 2) * seconds["low"] / 3600, abs=0.01)
    assert high > (0.25 + 0.5 + 4 * 2) * seconds["high"] / 3600
    assert any(
        "gpu': 4 x" in line and "spot: at the high end each is lost once" in line for line in found["cost"]["of"]
    )
    assert any("50 rows/s per actor on NVIDIA L4; 4 x" in line for line in found["stands_on"])


def test_newer_and_larger_calibrations_are_preferred():
    spec = resolved({**JOB_OF_ONE_COLUMN})
    at = {"fingerprints": fingerprints_of(spec)}
    small = known(run_id="small", **at)
    small.stages["embed"]["h"]["rows"] = 3
    inline, large = known("inline", run_id="inline", **at), known(run_id="large", **at)
    assert best_calibration([small, inline, large], spec, [CPU], "ray", [])[0] is large
    assert best_calibration([small, inline], spec, [CPU], "ray", [])[0] is small
    assert best_calibration([inline], spec, [CPU], "ray", [])[0] is inline
    earlier = known(stages={}, **at)  # by a release that did not keep them
    assert earlier.fault(spec, [CPU], []) == "the run that measured the models did not measure the stages"
    assert best_calibration([], spec, [CPU], "ray", []) == (None, "no run of this table has measured anything")


JOB_OF_ONE_COLUMN = {
    "name": "j",
    "modality": "text",
    "source": {"kind": "files", "uri": "/nowhere"},
    "embed": [{"column": "h", "family": "hashing", "dim": 8}],
    "table": {"uri": "/nowhere", "name": "t"},
}
