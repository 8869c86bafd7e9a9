"""A writer that is paused between its gates and its tag does not publish what was not gated, whatever is written meanwhile."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import lance
import pytest
from job_maker import HASHING, make_job, open_table, run, write_texts
from processes import Driver
from run_maker import lake_of
from test_writers import wait_until_stopped

from pipelines.state.ledger import read_report, read_runs

pytestmark = pytest.mark.slow

TTL_S = 8.0
TEXTS = {f"{n:02}.txt": f"the text number {n}" for n in range(12)}
INLINE = ("--runner", "inline")


def gated_versions(job: dict[str, Any]) -> set[int]:
    """Versions that all gates before the tag held of, by the ledger."""
    found = set()
    for line in read_runs(lake_of(job), "t"):
        gates = [gate for gate in read_report(line["report"]).get("gates", []) if gate["moment"] == "tag"]
        if gates and all(gate["held"] for gate in gates):
            found |= {gate["measured_at"] for gate in gates}
    return found


def begin(tmp_path: Path, moment: str) -> tuple[dict[str, Any], Driver]:
    """A table with one published version, and a run of it that has stopped at a moment after its gates."""
    source = write_texts(tmp_path / "in", TEXTS)
    job = make_job(tmp_path, source, [HASHING], gates={"min_rows": 10})
    run(job)
    write_texts(tmp_path / "in", {"new.txt": "a new text"})
    paused = Driver(tmp_path, job, *INLINE, "--moment", moment, "--stall", "--ttl", str(TTL_S))
    wait_until_stopped(paused)
    assert open_table(job).tags() == {"prod": 1}
    return job, paused


@pytest.mark.fault(
    "a writer paused between gate and tag, and another writes", "no version is published ungated", sample=1
)
@pytest.mark.parametrize("moment", ["before-tag", "in-tag"])
@pytest.mark.parametrize("other", ["publishes", "is refused"])
def test_another_writer_comes_between_gate_and_tag(tmp_path: Path, moment: str, other: str) -> None:
    job, paused = begin(tmp_path, moment)
    write_texts(tmp_path / "in", {"newer.txt": "a newer text"})
    second = {**job, "name": "second", "gates": {"min_rows": 10 if other == "publishes" else 1000}}
    code = Driver(tmp_path, second, *INLINE, "--ttl", str(TTL_S), "--wait").wait()
    assert code == (0 if other == "publishes" else 3)
    left = open_table(job).version
    paused.process.send_signal(signal.SIGCONT)
    assert paused.wait() == 4, paused.log
    assert open_table(job).version == left
    assert left in {1, *gated_versions(job)}
    assert left > 1 or other == "is refused"


@pytest.mark.fault(
    "a writer paused between gate and tag, and a stranger commits", "exactly the gated version is tagged"
)
@pytest.mark.parametrize("moment", ["before-tag", "in-tag"])
def test_a_stranger_commits_between_gate_and_tag(tmp_path: Path, moment: str) -> None:
    job, paused = begin(tmp_path, moment)
    lance.dataset(open_table(job).uri).delete("id < '05.txt'")
    newest = lance.dataset(open_table(job).uri).version
    paused.process.send_signal(signal.SIGCONT)
    assert paused.wait() == 0, paused.log
    assert open_table(job).version in gated_versions(job) and open_table(job).version < newest
    assert open_table(job).count() == len(TEXTS) + 1
