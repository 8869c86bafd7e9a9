"""An unchanged source: what a second run over many small files takes, beside the stream of the first.

Runs the job twice, each in a fresh process. The second must not start Ray and must make no version.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROGRAM = """
import json, sys, time
from pipelines.job.jobfile import load_job
from pipelines.run import run_job
began = time.time()
report = run_job(load_job(sys.argv[1]))
print(json.dumps({**report, "wall_s": time.time() - began, "ray": "ray" in sys.modules}))
"""


def run(job: Path) -> dict[str, object]:
    """Run a job in a process of its own; its report, with `wall_s` and whether `ray` was loaded."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(job)], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(files: int) -> dict[str, object]:
    """Run the job twice over `files` files."""
    with tempfile.TemporaryDirectory(prefix="ll-unchanged-") as name:
        folder = Path(name)
        for number in range(files):
            path = folder / "in" / f"{number // 1000:04}" / f"{number:07}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"text number {number} of {number % 7} things, {number * number} in all", encoding="utf-8")
        job = folder / "job.yaml"
        job.write_text(
            json.dumps(
                {
                    "name": "unchanged",
                    "modality": "text",
                    "source": {"kind": "files", "uri": str(folder / "in")},
                    "embed": [{"column": "h", "family": "hashing"}],
                    "table": {"uri": str(folder / "lake"), "name": "t"},
                }
            )
        )
        first, second = run(job), run(job)
    stream, check = first["seconds"]["stream"], second["wall_s"]  # type: ignore[index]
    return {
        "files": files,
        "stream_s": stream,
        "second_run_s": round(check, 3),  # type: ignore[call-overload]
        "share": round(check / stream, 4),  # type: ignore[operator]
        "unchanged": second["counts"]["unchanged"],  # type: ignore[index]
        "ray_started": second["ray"],
        "new_versions": second["version"] - first["version"],  # type: ignore[operator]
        "versions": {name: version(name) for name in ("ray", "pylance", "duckdb")},
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--json", type=Path, help="write what was found to this file")
    asked = parser.parse_args()
    found = measure(asked.files)
    print(json.dumps(found, indent=2))
    if asked.json:
        asked.json.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
