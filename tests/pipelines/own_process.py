"""What a notebook or a scheduler does, in a process that no Ray was in before. Run by `test_cluster.py` with a folder.

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

from job_maker import make_job, write_texts

from clusters import ClusterProfile
from operators.errors import LatentLakeError
from pipelines.job.jobfile import parse_job
from pipelines.ray_connection import AUTHENTICATION
from pipelines.run import run_job

PROFILE = ClusterProfile(cpus=2, gpus=0, object_store_mb=100)


def start_ray(folder: Path) -> None:
    """The user's own. Ray gives itself 30 s, which a busy machine may exceed."""
    import ray

    for attempt in range(4):
        try:
            ray.init(
                address="local",
                num_cpus=1,
                include_dashboard=False,
                object_store_memory=100 * 2**20,
                logging_level="ERROR",
                log_to_driver=False,
                _temp_dir=str(folder / str(attempt)),
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
            result = f"{type(failure).__name__}: {failure}"
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

    async def in_a_notebook() -> str:
        return run(15)

    step("first", lambda: run(10))
    step("failed start", failed_start)
    step("notebook", lambda: asyncio.run(in_a_notebook()))

    import ray

    os.environ["RAY_AUTH_TOKEN_PATH"] = before["RAY_AUTH_TOKEN_PATH"] = str(folder / "users-token")
    (folder / "users-token").write_text("f" * 64)
    start_ray(folder / "r")
    before["RAY_AUTH_MODE"] = os.environ["RAY_AUTH_MODE"]  # Ray sets it for whoever starts one
    settings = repr(ray.data.DataContext.get_current())
    step("in the user's Ray", lambda: run(20, None, "auto"))
    step("which is still there", lambda: ray.get(ray.remote(lambda: 42).remote()))
    step("with its settings", lambda: repr(ray.data.DataContext.get_current()) == settings)
    ray.shutdown()


if __name__ == "__main__":
    main()
