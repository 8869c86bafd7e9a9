"""The runner without Ray: which runs have it, what it does, and what its death costs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import look_maker
import numpy as np
import psutil
import pytest
from job_maker import HASHING, check_accounting, make_job, open_table, rows_of, run, run_job, write_texts
from model_maker import write_transformer
from run_maker import Here, no_successor, plan_of, resolved

from clusters import ClusterProfile, this_machine
from operators.errors import InvalidSpec, LatentLakeError
from pipelines.child import ask_child, end_children
from pipelines.flow.graph import make_stages
from pipelines.flow.runners.inline import LOADED, STAGES, InlineHost, InlineRunner, load_ahead
from pipelines.job.jobfile import parse_job
from pipelines.planning import choice
from pipelines.planning.choice import choose_runner, inline_pools
from pipelines.planning.pools import plan_pools
from pipelines.progress import EMBEDDING, Event

MACHINE = ClusterProfile(cpus=2, gpus=0, memory_mb=8000, nodes=1)


def make(folder: Path, texts: int = 20, **sections: Any) -> dict[str, Any]:
    source = write_texts(folder / "in", {f"{n:03}.txt": f"text number {n}" for n in range(texts)})
    return make_job(folder, source, **{"shard": {"max_objects": 5}, **sections})


def children_of(process: psutil.Process) -> list[psutil.Process]:
    """The children of `pipelines.child` that a process has."""
    return [child for child in process.children() if any("pipelines.child" in word for word in child.cmdline())]


# what it does


def test_a_small_job_needs_no_ray(tmp_path: Path) -> None:
    """Neither the driver nor its child imports it, nor any library of models."""
    program = (
        "import json, sys; sys.path[:0] = json.loads(sys.argv[1])\n"
        "import look_maker; from pipelines.child import ask_child\n"
        "from pipelines.job.jobfile import parse_job; from pipelines.run import run_job\n"
        "report = run_job(parse_job(json.loads(sys.argv[2])))\n"
        "assert report['counts']['embedded'] == 20, report\n"
        "(there,) = ask_child(60, look_maker.modules, ())\n"  # the same child: it waits for the next request
        "print(json.dumps([sorted(sys.modules), there]))"
    )
    paths, job = json.dumps([str(Path(__file__).parent)]), json.dumps(make(tmp_path))
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-c", program, paths, job]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    driver, child = map(set, json.loads(done.stdout))
    assert not {"ray", "torch", "transformers"} & (driver | child)
    assert "pipelines.flow.writing" in child and "duckdb" not in child


def test_the_report_of_a_run_without_ray(tmp_path: Path) -> None:
    report = run(make(tmp_path))
    check_accounting(report)
    column = report["columns"]["h"]
    assert column["model_rows_per_s"] > 0 and column["actors"][-1]["actors"] == 1
    measured = column["calibration"]
    assert (measured["device"], measured["accelerator"], measured["rows_per_object"]) == ("cpu", None, 1.0)
    assert measured["rows_per_s"] == pytest.approx(column["model_rows_per_s"], rel=0.01)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_vectors_are_those_of_ray(tmp_path: Path) -> None:
    """Of two models, in one job; texts of many lengths, in batches of many shapes."""
    texts = {f"{n:03}.txt": " ".join(f"word{k}" for k in range(n % 37 + 1)) for n in range(150)}
    source = write_texts(tmp_path / "in", texts)
    bert = {
        "column": "b",
        "family": "transformers_text",
        "model": str(write_transformer(tmp_path / "bert", "bert")),
        "pooling": "mean",
    }
    found = {}
    for runner in ("inline", "ray"):
        job = make_job(tmp_path / runner, source, [HASHING, bert], shard={"max_objects": 64})
        found[runner] = run(job, runner=runner), open_table(job).to_arrow().sort_by("id")
    (one, rows), (other, expected) = found["inline"], found["ray"]
    assert one["counts"] == other["counts"] and one["fingerprints"] == other["fingerprints"]
    for column in ("h", "b"):
        vectors, wanted = (np.stack(table[column].to_numpy(zero_copy_only=False)) for table in (rows, expected))
        np.testing.assert_allclose(vectors, wanted, atol=1e-6, rtol=0)
    assert rows.drop_columns(["h", "b"]).equals(expected.drop_columns(["h", "b"]))


def test_a_stage_that_fails_is_told_as_an_error_of_ours(tmp_path: Path) -> None:
    plan = plan_of(make(tmp_path))
    plan.place.remove("work")
    with (
        pytest.raises(
            LatentLakeError, match=r"a task of the run failed: FileNotFoundError.*\n  Finished shards are kept"
        ),
        InlineRunner(no_successor) as runner,
    ):
        list(runner.embed_shards(plan, None, [0], "x"))


def test_a_model_that_was_loaded_ahead_is_used_once(tmp_path: Path) -> None:
    plan = plan_of(make(tmp_path))
    spec = plan.spec
    (pool,) = inline_pools(spec, plan_pools(spec.embed, this_machine_capacity()), this_machine_capacity())
    list(load_ahead([(spec.embed[0], pool)]))
    (ahead,) = LOADED.values()
    (task,) = make_stages(plan, None, [0], "x", [pool], InlineHost()).embed
    assert task.host.load(task) is ahead
    assert task.host.load(task) is not ahead


def test_a_run_without_work_leaves_its_process_to_the_next() -> None:
    """Though it is still importing: what has begun is used."""
    end_children()
    with InlineRunner(no_successor):
        begun = [child.pid for child in children_of(psutil.Process())]
    assert begun == list(ask_child(60, look_maker.process, ()))
    assert [STAGES[-1] in modules for modules in ask_child(60, look_maker.modules, ())] == [True]


def this_machine_capacity() -> Any:
    return choice.capacity_for("inline", this_machine())


# its death


class Killing:
    """Progress that kills the child which does the work, once, when a shard is finished."""

    def __init__(self) -> None:
        self.killed: list[int] = []

    def __call__(self, event: Event) -> None:
        if event.phase == EMBEDDING and not self.killed:
            for child in children_of(psutil.Process()):
                self.killed.append(child.pid)
                child.kill()


def test_what_is_left_when_the_child_dies_is_done_by_the_successor(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    successors = []

    class Successor(Here):
        def embed_shards(self, plan: Any, version: Any, shards: Sequence[int], attempt: str) -> Any:
            successors.append(tuple(shards))
            return super().embed_shards(plan, version, shards, attempt)

    job, killing = make(tmp_path, texts=2000, shard={"max_objects": 50}), Killing()
    report = run_job(parse_job(job), progress=killing, runner=InlineRunner(Successor))
    check_accounting(report)
    assert (report["state"], report["counts"]["embedded"], len(rows_of(job))) == ("published", 2000, 2000)
    assert killing.killed and len(successors) == 1 and 0 < len(successors[0]) < report["shards"]
    assert report["shards_taken_over"] == 0
    assert "died: SIGKILL. The run continues through Ray" in caplog.text


def test_the_child_dies_with_its_driver(tmp_path: Path) -> None:
    """Also where it holds the interpreter's lock, so that it can do nothing for it itself."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import look_maker; from pipelines.child import Child\n"
        "child = Child()\n"
        "print(child.pid, flush=True)\n"
        "for _ in child.ask(None, look_maker.hold_the_lock, (1,)): pass"
    )
    command = [sys.executable, "-c", program, str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        child = psutil.Process(int(driver.stdout.readline()))
        until = time.monotonic() + 60
        while child.cpu_times().user < 1.5 and time.monotonic() < until:  # it has started, and turns around
            time.sleep(0.05)
        driver.send_signal(signal.SIGKILL)
    until = time.monotonic() + 20
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until, "it outlived its driver"
        time.sleep(0.02)


# which runs have it


def chosen(
    folder: Path, profile: ClusterProfile = MACHINE, objects: int = 20, size: int = 2000, **sections: Any
) -> Any:
    spec = resolved(make(folder, **sections))
    pools = plan_pools(spec.embed, profile.applied_to(choice.machine_capacity()))
    return choose_runner("auto", profile, spec, pools, objects, size)


def test_little_work_is_done_without_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "is_connected", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert str(chosen(tmp_path)) == (
        "inline: 20 objects of 0 MB are to be read; up to 1000 objects and 256 MB one process does not need Ray"
    )
    assert chosen(tmp_path, objects=1001).name == "ray"
    assert chosen(tmp_path, size=257 * 2**20).name == "ray"
    assert chosen(tmp_path, objects=0).name == "inline"


def test_what_ray_is_for_whatever_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "is_connected", lambda: False)
    named = ClusterProfile(**{**MACHINE.model_dump(), "address": "head:6379"})
    assert str(chosen(tmp_path, named)) == "ray: the job's Ray is at 'head:6379'"
    gpus = ClusterProfile(**{**MACHINE.model_dump(), "gpus": 1})
    assert str(chosen(tmp_path, gpus)) == "ray: GPUs are planned"
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert str(chosen(tmp_path)) == "ray: the job's Ray is at 'auto'"
    assert choose_runner("inline", MACHINE, resolved(make(tmp_path)), (), 20, 0).name == "inline"
    monkeypatch.setattr(choice, "is_connected", lambda: True)
    assert chosen(tmp_path).why == "this process is connected to a Ray"


def test_the_rate_of_an_earlier_run_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "is_connected", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    job = make(tmp_path)
    report = run(job)
    rate = report["columns"]["h"]["calibration"]["rows_per_s"]
    few, many = int(rate * 30), int(rate * 90)
    assert chosen(tmp_path, objects=few).name == "inline"
    assert "as fast as in an earlier run" in chosen(tmp_path, objects=many).why
    assert chosen(tmp_path, objects=many).name == "ray"
    other = [{**HASHING, "dim": 32}]  # another fingerprint, of which nothing is known
    assert "objects" in chosen(tmp_path, objects=few, embed=other).why


def test_a_runner_that_there_is_not(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match="runner 'fast': choose one of auto, ray, inline"):
        run(make(tmp_path), runner="fast")
