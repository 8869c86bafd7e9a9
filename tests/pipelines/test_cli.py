"""The command line as a user meets it: exit codes, what is printed. As a process of its own where that matters."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from command_line import latentlake_here
from job_maker import HASHING, make_job, run, write_texts
from run_maker import cut_short, held, lake_of

from latentlake import SearchResult
from pipelines.cli.printing import print_hits

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
        "import sys\nfrom pipelines.cli.main import main\n"
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
        done = latentlake_here(command, str(path), cwd=tmp_path)
        assert done.returncode == 2
        assert "2 mistakes" in done.stderr
        assert "Did you mean 'max_reject_rate'?" in done.stderr
        assert "Traceback" not in done.stderr
    assert latentlake("run", "nowhere.yaml", cwd=tmp_path).returncode == 2
    assert latentlake_here("runn", str(path), cwd=tmp_path).returncode == 2
    assert not (tmp_path / "lake").exists()


def test_a_pool_that_can_never_be_scheduled_is_refused_before_anything_starts(tmp_path: Path) -> None:
    path = write_job(tmp_path, embed=[{**HASHING, "pool": {"min": 4, "num_cpus": 64}}])
    done = latentlake_here("run", str(path), cwd=tmp_path)
    assert done.returncode == 2
    assert "Lower pool.min or pool.num_cpus" in done.stderr


def test_plan_writes_nothing(tmp_path: Path) -> None:
    path = write_job(tmp_path)
    done = latentlake_here("plan", str(path), "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert (plan["objects"], plan["to_read"], plan["dimensions"]) == (12, 12, {"h": 64})
    assert not (tmp_path / "lake").exists()


def test_a_secret_is_not_given_on_the_command_line(tmp_path: Path) -> None:
    for command in ("show t", "maintain t", "retry t"):
        name, *table = command.split()
        done = latentlake_here(
            name, "s3://lake/x", *table, "--option", "aws_secret_access_key=do-not-print", cwd=tmp_path
        )
        assert done.returncode == 2, command
        assert "a secret is given as env:NAME or file:PATH" in done.stderr
        assert "do-not-print" not in done.stdout + done.stderr and "Traceback" not in done.stderr


def test_runs_maintain_and_rollback(tmp_path: Path) -> None:
    job = make_job(tmp_path, write_texts(tmp_path / "in", TEXTS), shard={"max_objects": 5})
    lake = job["table"]["uri"]
    run(job)
    write_texts(tmp_path / "in", {"new.txt": "new"})
    report = run(job)

    def told(*arguments: str) -> Any:
        done = latentlake_here(*arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    lines = told("runs", lake, "t", "--json")
    found = {(line["state"], line["version"], line["embedded"]) for line in lines}
    assert found == {("published", 2, 1), ("published", 1, 12)}
    assert report["run_id"] in latentlake_here("runs", lake, "t", cwd=tmp_path).stdout
    done = told("maintain", lake, "t", "--json", "--keep-days", "0", "--orphan-days", "0")
    assert (done["fragments"], done["rows"], done["tags_moved"]) == (1, 13, ["prod"])
    back = latentlake_here("rollback", lake, "t", cwd=tmp_path)
    assert back.returncode == 2  # what it could go back to was removed
    assert "--to VERSION" in back.stderr and "Traceback" not in back.stderr
    write_texts(tmp_path / "in", {"newer.txt": "newer"})
    version = run(job)["version"]
    back = latentlake_here("rollback", lake, "t", cwd=tmp_path)
    assert (back.returncode, f"at version {done['version']}, it was at {version}" in back.stdout) == (0, True)
    assert latentlake_here("rollback", lake, "t", "--to", str(version), cwd=tmp_path).returncode == 0
    (shown, *_) = [row for row in told("versions", lake, "t", "--json") if row["tags"]]
    assert shown["version"] == version


def test_delete(tmp_path: Path) -> None:
    job = make_job(tmp_path, write_texts(tmp_path / "in", TEXTS))
    lake = job["table"]["uri"]
    run(job)
    (tmp_path / "ids.txt").write_text("3.txt\n4.txt\n")
    for wrong in (
        [],
        ["--ids", "ids.txt", "--where", "true"],
        ["--where", "true", "--allow-again"],
        ["--ids", "none.txt"],
    ):
        assert latentlake_here("delete", lake, "t", *wrong, cwd=tmp_path).returncode == 2
    done = latentlake_here("delete", lake, "t", "--ids", "ids.txt", "--json", cwd=tmp_path)
    assert (done.returncode, json.loads(done.stdout)["rows_deleted"]) == (0, 2), done.stderr
    done = latentlake_here("delete", lake, "t", "--where", "object_id = '5.txt'", cwd=tmp_path)
    assert (done.returncode, "data_files_with_these_objects: 0" in done.stdout) == (0, True), done.stderr
    done = latentlake_here("delete", lake, "t", "--ids", "ids.txt", "--allow-again", cwd=tmp_path)
    assert done.stdout.splitlines() == ["table: t", "objects_allowed_again: 2"]
    assert run(job)["counts"]["embedded"] == 2


@pytest.mark.slow
def test_a_table_that_another_writer_holds_ends_with_4(tmp_path: Path) -> None:
    path = write_job(tmp_path)
    job = yaml.safe_load(path.read_text())
    run(job)
    lake = job["table"]["uri"]
    with held(job):
        for command in (["run", str(path)], ["maintain", lake, "t"], ["rollback", lake, "t"], ["retry", lake, "t"]):
            done = latentlake_here(*command, cwd=tmp_path)
            assert done.returncode == 4, done.stderr
            assert "being written by job 'test' (process " in done.stderr and "--wait" in done.stderr
            assert "Traceback" not in done.stderr
        waiting = subprocess.Popen(
            [sys.executable, "-m", "pipelines", "run", str(path), "--wait", "--json"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert waiting.stderr is not None and "waiting for job 'test'" in waiting.stderr.readline()
    out, _ = waiting.communicate(timeout=100)
    assert (waiting.returncode, json.loads(out)["state"]) == (0, "unchanged")


def test_a_run_that_was_cut_short_is_told_of(tmp_path: Path) -> None:
    path = write_job(tmp_path, shard={"max_objects": 5})
    job = yaml.safe_load(path.read_text())
    plan = cut_short(job, 1)
    for state in ("killed, resumable", "running"):
        with held(job) if state == "running" else nullcontext():
            (line,) = json.loads(latentlake_here("runs", job["table"]["uri"], "t", "--json", cwd=tmp_path).stdout)
        assert (line["run_id"], line["state"], line["shards"]) == (plan.run_id, state, "1/3")
    assert latentlake_here("maintain", job["table"]["uri"], "t", cwd=tmp_path).returncode == 2  # there is no table yet


def test_retry_that_has_nothing_to_do_or_no_job_to_trust(tmp_path: Path) -> None:
    path = write_job(tmp_path)
    job = yaml.safe_load(path.read_text())
    lake = job["table"]["uri"]
    done = latentlake_here("retry", lake, "t", cwd=tmp_path)
    assert (done.returncode, "--job FILE" in done.stderr) == (2, True)
    run(job)
    done = latentlake_here("retry", lake, "t", "--stage", "decode", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert (report["state"], report["objects_read"], report["counts"]["unchanged"]) == ("unchanged", 0, 12)
    assert latentlake_here("retry", lake, "t", "--job", str(path), cwd=tmp_path).returncode == 0
    assert latentlake_here("retry", lake, "../t", cwd=tmp_path).returncode == 2


def test_fresh_discards_what_a_run_without_it_resumes(tmp_path: Path) -> None:
    path = write_job(tmp_path, shard={"max_objects": 5})
    job = yaml.safe_load(path.read_text())
    plan = cut_short(job, 1)
    done = latentlake_here("run", str(path), "--fresh", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["run_id"] != plan.run_id and report["shards_taken_over"] == 0
    lines = json.loads(latentlake_here("runs", job["table"]["uri"], "t", "--json", cwd=tmp_path).stdout)
    assert {line["run_id"]: line["state"] for line in lines} == {
        plan.run_id: "discarded",
        report["run_id"]: "published",
    }
    assert not lake_of(job).fs.exists(plan.place.root)


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
    assert set(report["counts"]) == {
        "listed",
        "embedded",
        "reused",
        "unchanged",
        "filtered",
        "rejected",
        "removed",
        "left_out",
        "forgotten",
    }
    assert set(report["seconds"]) == {"setup", "stream", "commit", "index"}
    assert (report["counts"]["embedded"], report["tag"]) == (12, "prod")
    assert report["peak_memory_mb"] > 50  # pages shared with tests beside count for a part
    assert "12/12 objects" in done.stderr
    assert "core_worker" not in done.stderr, "Ray's own words reach the user"
    again = latentlake_here("run", str(path), cwd=tmp_path)
    assert (again.returncode, "nothing to embed" in again.stdout) == (0, True)
    refused = latentlake_here(
        "run", str(path), "--set", "source.include=['0.txt']", "--set", "table.prune=true", cwd=tmp_path
    )
    assert refused.returncode == 3
    assert "max_objects_removed" in refused.stderr


def test_tables_show_versions_search_and_rejects(tmp_path: Path) -> None:
    job = make_job(tmp_path, write_texts(tmp_path / "in", {**TEXTS, "empty.txt": " "}), gates={"max_reject_rate": 0.5})
    run(job)
    lake = job["table"]["uri"]
    assert latentlake_here("tables", lake, cwd=tmp_path).stdout.split() == ["t"]
    shown = json.loads(latentlake_here("show", lake, "t", "--json", cwd=tmp_path).stdout)
    assert (shown["rows"], shown["tags"], shown["columns"]["h"]["dimension"], shown["rejects"]) == (
        12,
        {"prod": 1},
        64,
        1,
    )
    assert shown["columns"]["h"]["vectors"] == 12
    (made,) = json.loads(latentlake_here("versions", lake, "t", "--json", cwd=tmp_path).stdout)
    assert (made["version"], made["rows"], made["tags"]) == (1, 12, "prod")
    found = json.loads(latentlake_here("search", lake, "t", TEXTS["3.txt"], "-k", "3", "--json", cwd=tmp_path).stdout)
    assert [len(found), found[0]["id"]] == [3, "3.txt"]
    plain = latentlake_here("search", lake, "t", TEXTS["3.txt"], "-k", "2", cwd=tmp_path).stdout.splitlines()
    assert (plain[0].split(), plain[1].split(maxsplit=2)) == (
        ["distance", "id", "snippet"],
        ["0.0000", "3.txt", TEXTS["3.txt"]],
    )
    by_file = latentlake_here("search", lake, "t", "--file", "in/3.txt", "-k", "2", cwd=tmp_path).stdout.splitlines()
    assert by_file == plain
    filtered = latentlake_here("search", lake, "t", "boats", "--where", "id = '5.txt'", "--json", cwd=tmp_path)
    assert [hit["id"] for hit in json.loads(filtered.stdout)] == ["5.txt"]
    (reject,) = json.loads(latentlake_here("rejects", lake, "t", "--json", cwd=tmp_path).stdout)
    assert (reject["object_id"], reject["error"]) == ("empty.txt", "empty")
    missing = latentlake_here("show", lake, "tt", cwd=tmp_path)
    assert (missing.returncode, "Did you mean 't'?" in missing.stderr) == (2, True)


def test_version(tmp_path: Path) -> None:
    done = latentlake_here("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"latentlake {version('latentlake')}\n")


def test_hits_fit_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    hits = {
        "id": ["a/" * 9, "b#1"],
        "object_id": ["a/" * 9, "b"],
        "text": ["long words " * 30, None],
        "uri": [None, "s3://bucket/" + "b" * 90],
        "h_tokens": [3, None],
        "_distance": [0.25, 0.5],
    }
    print_hits(SearchResult(pa.table(hits)))
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["distance", "id", "snippet"]
    assert len(first) == 100 and first.startswith("0.2500    a/a/") and first.endswith("…")
    assert len(second) == 100 and "object_id: b, uri: s3://bucket/b" in second
    print_hits(SearchResult(pa.table(hits).slice(0, 0)))
    assert capsys.readouterr().out == "no hits\n"


def test_lancedb_reads_the_table(tmp_path: Path) -> None:
    lancedb = pytest.importorskip("lancedb")
    job = make_job(tmp_path, write_texts(tmp_path / "in", TEXTS))
    run(job)
    table = lancedb.connect(job["table"]["uri"]).open_table("t")
    row = table.search().where("id = '3.txt'").to_list()[0]
    assert table.search(row["h"]).metric("cosine").limit(1).to_list()[0]["id"] == "3.txt"
