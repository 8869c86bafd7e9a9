"""The end of a command's process: with the command's own exit code, whatever native libraries do while they are unloaded.

A run that had published its version once ended with SIGABRT, while the interpreter was taken down with the threads of Ray's and
Lance's cores still there. A scheduler reads that as a failed run, and starts it again.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
from collections.abc import Callable

UNWRITTEN = 120  # Python's own exit code where what was printed could not be written


def end_process(command: Callable[[], None]) -> None:
    """Run a command, which ends by `SystemExit` or by returning, and end the process with its exit code.

    Threads are joined and exit handlers run as in any Python process; then it ends, without unloading anything.
    """
    codes: list[int] = []
    atexit.register(leave, codes)  # handlers run last in, first out: all that are registered from here on run before it
    try:
        command()
    except SystemExit as ended:
        codes.append(code_of(ended))
        raise
    except Exception:
        codes.append(1)
        raise
    codes.append(0)


def code_of(ended: SystemExit) -> int:
    """The exit code that Python takes from it."""
    return ended.code if isinstance(ended.code, int) else int(ended.code is not None)


def leave(codes: list[int]) -> None:
    """End the process; without a code, as Python ends it (an interrupt)."""
    if not codes:
        return
    logging.shutdown()
    code = codes[-1]
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # nobody reads it any more, or it is closed
            code = code or UNWRITTEN
    os._exit(code & 0xFF)
