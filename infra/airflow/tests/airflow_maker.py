"""An Airflow of its own for a test: a fresh home, the example DAGs on a local lake, and a connection to the cluster."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

DAGS = Path(__file__).parent.parent / "dags"
AIRFLOW = str(Path(sys.executable).parent / "airflow")
MODEL = re.compile(r"\{column: minilm, family: sentence_transformers, model: .*/all-MiniLM-(L\d+)-v2\}")
WIDTHS = {"L6": 16, "L12": 32}


class AirflowHome:
    """A home, and commands in it. A used one never runs new triggers where old ones are in its database: use it for one test."""

    def __init__(self, folder: Path, dags: tuple[str, ...]) -> None:
        """`dags`: the example DAGs that are there. Their lake is in `folder`, with three products and two days of events."""
        self.folder, self.dags, self.lake = folder, folder / "dags", folder / "lake"
        shutil.copytree(DAGS, self.dags, ignore=shutil.ignore_patterns("__pycache__"))
        for path in self.dags.glob("*.py"):
            if path.stem not in dags:
                path.unlink()
        for path in [*self.dags.glob("*.py"), *self.dags.glob("jobs/*.yaml")]:
            path.write_text(self.on_this_lake(path.read_text()))
        self.write_products("a red shoe", "a blue hat", "a green coat")
        for day in ("2026-11-25", "2026-11-26"):
            (self.lake / "events" / f"day={day}").mkdir(parents=True)
            (self.lake / "events" / f"day={day}" / f"{day}.txt").write_text(f"what happened on {day}")
        self.token = Path(os.environ["RAY_JOBS_TOKEN"]).read_text().strip()
        connection = {"conn_type": "ray_jobs", "host": os.environ["RAY_JOBS_ADDRESS"], "password": self.token}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW_", "RAY_"))}
        self.environment = {
            **kept,
            "PATH": f"{Path(AIRFLOW).parent}{os.pathsep}{os.environ['PATH']}",  # standalone starts `airflow`
            "AIRFLOW_HOME": str(folder),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.dags),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "5",
            "AIRFLOW__CORE__DEFAULT_TASK_RETRY_DELAY": "5",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            "AIRFLOW_CONN_RAY_JOBS_DEFAULT": json.dumps(connection),
        }

    def on_this_lake(self, text: str) -> str:
        """A DAG or job with the lake of this test, and models that need no files."""
        text = text.replace("s3://lake/", f"file://{self.lake}/")
        return MODEL.sub(lambda found: f"{{column: h, family: hashing, dim: {WIDTHS[found[1]]}}}", text)

    def write_products(self, *texts: str) -> None:
        """Let these be the products that there are."""
        self.lake.mkdir(exist_ok=True)
        lines = [json.dumps({"id": str(number), "text": text}) for number, text in enumerate(texts)]
        (self.lake / "products.jsonl").write_text("\n".join(lines) + "\n")

    def run(self, *arguments: str, timeout_s: float = 600) -> str:
        """Run `airflow ARGUMENTS`; what it printed. It must end with exit code 0."""
        done = self.try_run(*arguments, timeout_s=timeout_s)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def start(self, log: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start `airflow ARGUMENTS` in a session of its own; what it prints goes to the file `log` of the home."""
        with (self.folder / log).open("wb") as file:
            return subprocess.Popen(
                [AIRFLOW, *arguments],
                env=self.environment,
                cwd=self.folder,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def try_run(self, *arguments: str, timeout_s: float = 600) -> subprocess.CompletedProcess[str]:
        """Run `airflow ARGUMENTS`; it and what it printed."""
        return subprocess.run(
            [AIRFLOW, *arguments],
            env=self.environment,
            cwd=self.folder,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
        )
