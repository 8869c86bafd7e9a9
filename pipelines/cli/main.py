"""The command line: `latentlake`, and `python -m pipelines`. Commands on jobs, and commands on the tables they made."""

from __future__ import annotations

import logging
import signal
import sys
import warnings
from typing import NoReturn

from operators.errors import LatentLakeError
from pipelines.cli import (  # noqa: F401 (each adds its commands)
    calibrate,
    compare,
    doctor,
    evaluate,
    explore,
    jobs,
    manifest,
    publishing,
    submit,
    tables,
    tune,
    upkeep,
)
from pipelines.cli.ending import end_process
from pipelines.cli.options import app
from pipelines.cli.wording import as_command
from pipelines.telemetry.logs import configure, in_json

log = logging.getLogger(__name__)


def interrupt(number: int, frame: object) -> None:
    """End a run as Ctrl-C does, so that it can be resumed.

    Not by SIGINT itself: Ray blocks it in what it starts, submitted jobs too, and a shell lets its background jobs ignore it.
    """
    raise KeyboardInterrupt


def program() -> None:
    """Entry point of the process."""
    end_process(main)


def main() -> None:
    """A command: our errors become one message on stderr and an exit code; an interrupt (from Typer) is 130."""
    warnings.filterwarnings("ignore", message="lance is not fork-safe")  # Ray's processes are not forks
    signal.signal(signal.SIGTERM, interrupt)
    configure("text")
    try:
        app()
    except LatentLakeError as failure:
        tell(f"{type(failure).__name__}: {as_command(str(failure))}", failure.exit_code)
    except OSError as failure:  # a full disk, a store that does not answer: not a bug, so no traceback
        from operators.batch import describe

        tell(describe(failure), 1)


def tell(message: str, exit_code: int) -> NoReturn:
    """End with a message on stderr, in the format of the log."""
    if in_json():
        log.error("%s", message, extra={"event": "error", "exit_code": exit_code})
    else:
        print(message, file=sys.stderr)
    sys.exit(exit_code)


if __name__ == "__main__":
    program()
