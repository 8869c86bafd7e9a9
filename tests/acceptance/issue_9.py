"""Acceptance lines of real inputs and real clusters. `make acceptance` runs and prints them; the suite has the same in small.

Line 1 runs the small inputs that failed once, where the folder `cases` is beside the test data.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lines import ROOT, Line, Setting, open_table, prove, run, run_benchmark

sys.path.insert(0, str(ROOT / "tests"))

from odd_images import write_odd_images
from odd_sounds import write_odd_sounds
from odd_tables import Verdict, other_verdicts, write_odd_tables
from odd_texts import GUESSED, REJECT, write_odd_texts

FILES = 1000  # odd files per modality
SEED = 9
FUZZ_MINUTES = 10
PEAK_MB = 4096  # of a whole run, Ray's processes included, over a folder of odd files
THROUGHPUT = 1.3  # x the model's bare rate
OUTCOMES = ("embedded", "reused", "unchanged", "filtered", "rejected")


@dataclass(frozen=True)
class Folder:
    """A folder of odd files: the job that reads it, and the verdict of the judge on each file."""

    modality: str
    source: Mapping[str, Any]
    bad: frozenset[str]  # must be rejects
    unsure: frozenset[str] = frozenset()  # may be rejects
    texts: Mapping[str, str] | None = None  # what files hold that are not rejected
    tables: Mapping[str, Verdict] | None = None  # the judge's on each row instead, where files are tables


def cases(setting: Setting) -> Line:
    """1: the small inputs that failed."""
    folder = setting.data.parent / "cases"
    program = Path(sys.executable).with_name("latentlake")
    environment = {**os.environ, "LATENTLAKE": str(program), "PYTHON": sys.executable, "RAY_AUTH_MODE": "disabled"}
    done = subprocess.run([str(folder / "all")], env=environment, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout)
    return Line("every small input that failed passes", done.stdout.strip().splitlines()[-1], done.returncode == 0)


def odd_files(setting: Setting) -> Line:
    """2: a folder of odd files per modality."""
    told, held = [], True
    for folder in write_folders(setting.folder / "odd"):
        name = f"odd_{folder.modality}_{folder.source['kind']}"
        job = {
            "name": name,
            "modality": folder.modality,
            "source": dict(folder.source),
            "embed": [{"column": "h", "family": "hashing", "dim": 64}],
            "table": {"uri": str(setting.folder / "lake"), "name": name},
            "gates": {"max_reject_rate": 1.0},
        }
        report = run(job)
        table = open_table(job)
        wrong = find_wrong(table, folder)
        counts = report["columns"]["h"]
        adds_up = counts["listed"] == sum(counts[outcome] for outcome in OUTCOMES)
        held = held and adds_up and not wrong and report["peak_memory_mb"] <= PEAK_MB
        told.append(
            f"{folder.source['kind']} of {folder.modality}: {counts['listed']} listed, {counts['rejected']} rejected, adds up: "
            f"{adds_up}, other verdicts {sorted(wrong)[:5]}, peak {report['peak_memory_mb']} MB"
        )
    return Line(
        f"{FILES} odd files per modality: listed adds up, verdicts are Pillow's, ffmpeg's, Python's and pyarrow's, peak <= {PEAK_MB} MB",
        "; ".join(told),
        held,
    )


def find_wrong(table: Any, folder: Folder) -> set[str]:
    """Files, or rows of files, of which the table says other than the judge: rejected or not, and the text."""
    names = table.rejects()["object_id"].to_pylist()
    texts = (
        {row["id"]: row["text"] for row in table.to_arrow(["id", "text"]).to_pylist()}
        if folder.modality == "text"
        else {}
    )
    if folder.tables is not None:
        return set(other_verdicts(folder.tables, texts, names))
    rejected = {name.partition(":")[0] for name in names}
    wrong = (rejected - folder.bad - folder.unsure) | (folder.bad - rejected)
    return wrong | {name for name, text in texts.items() if folder.texts is not None and text != folder.texts[name]}


def write_folders(place: Path) -> list[Folder]:
    """A folder per modality, and one of Parquet files."""
    texts = write_odd_texts(place / "text", FILES, SEED)
    tables = write_odd_tables(place / "tables", FILES, SEED)
    sources = {name: {"kind": "files", "uri": str(place / name)} for name in ("text", "image", "audio")}
    sources["tables"] = {"kind": "parquet", "uri": str(place / "tables"), "id": "id", "content": "text"}
    return [
        Folder(
            "text",
            sources["text"],
            bad=frozenset(name for name, verdict in texts.items() if verdict == REJECT),
            unsure=frozenset(name for name, verdict in texts.items() if verdict.startswith(GUESSED)),
            texts={name: verdict.removeprefix(GUESSED) for name, verdict in texts.items()},
        ),
        *(
            Folder(name, sources[name], frozenset(file for file, verdict in found.items() if verdict == REJECT))
            for name, found in (
                ("image", write_odd_images(place / "image", FILES, SEED)),
                ("audio", write_odd_sounds(place / "audio", FILES, SEED)),
            )
        ),
        Folder("text", sources["tables"], frozenset(), tables=tables),
    ]


def conversions(setting: Setting) -> Line:
    """3: no conversion changes a value in silence."""
    return prove(
        setting,
        "10,000 conversions of (source type x table type): none changes a value in silence",
        "tests/pipelines/test_conversion_property.py",
        environment={"LATENTLAKE_CASES": "10000"},
    )


def upgrade(setting: Setting) -> Line:
    """4: a lake of an earlier release."""
    return prove(
        setting, "the lake that 1204d81 wrote is searched, unchanged, and resumed or discarded by name", "tests/upgrade"
    )


def fuzz(setting: Setting) -> Line:
    """5: damaged files through every reader and decoder."""
    command = ["make", "fuzz", f"MINUTES={FUZZ_MINUTES}", f"SEED={SEED}"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    lines = done.stdout.strip().splitlines() or [""]
    return Line(
        f"{FUZZ_MINUTES} minutes of damaged files: no death, no traceback, every object accounted for",
        lines[-1],
        done.returncode == 0,
    )


def clusters(setting: Setting) -> Line:
    """6: GPU pools, a submitted job, two nodes, a second run in one process; on real processes."""
    return prove(
        setting,
        "logical GPUs, `ray job submit` from a clean folder, two nodes, two runs in one process, the tag's window",
        *("tests/clusters", "tests/pipelines/test_gpus.py", "tests/pipelines/test_cluster.py"),
        *("tests/pipelines/test_stall.py", "tests/pipelines/test_tags.py", "tests/pipelines/test_gates.py"),
    )


def lost_nodes(setting: Setting) -> Line:
    """7: the second node is killed, 20 times."""
    return prove(
        setting, "20 seeded kills of the second node: none hangs", "tests/faults/test_lost_nodes.py", "--faults"
    )


def credentials(setting: Setting) -> Line:
    """8: credentials as AWS users have them, against fake endpoints on loopback. SSO is not run."""
    return prove(
        setting,
        "metadata service, web identity, assumed role, container, profile, an expiry in the middle of a run",
        *("tests/latentlake/test_credentials.py", "tests/faults/test_run_credentials.py"),
    )


def throughput(setting: Setting) -> Line:
    """9: what a run costs beside the model alone; issue 2's line 7 again."""
    found = run_benchmark(setting, "text_throughput", "--rounds", "3")
    return Line(
        f"rows_per_s >= {THROUGHPUT} x bare encode",
        f"{found['ratio']:.2f} x on {found['texts']} texts",
        found["ratio"] >= THROUGHPUT,
    )


LINES: dict[int, Callable[[Setting], Line]] = {2: odd_files}
TIMINGS: dict[int, Callable[[Setting], Line]] = {
    1: cases,
    3: conversions,
    4: upgrade,
    5: fuzz,
    6: clusters,
    7: lost_nodes,
    8: credentials,
    9: throughput,
}
