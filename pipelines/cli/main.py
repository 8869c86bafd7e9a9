"""The command line: `latentlake`, and `python -m pipelines`. Commands on jobs, and commands on the tables they made."""

from __future__ import annotations

import logging
import signal
import sys
import warnings

from operators.errors import LatentLakeError
from pipelines.cli import jobs, manifest, submit, tables, upkeep  # noqa: F401 (each adds its commands)
from pipelines.cli.options import app
from pipelines.cli.wording import as_command


def interrupt(number: int, frame: object) -> None:
    """End a run as Ctrl-C does, so that it can be resumed.

    Not by SIGINT itself: Ray blocks it in what it starts, submitted jobs too, and a shell lets its background jobs ignore it.
    """
    raise KeyboardInterrupt


def main() -> None:
    """Entry point: our errors become one message on stderr and an exit code; an interrupt (from Typer) is 130."""
    warnings.filterwarnings("ignore", message="lance is not fork-safe")  # Ray's processes are not forks
    signal.signal(signal.SIGTERM, interrupt)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        app()
    except LatentLakeError as failure:
        print(f"{type(failure).__name__}: {as_command(str(failure))}", file=sys.stderr)
        sys.exit(failure.exit_code)
    except OSError as failure:  # a full disk, a store that does not answer: not a bug, so no traceback
        from operators.batch import describe

        print(describe(failure), file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
