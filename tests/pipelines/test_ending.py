"""How the process of a command ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

# A native library that aborts while it is unloaded, as seen after a run through Ray.
ABORTS = """
import ctypes, sys, tempfile, threading, time, weakref
from pathlib import Path
library = ctypes.CDLL(None)
library.__cxa_atexit(ctypes.cast(library.abort, ctypes.c_void_p), None, None)
"""


def run(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = f"{ABORTS}\nsys.argv = ['latentlake', *{arguments!r}]\n{command}"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)


def test_a_library_that_aborts_as_it_is_unloaded_does_not_change_the_exit_code(tmp_path: Path):
    program = "from pipelines.cli.main import program\nprogram()"
    done = run(program, "--version")
    assert (done.returncode, done.stderr) == (0, "") and done.stdout
    refused = run(program, "validate", str(tmp_path / "none.yaml"))
    assert refused.returncode == 2 and "none.yaml" in refused.stderr
    plain = run("from pipelines.cli.main import main\nmain()", "--version")  # what this is about
    assert (plain.returncode, plain.stdout) == (-signal.SIGABRT, done.stdout)


@pytest.mark.parametrize(("ending", "code"), [("", 0), ("sys.exit(7)", 7), ("sys.exit('a reason')", 1), ("1 / 0", 1)])
def test_threads_and_exit_handlers_come_first(tmp_path: Path, ending: str, code: int):
    command = f"""
from pipelines.cli.ending import end_process
def late():
    time.sleep(0.3)
    Path({str(tmp_path / "thread")!r}).touch()
def command():
    global kept
    threading.Thread(target=late).start()
    kept = tempfile.TemporaryDirectory(dir={str(tmp_path)!r})
    print("printed, and not flushed", end="")
    {ending}
end_process(command)"""
    done = run(command)
    assert (done.returncode, done.stdout) == (code, "printed, and not flushed")
    assert [path.name for path in tmp_path.iterdir()] == ["thread"]  # and no temporary folder
    assert ("a reason" in done.stderr, "ZeroDivisionError" in done.stderr) == ("reason" in ending, "/ 0" in ending)
