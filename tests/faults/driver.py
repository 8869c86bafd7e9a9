"""The driver of a job as a process of its own, in which something may be arranged to happen at a moment: see `moments`.

    python driver.py JOB.json REPORT.json [--moment NAME] [--seed N] [--stall] [--ttl S] [--wait] [--maintain] [--address RAY] [--runner inline]

Ends as the command line does. `REPORT.json` holds the report of the run, also where it failed. With `--maintain` the job's
table is maintained, and everything dropped that may be.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

import moments

EVERY = moments.MOMENTS | moments.DEDUPLICATION | moments.UPKEEP
PROFILE = {"cpus": 2, "object_store_mb": 128}  # of the private Ray


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("job", type=Path)
    parser.add_argument("report", type=Path)
    parser.add_argument("--moment", choices=EVERY)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--wait", action="store_true")
    parser.add_argument("--maintain", action="store_true")
    parser.add_argument("--stall", action="store_true", help="at the moment, rather than die")
    parser.add_argument("--ttl", type=float, help="seconds after which a lease that was not renewed has run out")
    parser.add_argument("--address", help="of a Ray that runs already; else it starts a private one")
    parser.add_argument("--runner", choices=["ray", "inline"], default="ray")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")

    from clusters import this_machine
    from operators.errors import LatentLakeError
    from pipelines.job.jobfile import parse_job
    from pipelines.progress import Event
    from pipelines.run import run_job
    from pipelines.state import lease
    from pipelines.upkeep.maintain import maintain_table

    def progress(event: Event) -> None:
        print(f"{time.time():.3f} {event.phase} {event.done}/{event.total}", flush=True)

    spec = parse_job(json.loads(asked.job.read_text()))
    if asked.stall:
        moments.FATE = signal.SIGSTOP
    if asked.ttl:
        lease.TTL_S, lease.BEAT_S = asked.ttl, asked.ttl / 4
    if asked.moment:
        progress = EVERY[asked.moment](spec, progress, asked.seed)
    try:
        if asked.maintain:
            everything = {"keep": timedelta(0), "orphans": timedelta(0)}
            report = maintain_table(spec.table.lake, spec.table.name, **everything, wait=asked.wait)
        else:
            profile = this_machine({**PROFILE, "address": asked.address})
            report = run_job(spec, profile, progress, wait=asked.wait, runner=asked.runner)
    except LatentLakeError as failure:
        asked.report.write_text(json.dumps(failure.report))
        print(f"{type(failure).__name__}: {failure}", file=sys.stderr)
        return failure.exit_code
    asked.report.write_text(json.dumps(report))
    return 0


if __name__ == "__main__":
    from pipelines.cli.ending import end_process

    end_process(lambda: sys.exit(main()))
