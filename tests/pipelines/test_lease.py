"""One writer a table: who gets the lease, who loses it, and what each of them is told."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest
from damage_maker import DAMAGE

from latentlake.storage import Storage, open_storage
from operators.errors import Unreadable, WriterConflict
from pipelines.state import lease as module
from pipelines.state.lease import (
    KEPT,
    LEASE_FOLDER,
    TTL_S,
    Entry,
    Lease,
    entry_name,
    entry_names,
    find_holder,
    hold_table,
    process_start,
    read_last,
    this_host,
)

TAKER = """
import sys, time
from pathlib import Path
from latentlake.storage import open_storage
from operators.errors import WriterConflict
from pipelines.state.lease import Lease
while not Path(sys.argv[2]).exists():
    time.sleep(0.001)
try:
    lease = Lease(open_storage(sys.argv[1]), "job 'other'")
    lease.take(False)
    print("took", flush=True)
    sys.stdin.read()
except WriterConflict:
    print("refused", flush=True)
"""


@pytest.fixture(params=["disk", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """A table's folder of work."""
    if request.param == "disk":
        return open_storage(str(tmp_path / "work"))
    options = {"aws_endpoint": request.getfixturevalue("s3_endpoint")}
    return open_storage(f"s3://lake/{uuid.uuid4().hex}/work", options)


@pytest.fixture
def disk(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "work"))


def taken(place: Storage, holder: str = "job 'a'") -> Lease:
    lease = Lease(place, holder)
    lease.take(False)
    return lease


def write_entry(place: Storage, **changes: object) -> Entry:
    """The next entry of the log, of another machine's writer unless `changes` say otherwise."""
    last = read_last(place.child(LEASE_FOLDER))
    now = time.time()
    entry = Entry((last.number if last else 0) + 1, "theirs", "job 'far'", "elsewhere/boot/pid", 7, now, now, now)
    entry = replace(entry, **changes)  # type: ignore[arg-type]
    assert place.child(LEASE_FOLDER).put_if_absent(entry_name(entry.number), json.dumps(asdict(entry)).encode())
    return entry


def start_taker(place: Storage, gate: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", TAKER, place.uri, str(gate)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_one_holder_at_a_time(place: Storage):
    assert find_holder(place) is None
    with hold_table(place, "job 'a'") as first:
        first.check()
        holder = find_holder(place)
        assert holder is not None and (holder.token, holder.pid) == (first.token, os.getpid())
        with pytest.raises(WriterConflict), hold_table(place, "job 'b'"):
            pytest.fail("two writers at once")
        first.check()  # the one that was refused has changed nothing
    assert find_holder(place) is None
    with hold_table(place, "job 'b'") as second:
        assert second.fence > first.fence
        assert second.token != first.token


def test_the_second_is_told_who_holds_the_table_and_what_to_do(disk: Storage):
    taken(disk, "job 'nightly'")
    since = time.strftime("%Y-%m-%d %H:", time.gmtime())
    with pytest.raises(WriterConflict) as refused:
        taken(disk)
    message = str(refused.value)
    assert "job 'nightly'" in message and f"process {os.getpid()} on {this_host().partition('/')[0]}," in message
    assert f"since {since}" in message and "UTC" in message and "--wait" in message
    assert refused.value.exit_code == 4


def test_an_error_inside_gives_the_table_back(disk: Storage):
    with pytest.raises(KeyError), hold_table(disk, "job 'a'"):
        raise KeyError
    assert find_holder(disk) is None
    with hold_table(disk, "job 'b'"):
        pass
    assert "lease" not in {thread.name for thread in threading.enumerate()}


def test_a_process_of_this_machine_that_was_killed_holds_nothing(disk: Storage, tmp_path: Path):
    (tmp_path / "gate").touch()
    other = start_taker(disk, tmp_path / "gate")
    try:
        assert other.stdout is not None and other.stdout.readline() == "took\n"
        with pytest.raises(WriterConflict, match=rf"job 'other' \(process {other.pid} on "):
            taken(disk)
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert find_holder(disk) is None  # long before its lease would have expired
    assert taken(disk).fence == 2


def test_another_process_of_the_same_number_is_not_the_holder(disk: Storage):
    mine = process_start(os.getpid())
    assert mine is not None
    write_entry(disk, host=this_host(), pid=os.getpid(), process_began=mine - 1)
    assert find_holder(disk) is None
    write_entry(disk, host=this_host(), pid=os.getpid(), process_began=mine)
    assert find_holder(disk) is not None


def test_a_step_of_the_clock_ends_no_holder(disk: Storage, monkeypatch: pytest.MonkeyPatch):
    """What psutil says of a process's start is counted from the machine's, which moves with the clock."""
    if not module.OWN_STAT.exists():
        pytest.skip("the system has no /proc, and tells the start itself")
    taken(disk)
    created = psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: created(self) + 2)
    assert find_holder(disk) is not None
    with pytest.raises(WriterConflict):
        taken(disk)


def test_the_start_of_a_process_is_told_from_others(tmp_path: Path):
    program = tmp_path / "a) S 1 (name"  # what stands between the brackets may look like the rest
    program.symlink_to(sys.executable)
    processes = [subprocess.Popen([program, "-c", "input()"], stdin=subprocess.PIPE) for _ in range(2)]
    time.sleep(0.05)
    processes.append(subprocess.Popen([program, "-c", "input()"], stdin=subprocess.PIPE))
    starts = [process_start(process.pid) for process in processes]
    assert starts == [process_start(process.pid) for process in processes]
    first, second, third = starts
    assert first is not None and second is not None and third is not None and first <= second < third
    for process in processes:
        process.kill()
    while psutil.Process(processes[0].pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert process_start(processes[0].pid) is None  # nobody has asked for its exit code yet
    for process in processes:
        process.communicate()
    assert process_start(processes[1].pid) is None


def test_a_process_that_the_system_hides_is_there(disk: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lease = taken(disk)
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "stat").touch()
    monkeypatch.setattr(module, "OWN_STAT", tmp_path / "proc" / "self" / "stat")
    assert process_start(os.getpid()) == module.UNSEEN
    assert find_holder(disk) is not None and lease.number == 1


def test_without_proc_psutil_tells(disk: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "OWN_STAT", tmp_path / "nowhere")
    assert process_start(os.getpid()) == psutil.Process().create_time()
    assert process_start(2**22 + 1) is None
    taken(disk)
    assert find_holder(disk) is not None


def test_an_entry_of_an_earlier_release_is_judged_by_its_renewals(disk: Storage):
    """It tells the start of its process in other numbers."""
    host = this_host().rpartition("/")[0]
    write_entry(disk, host=host, pid=os.getpid(), process_began=psutil.Process().create_time())
    assert find_holder(disk) is not None
    write_entry(disk, host=host, pid=os.getpid(), process_began=1.0)
    assert find_holder(disk) is not None
    write_entry(disk, host=host, pid=os.getpid(), renewed=time.time() - TTL_S - 1)
    assert find_holder(disk) is None


@pytest.mark.parametrize("damage", DAMAGE)
def test_an_entry_that_cannot_be_read_is_told_of(disk: Storage, damage: str):
    entry = write_entry(disk)
    log = disk.child(LEASE_FOLDER)
    log.put(entry_name(entry.number), DAMAGE[damage](json.dumps(asdict(entry)).encode()))
    with pytest.raises(Unreadable, match=r"If no writer is at work on this table, remove .*/lease/000000000001.json"):
        taken(disk)
    log.remove(entry_name(entry.number))
    assert taken(disk).fence == 1


def test_a_writer_of_another_machine_keeps_the_table_until_its_lease_expires(place: Storage):
    now = time.time()
    write_entry(place, since=now - 3600, renewed=now - TTL_S + 10)
    with pytest.raises(WriterConflict, match=r"job 'far' \(process 7 on elsewhere, since"):
        taken(place)
    entry = write_entry(place, since=now - 3600, renewed=now - TTL_S - 1)
    assert find_holder(place) is None
    assert taken(place).fence == entry.number + 1


def test_a_process_id_of_another_machine_says_nothing(disk: Storage):
    write_entry(disk, pid=2**22 + 1)  # no such process here
    assert find_holder(disk) is not None


def test_a_live_process_of_this_machine_that_does_not_renew_loses_the_table_too(disk: Storage):
    """It may be stopped, or cut off from the store; when it wakes up, `check` tells it."""
    sleeper = taken(disk)
    write_entry(disk, **{**asdict(sleeper._entry), "number": 2, "renewed": time.time() - TTL_S - 1})
    sleeper._entry = replace(sleeper._entry, number=2)
    second = taken(disk, "job 'b'")
    assert second.fence == 3
    with pytest.raises(WriterConflict, match="took the table over"):
        sleeper.check()


def test_a_writer_that_lost_the_table_can_neither_renew_nor_give_back(place: Storage):
    stale = taken(place)
    entry = write_entry(place)  # someone took over
    with pytest.raises(WriterConflict, match=r"another writer took the table over.*\n  Run the job again"):
        stale.check()
    with pytest.raises(WriterConflict):
        stale.check()
    stale.give_back()
    assert read_last(place.child(LEASE_FOLDER)) == entry


@pytest.mark.parametrize("act", [Lease.check, Lease.give_back])
def test_a_writer_that_wakes_up_after_its_entry_left_the_log(place: Storage, act: Callable[[Lease], None]):
    """The number that it would write next is free again."""
    stale = taken(place)
    write_entry(place, renewed=0.0)
    second = taken(place, "job 'b'")
    for _ in range(KEPT + 2):
        second.check()
    assert entry_name(stale.fence + 1) not in entry_names(place.child(LEASE_FOLDER))
    with pytest.raises(WriterConflict) if act is Lease.check else nullcontext():
        act(stale)
    holder = find_holder(place)
    assert holder is not None and holder.token == second.token
    second.check()
    with pytest.raises(WriterConflict):
        taken(place)


def test_renewals_keep_the_table_and_the_log_stays_short(place: Storage):
    lease = taken(place)
    before = read_last(place.child(LEASE_FOLDER))
    for _ in range(10):
        lease.check()
    after = read_last(place.child(LEASE_FOLDER))
    assert before is not None and after is not None
    assert (after.number, after.token, after.since) == (before.number + 10, before.token, before.since)
    assert after.renewed > before.renewed
    assert len(entry_names(place.child(LEASE_FOLDER))) == KEPT
    assert lease.fence == before.number  # the token is of the taking, not of the renewals
    lease.give_back()
    assert find_holder(place) is None
    assert taken(place).fence == after.number + 2


def test_it_is_renewed_while_it_is_held(disk: Storage, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "BEAT_S", 0.02)
    with hold_table(disk, "job 'a'"):
        began = time.time()
        while (last := read_last(disk.child(LEASE_FOLDER))) is None or last.number < 4:
            assert time.time() < began + 30
            time.sleep(0.02)


def test_a_beat_that_fails_does_not_end_the_beating(disk: Storage, monkeypatch: pytest.MonkeyPatch, caplog):
    monkeypatch.setattr(module, "BEAT_S", 0.02)
    lease = taken(disk)
    write, failures = lease._write, iter([OSError("the store is away"), OSError("and again")])

    def flaky(entry: Entry) -> bool:
        if failure := next(failures, None):
            raise failure
        return write(entry)

    monkeypatch.setattr(lease, "_write", flaky)
    beat = threading.Thread(target=lease.keep)
    beat.start()
    began = time.time()
    while (last := read_last(disk.child(LEASE_FOLDER))) is None or last.number < 3:
        assert time.time() < began + 30
        time.sleep(0.02)
    lease.give_back()
    beat.join()
    assert "the store is away" in caplog.text
    assert find_holder(disk) is None


def test_waiting_gets_the_table_when_it_is_given_back(place: Storage, monkeypatch: pytest.MonkeyPatch, caplog):
    monkeypatch.setattr(module, "POLL_S", 0.02)
    first = taken(place, "job 'first'")
    got = threading.Event()

    def wait() -> None:
        with hold_table(place, "job 'second'", wait=True):
            got.set()

    with caplog.at_level(logging.WARNING), ThreadPoolExecutor(1) as pool:
        waiter = pool.submit(wait)
        assert not got.wait(0.3)
        first.give_back()
        assert got.wait(30)
        waiter.result()
    assert [r.getMessage() for r in caplog.records if "waiting for" in r.getMessage()] == [
        f"waiting for {module.describe_holder(first._entry)}"
    ]  # once, however long it takes


@pytest.mark.parametrize("before", ["nothing", "given back", "expired"])
def test_of_many_threads_one_gets_it(place: Storage, before: str):
    if before == "given back":
        taken(place).give_back()
    if before == "expired":
        write_entry(place, renewed=0.0)
    start = threading.Barrier(8)

    def attempt(number: int) -> Lease | None:
        lease = Lease(place, f"job '{number}'")
        start.wait()
        try:
            lease.take(False)
        except WriterConflict:
            return None
        return lease

    for _ in range(3):
        with ThreadPoolExecutor(8) as pool:
            (winner,) = [lease for lease in pool.map(attempt, range(8)) if lease is not None]
        winner.check()
        winner.give_back()


def test_of_many_that_wait_each_gets_its_turn_alone(place: Storage, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "POLL_S", 0.01)
    inside, fences = [], []

    def work(number: int) -> None:
        with hold_table(place, f"job '{number}'", wait=True) as lease:
            inside.append(number)
            time.sleep(0.01)
            assert inside == [number]
            fences.append(lease.fence)
            inside.remove(number)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert len(fences) == 6 and fences == sorted(set(fences))


def test_of_several_processes_one_gets_it(disk: Storage, tmp_path: Path):
    processes = [start_taker(disk, tmp_path / "gate") for _ in range(3)]
    try:
        time.sleep(1)
        (tmp_path / "gate").touch()
        lines = [process.stdout.readline() for process in processes if process.stdout is not None]
        assert sorted(lines) == ["refused\n", "refused\n", "took\n"]
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_a_lease_is_over_also_where_the_store_could_not_be_told(place: Storage, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> bool:
        raise OSError(28, "No space left on device")

    with hold_table(place, "job 'a'"):
        monkeypatch.setattr(Storage, "put_if_absent", full)
    monkeypatch.undo()
    assert find_holder(place) is None
    with hold_table(place, "job 'b'") as lease:
        assert lease.fence == 2
