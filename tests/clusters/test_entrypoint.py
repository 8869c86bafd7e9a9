"""What a RayJob runs, as real processes: what it tries again, what it leaves, and what it says last."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clusters.entrypoint import Guard

ROOT = Path(__file__).parent.parent.parent
# Ends with the codes of its arguments, one per call; after the last of them with the last.
ACTOR = """
import os, sys
at = os.path.getsize("calls") if os.path.exists("calls") else 0
open("calls", "a").write(".")
code = int(sys.argv[1:][min(at, len(sys.argv) - 2)])
if code < 0:
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


def guard(folder: Path, *codes: int, patience: float = 60) -> tuple[int, int, str]:
    """Exit code, how often the command ran, and what was said last."""
    said: list[str] = []
    script = ACTOR.replace("calls", str(folder / "calls"))
    command = [sys.executable, "-S", "-c", script, *map(str, codes)]
    code = Guard(command, retries=2, patience_s=patience, pause_s=0.02, say=said.append).run()
    return code, (folder / "calls").stat().st_size, said[-1]


@pytest.mark.parametrize(
    ("codes", "ends", "calls", "said"),
    [
        ((0,), 0, 1, "exit code 0: done"),
        ((1, 1, 0), 0, 3, "exit code 0 after 2 retries: done"),
        ((1,), 1, 3, "exit code 1 after 2 retries: failed; what is finished is kept"),
        ((2,), 2, 1, "exit code 2: the job or the cluster profile is wrong"),
        ((1, 3), 3, 2, "exit code 3 after 1 retries: a gate refused publication"),
        ((4, 4, 0), 0, 3, "exit code 0: done"),
        ((130,), 130, 1, "exit code 130: stopped"),
        ((-signal.SIGKILL, 0), 0, 2, "exit code 0 after 1 retries: done"),
        ((-signal.SIGSEGV,), 139, 1, "exit code 139: ended by a signal"),
    ],
)
def test_only_what_may_pass_is_tried_again(tmp_path: Path, codes: tuple[int, ...], ends: int, calls: int, said: str):
    code, count, last = guard(tmp_path, *codes)
    assert (code, count) == (ends, calls)
    assert last.startswith(f"latentlake: {said}")


def test_a_run_that_goes_on_elsewhere_is_not_waited_for_forever(tmp_path: Path):
    code, count, last = guard(tmp_path, 4, patience=0.2)
    assert code == 4 and count >= 2
    assert last == "latentlake: exit code 4: another run is writing the table"


def test_a_job_that_is_stopped_is_not_tried_again():
    sleeper = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(130)); print('up', flush=True); time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-m", "clusters.entrypoint", "--", sys.executable, "-c", sleeper],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    os.killpg(process.pid, signal.SIGTERM)  # Ray tells every process of a job
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said == "latentlake: exit code 130: stopped; the next run resumes\n"


def test_a_pause_ends_where_the_job_is_stopped():
    command = [
        sys.executable,
        "-m",
        "clusters.entrypoint",
        "--pause",
        "60",
        "--",
        sys.executable,
        "-c",
        "raise SystemExit(1)",
    ]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None and "retry 1 of 3" in process.stderr.readline()
    began = time.monotonic()
    process.terminate()
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130 and "stopped" in said
    assert time.monotonic() - began < 30
