"""What is sent for a job: which files, and that the same files are the same package."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import pytest
from ray._private.runtime_env.packaging import unzip_package

from clusters import packages
from clusters.packages import list_files, pack
from operators.errors import SpecError


def fill(folder: Path, *names: str, text: str = "x") -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_all_files_are_sent_but_for_what_no_job_needs(tmp_path: Path):
    fill(tmp_path, "job.yaml", "b/c/d.py", "b/__pycache__/d.pyc", ".git/config", ".hidden/x")
    assert list(list_files(tmp_path)) == [".hidden/x", "b/c/d.py", "job.yaml"]


def test_ignore_files_hold_in_their_folder_and_below(tmp_path: Path):
    fill(tmp_path, "a.log", "keep.log", "b/a.log", "b/big/x", "c/big/x", "c/y.tmp", "d/data/x", "d/e/data/x")
    (tmp_path / ".gitignore").write_text("*.log\n!keep.log\n/b/big/\n")
    (tmp_path / ".rayignore").write_text("*.tmp\n")
    fill(tmp_path / "d", ".gitignore", text="/data\n")
    assert list(list_files(tmp_path)) == [
        ".gitignore",
        ".rayignore",
        "c/big/x",
        "d/.gitignore",
        "d/e/data/x",
        "keep.log",
    ]


def test_a_folders_own_rules_outrank_those_above_but_never_ray_s(tmp_path: Path):
    fill(tmp_path, "b/a.log", "b/b.tmp")
    (tmp_path / ".gitignore").write_text("*.log\n")
    (tmp_path / ".rayignore").write_text("*.tmp\n")
    fill(tmp_path / "b", ".gitignore", text="!a.log\n!b.tmp\n")
    assert list(list_files(tmp_path)) == [".gitignore", ".rayignore", "b/.gitignore", "b/a.log"]


def test_links_are_followed_but_not_in_a_circle(tmp_path: Path):
    other = fill(tmp_path / "other", "m/x")
    folder = fill(tmp_path / "job", "a")
    (folder / "model").symlink_to(other / "m")
    (folder / "again").symlink_to(folder)
    (folder / "gone").symlink_to(tmp_path / "nothing")
    os.mkfifo(folder / "pipe")
    assert list(list_files(folder)) == ["a", "model/x"]


def test_equal_files_are_an_equal_package(tmp_path: Path):
    first, second = (fill(tmp_path / name, "job.yaml", "a/b.py") for name in "ab")
    os.utime(second / "job.yaml", (0, 0))
    made = [pack(list_files(folder), folder) for folder in (first, second)]
    assert made[0] == made[1]
    assert made[0].name.startswith("_ray_pkg_") and made[0].uri == f"gcs://{made[0].name}"
    with zipfile.ZipFile(io.BytesIO(made[0].content)) as archive:
        assert archive.namelist() == ["a/b.py", "job.yaml"]
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    names = {made[0].name}
    for change in (lambda: fill(second, "a/b.py", text="y"), lambda: (second / "a/b.py").chmod(0o755)):
        change()
        names.add(pack(list_files(second), second).name)
    names.add(pack({**list_files(second), "c": b"more"}, second).name)
    assert len(names) == 4


def test_ray_unpacks_it(tmp_path: Path):
    folder = fill(tmp_path / "job", "only/a.sh")
    (folder / "only/a.sh").chmod(0o755)
    (tmp_path / "p.zip").write_bytes(pack(list_files(folder), folder).content)
    unzip_package(str(tmp_path / "p.zip"), str(tmp_path / "out"), remove_top_level_directory=False, unlink_zip=True)
    assert (tmp_path / "out/only/a.sh").read_text() == "x" and os.access(tmp_path / "out/only/a.sh", os.X_OK)


@pytest.mark.parametrize("limit", ["READ_LIMIT_MB", "LIMIT_MB"])
def test_what_is_too_large_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str):
    monkeypatch.setattr(packages, limit, 1)
    fill(tmp_path, "job.yaml", "small/x")
    for name, size in {"models/a/weights.bin": 3, "models/a/more.bin": 1, "venv/lib/x.so": 2}.items():
        fill(tmp_path, name)
        (tmp_path / name).write_bytes(os.urandom(size * 2**20))
    with pytest.raises(SpecError) as failure:
        pack(list_files(tmp_path), tmp_path)
    told = str(failure.value)
    assert "models/a/ (4 MiB), venv/lib/x.so (2 MiB)" in told and "6 MiB of files" in told
    assert f"{tmp_path}/.rayignore" in told and "--working-dir" in told


def test_a_folder_with_too_many_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(packages, "MAX_FILES", 2)
    with pytest.raises(SpecError, match="more than 2 files"):
        list_files(fill(tmp_path, "a", "b", "c"))


def test_a_folder_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(SpecError, match=r"no folder '.*none'"):
        list_files(tmp_path / "none")
