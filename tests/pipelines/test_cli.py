"""The command line as a user meets it: real processes, exit codes, what is printed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from job_maker import HASHING, make_job, run, write_texts

TEXTS = {f"{n}.txt": f"the text number {n} speaks of {'boats' if n % 2 else 'trains'}" for n in range(12)}


def latentlake(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipelines", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


def write_job(folder: Path, **sections: Any) -> Path:
    job = make_job(folder, write_texts(folder / "in", TEXTS), **sections)
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    return path


def test_help_and_validate_load_neither_ray_nor_torch(tmp_path: Path) -> None:
    job = write_job(tmp_path)
    program = (
        "import sys\nfrom pipelines.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    code = end.code\n"
        "print(sorted({'ray', 'torch', 'lance', 'transformers'} & set(sys.modules)), code)"
    )
    for arguments in (["--help"], ["validate", str(job)]):
        done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1].startswith("[]"), done.stdout
    assert "valid" in done.stdout


def test_a_bad_job_names_every_mistake_and_ends_with_2(tmp_path: Path) -> None:
    path = write_job(tmp_path, gates={"max_reject_rates": 0.1}, publish={"tag": ""})
    for command in ("validate", "plan", "run"):
        done = latentlake(command, str(path), cwd=tmp_path)
        assert done.returncode == 2
        assert "2 mistakes" in done.stderr
        assert "Did you mean 'max_reject_rate'?" in done.stderr
        assert "Traceback" not in done.stderr
    assert latentlake("run", "nowhere.yaml", cwd=tmp_path).returncode == 2
    assert latentlake("runn", str(path), cwd=tmp_path).returncode == 2
    assert not (tmp_path / "lake").exists()


def test_a_pool_that_can_never_be_scheduled_is_refused_before_anything_starts(tmp_path: Path) -> None:
    path = write_job(tmp_path, embed=[{**HASHING, "pool": {"min": 4, "num_cpus": 64}}])
    done = latentlake("run", str(path), cwd=tmp_path)
    assert done.returncode == 2
    assert "Lower pool.min or pool.num_cpus" in done.stderr


def test_plan_writes_nothing(tmp_path: Path) -> None:
    path = write_job(tmp_path)
    done = latentlake("plan", str(path), "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert (plan["objects"], plan["to_read"], plan["dimensions"]) == (12, 12, {"h": 64})
    assert not (tmp_path / "lake").exists()


@pytest.mark.slow
def test_run_prints_one_json_object_last_and_its_exit_codes(tmp_path: Path) -> None:
    path = write_job(tmp_path)
    done = latentlake("run", str(path), "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    wanted = {
        "run_id", "table", "version", "tag", "counts", "columns", "rows_written", "truncated", "seconds", "rows_per_s",
        "model_rows_per_s", "peak_memory_mb", "fingerprints",
    }  # fmt: skip
    assert wanted <= report.keys()
    assert set(report["counts"]) == {"listed", "embedded", "reused", "unchanged", "filtered", "rejected", "removed"}
    assert set(report["seconds"]) == {"setup", "stream", "commit", "index"}
    assert (report["counts"]["embedded"], report["tag"]) == (12, "prod")
    assert report["peak_memory_mb"] > 100
    assert "12/12 objects" in done.stderr
    again = latentlake("run", str(path), cwd=tmp_path)
    assert (again.returncode, "nothing to embed" in again.stdout) == (0, True)
    refused = latentlake(
        "run", str(path), "--set", "source.include=['0.txt']", "--set", "table.prune=true", cwd=tmp_path
    )
    assert refused.returncode == 3
    assert "max_rows_removed" in refused.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_tables_show_versions_search_and_rejects(tmp_path: Path) -> None:
    job = make_job(tmp_path, write_texts(tmp_path / "in", {**TEXTS, "empty.txt": " "}), gates={"max_reject_rate": 0.5})
    run(job)
    lake = job["table"]["uri"]
    assert latentlake("tables", lake, cwd=tmp_path).stdout.split() == ["t"]
    shown = json.loads(latentlake("show", lake, "t", "--json", cwd=tmp_path).stdout)
    assert (shown["rows"], shown["tags"], shown["columns"]["h"]["dimension"], shown["rejects"]) == (
        12,
        {"prod": 1},
        64,
        1,
    )
    (version,) = json.loads(latentlake("versions", lake, "t", "--json", cwd=tmp_path).stdout)
    assert (version["version"], version["rows"], version["tags"]) == (1, 12, "prod")
    found = json.loads(latentlake("search", lake, "t", TEXTS["3.txt"], "-k", "3", "--json", cwd=tmp_path).stdout)
    assert [len(found), found[0]["id"]] == [3, "3.txt"]
    filtered = latentlake("search", lake, "t", "boats", "--where", "id = '5.txt'", "--json", cwd=tmp_path)
    assert [hit["id"] for hit in json.loads(filtered.stdout)] == ["5.txt"]
    (reject,) = json.loads(latentlake("rejects", lake, "t", "--json", cwd=tmp_path).stdout)
    assert (reject["object_id"], reject["error"]) == ("empty.txt", "empty")
    missing = latentlake("show", lake, "tt", cwd=tmp_path)
    assert (missing.returncode, "Did you mean 't'?" in missing.stderr) == (2, True)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_lancedb_reads_the_table(tmp_path: Path) -> None:
    lancedb = pytest.importorskip("lancedb")
    job = make_job(tmp_path, write_texts(tmp_path / "in", TEXTS))
    run(job)
    table = lancedb.connect(job["table"]["uri"]).open_table("t")
    row = table.search().where("id = '3.txt'").to_list()[0]
    assert table.search(row["h"]).metric("cosine").limit(1).to_list()[0]["id"] == "3.txt"
