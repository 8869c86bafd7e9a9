"""The command line, called in this process."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import warnings
from contextlib import chdir, nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

from pipelines.cli.main import main


def latentlake_here(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """What `latentlake` does, in this process: all but the seconds in which a new one imports everything.

    As in a new one, no Ray is connected, whatever other tests have left here.
    """
    out, err, code, asked = io.StringIO(), io.StringIO(), 0, signal.getsignal(signal.SIGTERM)
    ray = sys.modules.get("ray")
    with (
        chdir(cwd),
        redirect_stdout(out),
        redirect_stderr(err),
        warnings.catch_warnings(),
        mock.patch.object(sys, "argv", ["latentlake", *arguments]),
        nullcontext() if ray is None else mock.patch.object(ray, "is_initialized", lambda: False),
    ):
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            signal.signal(signal.SIGTERM, asked)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())
