"""What the acceptance lines of all issues share: where a line runs, and what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import latentlake
from pipelines.job.jobfile import parse_job
from pipelines.planning.choice import RunnerName
from pipelines.run import run_job

EMPTY = ("471", "995")  # abstracts of Cranfield that hold no text
ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Setting:
    """Where a line runs: a folder of its own, the real data, the model, an S3 server on loopback; which pictures and sounds."""

    folder: Path
    data: Path
    minilm: str
    s3_endpoint: str
    texts: int = 1400  # of Cranfield: all abstracts
    queries: int = 225  # of Cranfield: all
    images: str = "*/*.jpg"  # of CIFAR: all 1,000
    sounds: str = "*.wav"  # of the spoken digits: all 480
    broken: int = 5  # files of each of the six ways to be broken, among nine times as many that are not
    runner: RunnerName = "auto"

    def corpus(self) -> Path:
        """File of `texts` of the abstracts, the two empty ones among them."""
        whole, part = self.data / "cranfield" / "corpus.parquet", self.folder / "corpus.parquet"
        rows = pq.read_table(whole)
        if self.texts >= rows.num_rows:
            return whole
        empty = pc.is_in(rows["id"].cast(pa.string()), pa.array(EMPTY))
        some = rows.filter(pc.invert(empty)).slice(0, self.texts - len(EMPTY))
        pq.write_table(pa.concat_tables([some, rows.filter(empty)]), part)
        return part

    def pictures(self) -> list[Path]:
        """Files of the pictures."""
        return sorted((self.data / "cifar10").glob(self.images))


@dataclass(frozen=True)
class Line:
    """What was asked and what was measured."""

    target: str
    measured: str
    held: bool


def run(job: Mapping[str, Any], runner: RunnerName = "auto") -> dict[str, Any]:
    """Run a job; its report."""
    return run_job(parse_job(job), runner=runner)


def open_table(job: Mapping[str, Any]) -> latentlake.Table:
    """The job's table, as a reader finds it."""
    return latentlake.connect(job["table"]["uri"], job["table"].get("storage_options")).open(job["table"]["name"])


def run_benchmark(setting: Setting, name: str, *arguments: str) -> Any:
    """Run one of `benchmarks/` in a process of its own; what it found, also where it ends with 1 because that is not enough."""
    out = setting.folder / f"{name}.json"
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), "--json", str(out), *arguments]
    done = subprocess.run(command, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"}, stdout=subprocess.DEVNULL)
    if not out.exists():
        done.check_returncode()
    return json.loads(out.read_text())


def prove(setting: Setting, target: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Line:
    """A line that a part of the suite proves, in a process of its own."""
    command = [sys.executable, "-m", "pytest", "-q", "--timeout", "1800", *arguments]
    told = {**os.environ, "LATENTLAKE_TEST_DATA": str(setting.data), **(environment or {})}
    done = subprocess.run(command, cwd=ROOT, env=told, stdout=subprocess.PIPE, text=True, check=False)
    return Line(target, (done.stdout.strip().splitlines() or [""])[-1].strip("= "), done.returncode == 0)


def measure(line: Callable[[Setting], Line], setting: Setting) -> tuple[Line, float]:
    """Run a line; what it found, and how many seconds it took."""
    began = time.perf_counter()
    return line(setting), time.perf_counter() - began
