"""What only some platforms and file systems have: a small job, and the SDK, do without it."""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parent / "pipelines"))

from job_maker import make_job, open_table, run_job, write_texts
from run_maker import Here

from latentlake import storage
from latentlake.storage import open_storage
from pipelines.job.jobfile import parse_job
from pipelines.publish.memory import held_by, total_memory_mb
from pipelines.sources.files import open_regular


def no_links(self: Path, target: Path) -> None:
    raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP), str(self))


def no_link_function(self: Path, target: Path) -> None:
    raise NotImplementedError("Path.hardlink_to() is unsupported on this system")


@pytest.fixture(params=[no_links, no_link_function], ids=["file system", "platform"])
def without_links(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "hardlink_to", request.param)


@pytest.mark.usefixtures("without_links")
def test_one_of_many_writers_writes_without_hard_links(tmp_path: Path):
    place, won = open_storage(tmp_path), []
    start = threading.Barrier(8)

    def write(number: int) -> None:
        start.wait()
        if place.put_if_absent("x.json", b"%d" % number):
            won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert (tmp_path / "x.json").read_bytes() == b"%d" % won[0]
    assert place.put_if_absent("x.json", b"%d" % won[0])  # its own content is no conflict
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.usefixtures("without_links")
def test_a_claim_of_the_dead_expires(tmp_path: Path):
    place, claim = open_storage(tmp_path), tmp_path / ".x.json.claim"
    claim.touch()
    assert not place.put_if_absent("x.json", b"1")
    os.utime(claim, (0, time.time() - storage.CLAIM_S - 1))
    assert place.put_if_absent("x.json", b"1")
    assert not claim.exists()


def test_other_faults_are_no_lack_of_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(self: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "hardlink_to", full)
    with pytest.raises(OSError, match="No space left"):
        open_storage(tmp_path).put_if_absent("x.json", b"1")


def without_pss(self: psutil.Process) -> SimpleNamespace:
    return SimpleNamespace(rss=7 * 2**20, uss=5 * 2**20)  # as on macOS


def forbidden(self: psutil.Process) -> SimpleNamespace:
    raise psutil.AccessDenied(self.pid)


def test_memory_is_told_without_proportional_sizes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(psutil.Process, "memory_full_info", without_pss)
    assert held_by(psutil.Process()) == 7 * 2**20
    assert total_memory_mb() >= 7
    monkeypatch.setattr(psutil.Process, "memory_full_info", forbidden)
    assert held_by(psutil.Process()) > 2**20


@pytest.mark.usefixtures("without_links")
def test_a_small_job_and_the_sdk_work_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(os, "O_NONBLOCK")
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(psutil.Process, "memory_full_info", without_pss)
    source = write_texts(tmp_path / "in", {f"{n}.txt": f"text {n}" for n in range(9)})
    job = make_job(tmp_path, source)
    assert run_job(parse_job(job), runner=Here())["state"] == "published"
    assert run_job(parse_job(job), runner=Here())["state"] == "unchanged"
    assert len(open_table(job).search("text 3", k=3)) == 3


def test_a_file_is_opened_where_opening_always_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(os, "O_NONBLOCK")
    (tmp_path / "a").write_text("x")
    os.close(open_regular(str(tmp_path / "a"), os.O_RDONLY))
