"""Random jobs, kills and concurrent readers for a while: `make soak [MINUTES=10] [SEED=0]`. Exits 1 on any violation.

python tests/faults/soak.py --minutes 10 --seed 0
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(TESTS / "faults"), str(TESTS / "pipelines")]

import numpy as np  # noqa: E402 (the makers of jobs are found on the path set above)
import psutil  # noqa: E402
from comparison import check_rows, check_snapshot, take_snapshot  # noqa: E402
from job_maker import make_job, open_table  # noqa: E402
from processes import Driver, find_workers, kill_all  # noqa: E402

from operators.batch import object_array  # noqa: E402
from operators.embedders.hashing import Config  # noqa: E402
from operators.errors import NotFound  # noqa: E402

DIMENSIONS = {"h": 16, "g": 8}
OBJECTS = 300
READERS = 2
# What a driver may be told, and how often. Jobs are named by it.
JOBS = {"incremental": 5, "prune": 3, "column": 3, "rebuild": 1, "maintain": 1}
FAULTS = {"none": 4, "driver": 6, "worker": 4, "workers": 2, "both": 2}
LONGEST_S = 25.0  # before a kill


class Soak:
    """A lake under fire."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.dice = folder, random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.violations: list[str] = []
        self.ended = threading.Event()
        (folder / "in").mkdir()
        for number in range(OBJECTS):
            self.write(f"{number:05}.txt")

    def write(self, name: str) -> None:
        """Write an object again; one in thirty cannot be embedded."""
        number = self.dice.randrange(10**6)
        text = "  \n" if self.dice.random() < 0.03 else f"text number {number} about subject {number % 9} of {name}"
        (self.folder / "in" / name).write_text(text)

    def change_source(self) -> None:
        """Change, remove, rename and add some objects."""
        names = sorted(path.name for path in (self.folder / "in").iterdir())
        for name in self.dice.sample(names, self.dice.randrange(60)):
            self.write(name)
        for name in self.dice.sample(names, self.dice.randrange(12)):
            (self.folder / "in" / name).unlink()
        for _ in range(self.dice.randrange(15)):
            self.write(f"{self.dice.randrange(10**5):05}.txt")
        names = sorted(path.name for path in (self.folder / "in").iterdir())
        for name in self.dice.sample(names, 3):
            (self.folder / "in" / name).rename(self.folder / "in" / f"{self.dice.randrange(10**5):05}.txt")

    def job(self, kind: str, lake: Path | None = None) -> dict[str, Any]:
        """A job by its kind."""
        columns = ["h", "g"] if kind in ("column", "rebuild", "final") else ["h"]
        embed = [
            {"column": c, "family": "hashing", "dim": DIMENSIONS[c], "delay_ms": 5, "pool": {"min": 1, "max": 1}}
            for c in columns
        ]
        table = {"prune": kind in ("prune", "final"), "mode": "rebuild" if kind == "rebuild" else "incremental"}
        return make_job(
            lake or self.folder,
            {"kind": "files", "uri": str(self.folder / "in")},
            embed,
            table=table,
            gates={"max_reject_rate": 0.5, "max_objects_removed": 1.0},
            shard={"max_objects": 32},
        )

    def start(self, kind: str, wait: bool) -> Driver:
        """Start a driver."""
        self.counts["runs"] += 1
        options = (["--wait"] if wait else []) + (["--maintain"] if kind == "maintain" else [])
        return Driver(self.folder, self.job(kind), *options)

    def run_one(self, kind: str, fault: str) -> None:
        """Run a job, under a fault, perhaps with another writer beside it."""
        alone = self.dice.random() < 0.8
        wait = self.dice.random() < 0.5
        drivers = [self.start(kind, wait)]
        if not alone:
            drivers.append(self.start(self.draw(JOBS), wait))
        driver, due = drivers[0], time.monotonic() + self.dice.uniform(0, LONGEST_S)
        kills = {"none": [], "driver": ["driver"], "worker": ["worker"], "workers": ["worker"] * 3}
        killed = False
        for victim in kills.get(fault, ["worker", "driver"]):
            while time.monotonic() < due and driver.process.poll() is None:
                time.sleep(0.05)
            if driver.process.poll() is not None:
                break
            if victim == "driver":
                driver.process.kill()
                killed = True
            elif workers := self.wait_for_workers(driver):
                kill_all([self.dice.choice(workers)])
                self.counts["workers killed"] += 1
            due = time.monotonic() + self.dice.uniform(0, 5)
        self.counts["drivers killed"] += killed
        for number, each in enumerate(drivers):
            self.judge(each, killed and number == 0, alone and not wait)

    def wait_for_workers(self, driver: Driver) -> list[psutil.Process]:
        """A driver's Ray workers, once there are some; none where it ends before."""
        while driver.process.poll() is None:
            if found := find_workers("ray::", driver.processes):
                return found
            time.sleep(0.1)
        return []

    def judge(self, driver: Driver, killed: bool, alone: bool) -> None:
        """Whether a driver ended as it may."""
        try:
            code = driver.wait(400)
        except AssertionError as failure:
            self.violations.append(str(failure))
            return
        self.counts[f"exit {code}"] += 1
        allowed = {0} | ({-9} if killed else set()) | (set() if alone else {4})
        no_table = code == 2 and "NotFound" in driver.log  # nothing to maintain yet
        if code not in allowed and not no_table:
            self.violations.append(f"a driver ended with {code}:\n{driver.log}")
        shutil.rmtree(driver.folder)

    def draw(self, weights: dict[str, int]) -> str:
        """One of some names."""
        return self.dice.choices(list(weights), list(weights.values()))[0]

    def read(self) -> None:
        """Open what the tag marks, again and again, and check what no reader may ever see broken."""
        while not self.ended.wait(0.5):
            try:
                self.check_version()
                self.counts["reads"] += 1
            except NotFound:
                continue  # nothing was published yet
            except AssertionError as failure:
                self.violations.append(f"a reader saw: {failure}")
            except Exception as failure:  # whatever a reader meets is a violation
                self.violations.append(f"a reader met {type(failure).__name__}: {failure}")

    def check_version(self) -> None:
        """The invariants of a published version."""
        table = open_table(self.job("prune"))
        columns = [column for column in table.vector_columns if column in DIMENSIONS]
        rows = table.to_arrow(["id", "text", *columns])
        assert rows.num_rows == table.count(), f"version {table.version}: {rows.num_rows} rows of {table.count()}"
        ids = rows["id"].to_pylist()
        assert len(set(ids)) == len(ids), f"version {table.version}: ids twice"
        for column in columns:
            present = rows.filter(rows[column].is_valid())
            if not present.num_rows:
                continue
            config = Config(dim=DIMENSIONS[column])
            made = config.prepare({"text": object_array(present["text"].to_pylist())}, "document")
            vectors = np.array(present[column].to_pylist(), dtype=np.float32)
            assert (vectors == config.load("cpu").embed(made)).all(), f"version {table.version}: foreign vectors"

    def finish(self) -> None:
        """One more run of everything must make what a clean run makes."""
        final, clean = self.job("final"), self.job("final", self.folder / "clean")
        for job in (final, clean):
            driver = Driver(self.folder, job)
            if code := driver.wait(400):
                self.violations.append(f"the last run ended with {code}:\n{driver.log}")
                return
        found, wanted = take_snapshot(final), take_snapshot(clean)
        try:
            check_snapshot(found)
            check_rows(found.rows.select(wanted.rows.schema.names), wanted.rows)
            assert found.rejects == wanted.rejects, f"rejects {set(found.rejects) ^ set(wanted.rejects)}"
        except AssertionError as failure:
            self.violations.append(f"the last version is not a clean one: {failure}")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="ll-soak-", dir="/tmp"))
    soak, until = Soak(folder, asked.seed), time.monotonic() + asked.minutes * 60
    readers = [threading.Thread(target=soak.read, daemon=True) for _ in range(READERS)]
    for reader in readers:
        reader.start()
    kind = "incremental"
    while time.monotonic() < until and not soak.violations:
        fault = soak.draw(FAULTS)
        print(f"{time.strftime('%H:%M:%S')} {kind}, fault: {fault}", flush=True)
        soak.run_one(kind, fault)
        if soak.dice.random() < 0.85:
            soak.change_source()
        kind = kind if soak.dice.random() < 0.5 else soak.draw(JOBS)  # often the job that was killed is run again
    soak.finish()
    soak.ended.set()
    for reader in readers:
        reader.join()
    told = ", ".join(f"{count} {name}" for name, count in sorted(soak.counts.items()))
    print(f"soak, seed {asked.seed}, {asked.minutes:g} minutes: {told}; {len(soak.violations)} violations")
    for violation in soak.violations:
        print(violation, file=sys.stderr)
    if soak.violations:
        print(f"The lake is kept in {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
