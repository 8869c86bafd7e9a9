"""What hangs ends its process: the watchdog, in processes of their own; and what the next attempt makes of it."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from job_maker import make_job, write_jsonl
from run_maker import plan_of

from latentlake.storage import open_storage
from operators.batch import make_batch, map_rows
from operators.pulse import LISTENERS, beat, heard_by
from pipelines.flow import watchdog
from pipelines.flow.reading import DEATHS_OF_FILE, ReadShard, faults_of
from pipelines.flow.shard import unpack
from pipelines.flow.watchdog import Watchdog
from pipelines.state.journal import Journal

# An attempt at objects a, b, c and d, which hangs in one way or another; it prints what it has done.
ATTEMPT = """
import re, sys, time
import numpy as np
from latentlake.storage import open_storage
from operators.batch import make_batch, map_rows
from pipelines.flow import watchdog
from pipelines.state.journal import Journal
from pipelines.flow.watchdog import Watchdog

watchdog.GRACE_S = 1.0
ids = ["a", "b", "c", "d"]

def work(text):
    print(text, flush=True)
    if text == "c":
        HANG

with Journal(open_storage(sys.argv[1]), "000000000-read") as journal, Watchdog(journal, 1.0):
    for unit in journal.units(np.arange(4), ids):
        names = [ids[row] for row in unit]
        if BY_ROW:
            map_rows(make_batch(names, names), work, column="content", into="x", stage="s")
        else:
            for name in names: work(name)
print("done")
"""
SLEEP, LOCKED = "time.sleep(300)", "re.match(r'(a+)+$', 'a' * 40 + 'b')"


def attempt(place: Path, hang: str, by_row: bool) -> list[str]:
    """What an attempt printed until it ended."""
    program = ATTEMPT.replace("HANG", hang).replace("BY_ROW", str(by_row))
    done = subprocess.run([sys.executable, "-c", program, str(place)], capture_output=True, text=True, timeout=120)
    assert (done.returncode == 0) == ("done" in done.stdout), done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("hang", "by_row", "attempts"),
    [
        (SLEEP, True, [["a", "b", "c"], ["a", "b", "d", "done"]]),  # the object is known
        (SLEEP, False, [["a", "b", "c"], ["a", "b", "c"], ["a", "b", "d", "done"]]),  # its unit is
        (LOCKED, True, [["a", "b", "c"]] * 4 + [["a", "b", "d", "done"]]),  # nothing is: it counts as a death
    ],
)
def test_an_object_that_hangs_ends_its_process_and_is_found(
    tmp_path: Path, hang: str, by_row: bool, attempts: list[list[str]]
):
    assert [attempt(tmp_path, hang, by_row) for _ in attempts] == attempts
    assert open_storage(str(tmp_path)).child("attempts").list_names() == []


def test_signs_of_life_keep_it_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(watchdog.os, "_exit", lambda code: pytest.fail("it ended"))
    with Journal(open_storage(str(tmp_path)), "a") as journal, Watchdog(journal, 1.0):
        for _ in range(8):
            time.sleep(0.25)
            beat()
    assert LISTENERS == []


def test_every_row_says_that_it_is_worked_on():
    heard: list[str | None] = []
    batch = make_batch(["a", "b", "c"], ["1", "2", "3"])
    batch["error"][1] = "decode: no"
    with heard_by(heard.append):
        map_rows(batch, str.upper, column="content", into="text", stage="s")
    assert heard == ["a", "c", None]


def test_a_file_of_which_row_after_row_kills_is_given_up(tmp_path: Path):
    with Journal(open_storage(str(tmp_path)), "a") as journal:
        ids, files = [f"o{n}" for n in range(9)], ["x"] * 5 + ["y"] * 4
        journal._note.dead = [*ids[: DEATHS_OF_FILE - 1], "o5"]
        assert sorted(faults_of(journal, ids, files)) == [0, 1, 5]
        journal.overrun("o2", 7)
        faults = faults_of(journal, ids, files)
        assert sorted(faults) == [0, 1, 2, 3, 4, 5]
        assert faults[3] == "not tried: 3 other rows of its file hung, or killed their process"
        assert sorted(faults_of(journal, ids, [])) == [0, 1, 2, 5]  # where each object is a file


def test_dead_objects_are_rejects_that_say_why(tmp_path: Path):
    rows = [{"id": f"r{n}", "text": f"text {n}"} for n in range(4)]
    plan = plan_of(make_job(tmp_path, write_jsonl(tmp_path / "a.jsonl", rows)))
    Journal(plan.place, "000000000-read").__enter__()
    reader = ReadShard(plan.spec, plan.place, (), None, False)
    from pipelines.planning.work import read_work

    with Journal(plan.place, "000000000-read") as journal:
        journal._note.dead = ["r1"]
        journal._note.overran = {"r2": 5.0}
        status, found = unpack(reader.read(0, read_work(plan.place, 0), journal))
    assert found["object_id"].to_pylist() == ["r0", "r3"]
    told = {reject["object_id"]: reject["error"] for reject in status.rejects}
    assert re.match("the process died of it", told["r1"]) and re.match("it took longer than 5 s", told["r2"])
    assert np.isin(["r1", "r2"], list(told)).all() and status.listed == 4
