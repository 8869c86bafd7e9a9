"""The index of a job's table built by fragments through Ray: its report, its upkeep, tasks that die; and when one process builds it."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from job_maker import make_job, open_table, run, write_jsonl

from clusters import Capacity, ClusterProfile, Node
from latentlake.indexes import describe_indexes
from operators.errors import ClusterError, InvalidSpec, LatentLakeError
from pipelines.flow.runners.pulse import Pulse
from pipelines.flow.runners.stall import Watch
from pipelines.job.jobfile import parse_job
from pipelines.job.spec import IndexSpec
from pipelines.publish import building, segment_tasks
from pipelines.publish.building import DISTRIBUTED_ROWS, Building
from pipelines.publish.segment_tasks import build_one, places_of, results, start
from pipelines.state.ledger import open_dataset
from pipelines.upkeep.maintain import maintain_table
from pipelines.upkeep.rollback import roll_back

ROWS = 700


def write_source(folder: Path, rows: int = ROWS) -> dict[str, Any]:
    return write_jsonl(
        folder / "in" / "rows.jsonl", [{"id": str(n), "text": f"text {n % 40} of word{n}"} for n in range(rows)]
    )


def job_in(folder: Path, **index: Any) -> dict[str, Any]:
    asked = {"column": "h", "type": "ivf_flat", "build": "distributed", **index}
    return make_job(folder, write_source(folder), index=[asked], shard={"max_objects": 250}, gates={"min_recall": 0.99})


def lance_of(job: dict[str, Any]) -> Any:
    return open_dataset(parse_job(job).table.lake, "t")


def index_files(job: dict[str, Any]) -> list[str]:
    folder = Path(job["table"]["uri"]) / "t.lance" / "_indices"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.mark.usefixtures("ray_session")
def test_a_run_builds_its_index_through_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A task whose process dies is tried again; the index is gated, extended, merged and rolled back as any other."""
    died, build_one = tmp_path / "died", segment_tasks.build_one

    def dying(job: Any, fragments: Any) -> Any:
        if 0 in fragments and not died.exists():
            died.touch()
            os._exit(1)
        return build_one(job, fragments)

    monkeypatch.setattr(segment_tasks, "build_one", dying)
    job = job_in(tmp_path)
    first = run(job)
    assert died.exists()
    (told,) = first["indexes"]
    assert told["built"].startswith("distributed: 2 segments by tasks of 2 CPUs, 1 at a time; models ")
    assert (told["type"], told["rows"], told["recall"], told["measured_at"]) == ("ivf_flat", ROWS, 1.0, told["version"])
    assert [(gate["name"], gate["held"]) for gate in first["gates"] if gate["name"] == "min_recall"] == [
        ("min_recall", True)
    ]
    (index,) = [info for info in describe_indexes(lance_of(job)) if info.metric]
    assert (index.type, index.segments, index.rows_unindexed) == ("ivf_flat", 1, 0)
    hit = open_table(job).search("text 3 of word3", k=1).to_list()[0]
    assert hit["id"] == "3"

    write_source(tmp_path, ROWS + 30)
    second = run(job)
    assert second["indexes"][0]["built"] is None and second["indexes"][0]["added"] == 30
    assert maintain_table(parse_job(job).table.lake, "t")["index_segments"] == 1
    roll_back(parse_job(job).table.lake, "t", "prod", first["version"])
    (restored,) = [info for info in open_table(job).indexes() if info.metric]
    assert (restored.type, restored.segments, restored.rows_indexed) == ("ivf_flat", 1, ROWS)


@pytest.mark.usefixtures("ray_session")
def test_a_task_that_fails_leaves_no_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The rows are there, the tag is not moved, and the next run builds what is missing."""
    build_one = segment_tasks.build_one

    def failing(job: Any, fragments: Any) -> Any:
        if 0 not in fragments:
            raise OSError("no space left on device")
        return build_one(job, fragments)

    monkeypatch.setattr(segment_tasks, "build_one", failing)
    job = job_in(tmp_path)
    with pytest.raises(
        LatentLakeError, match=r"index of 'h' was not built, .*no space left(.|\n)*build: single"
    ) as raised:
        run(job)
    assert raised.value.report["state"] == "failed"
    dataset = lance_of(job)
    assert dataset.count_rows() == ROWS and not [info for info in describe_indexes(dataset) if info.metric]
    assert "prod" not in dataset.tags.list() and index_files(job) == []
    monkeypatch.undo()
    again = run({**job, "index": [{**job["index"][0], "build": "single"}]})
    assert again["indexes"][0]["built"] == "single: asked for" and again["shards_taken_over"] == again["shards"]
    assert "prod" in lance_of(job).tags.list()


@pytest.mark.usefixtures("ray_session")
def test_tasks_that_find_no_machine_end_the_build():
    with pytest.raises(ClusterError, match=r"nothing moved .* for 1 s\. Its tasks wait for 64 CPUs on one node"):
        list(results([start(build_one, 64, None, [0])], Watch(Pulse(), 0.6), "h", 64))


# when


def test_a_job_that_says_nothing_is_what_it_was():
    assert IndexSpec(column="h").to_json() == {"column": "h", "metric": None, "type": "auto"}
    assert IndexSpec(column="h", build="single").to_json()["build"] == "single"


@pytest.mark.parametrize("type", ["none", "ivf_sq", "ivf_hnsw_sq", "ivf_hnsw_flat"])
def test_types_that_cannot_be_built_by_fragments_are_refused(tmp_path: Path, type: str):
    with pytest.raises(InvalidSpec, match=f"build distributed is for types .*, not for {type}"):
        parse_job(job_in(tmp_path, type=type))


def plan(runner: str = "ray") -> Any:
    return SimpleNamespace(runner=SimpleNamespace(name=runner), profile=ClusterProfile())


def table(fragments: int = 4) -> Any:
    return SimpleNamespace(get_fragments=lambda: [None] * fragments)


@pytest.mark.parametrize(
    ("asked", "runner", "kind", "fragments", "rows", "cores", "why"),
    [
        ("auto", "ray", "IVF_RQ", 4, DISTRIBUTED_ROWS, True, None),
        ("distributed", "inline", "IVF_PQ", 2, 512, False, None),
        ("distributed", "inline", "IVF_PQ", 2, 511, False, "511 vectors are too few"),
        ("single", "ray", "IVF_RQ", 4, 10**8, True, "asked for"),
        ("auto", "inline", "IVF_RQ", 4, 10**8, True, "does not use Ray"),
        ("auto", "ray", "IVF_RQ", 4, DISTRIBUTED_ROWS - 1, True, "999,999 vectors; from 1,000,000 on"),
        ("auto", "ray", "IVF_RQ", 4, 10**8, False, "no more cores than this machine"),
        ("auto", "ray", "IVF_RQ", 1, 10**8, True, "one fragment"),
        ("distributed", "ray", "IVF_RQ", 1, 10**8, True, "one fragment"),
        ("auto", "ray", "IVF_SQ", 4, 10**8, True, "ivf_sq is not built by fragments: each of its segments has a scale"),
        ("distributed", "ray", "IVF_HNSW_FLAT", 4, 10**8, True, "ivf_hnsw_flat is not built by fragments: putting"),
    ],
)
def test_when_one_process_builds(
    monkeypatch: pytest.MonkeyPatch,
    asked: Any,
    runner: str,
    kind: str,
    fragments: int,
    rows: int,
    cores: bool,
    why: str | None,
):
    monkeypatch.setattr(building.Building, "has_more_cores", lambda self: cores)
    told = Building(plan(runner), asked, lambda: None).why_single(table(fragments), {"index_type": kind}, rows)
    assert told is None if why is None else why in str(told)


def test_without_a_ray_there_are_no_more_cores(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(building, "is_connected", lambda: False)
    assert not Building(plan(), "auto", lambda: None).has_more_cores()


@pytest.mark.parametrize(
    ("nodes", "cpus", "slots"),
    [
        ([2], 2, 1),
        ([64, 64, 2], 33, 2),
        ([8, 4, 4, 4], 3, 5),
        ([0, 16], 9, 1),
        ([0.5], 1, 1),
        ([3, 2, 2], 2, 3),
    ],
)
def test_a_machine_has_one_task(nodes: list[float], cpus: float, slots: int):
    assert places_of(Capacity(tuple(Node(cpus) for cpus in nodes))) == (cpus, slots)
