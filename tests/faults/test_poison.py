"""A corpus with 2 % poison: each bad row is a reject that says why, all others are embedded, and the run ends by itself."""

from __future__ import annotations

import io
import os
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparison import check_snapshot, take_snapshot
from job_maker import make_job
from PIL import Image
from plugin_maker import install_plugins
from processes import Driver

from operators.batch import object_array
from operators.embedders.hashing import Config

pytestmark = pytest.mark.slow

DIED = r"the process died"
WAIT_S = 500  # for a run in which process after process dies, or hangs for a while first
# By file: content, and the stage and the reason that the reject must give.
TEXTS: dict[str, tuple[bytes, str, str]] = {
    "0007.txt": (b"", "decode", "empty"),
    "0060.txt": (b" \n\t", "decode", "empty"),
    "0111.txt": (
        "gr\u00fc\u00df aus k\u00f6ln und m\u00fcnchen ".encode() * 9 + b"\xff\xfe\xc3",
        "decode",
        "broken UTF-8",
    ),
    "0150.txt": (bytes(range(256)) * 4, "decode", "not text"),
    "0190.txt": ("\ufeffhalf a character".encode("utf-16")[:-1], "decode", "not text"),
    "0222.txt": (b"!!! ... ???", "embed", "the vector is zero"),
    "0240.txt": (b"a row of poisonnan here", "embed", "the vector is not finite"),
    "0241.txt": (b"a row of poisoninf here", "embed", "the vector is not finite"),
    "0290.txt": (b"a row of poisonnorm here", "embed", r"the vector has length 3\.0"),
    "0333.txt": (b"a row of poisonraise here", "embed", "RuntimeError: CUDA error"),
    "0334.txt": (b"a row of poisonprepare here", "prepare", "KeyError"),
    "0400.txt": (b"a row of poisonmemory here", "embed", "MemoryError"),
    "0470.txt": (b"a row of poisonsegfault here", "embed", DIED),
    "0471.txt": (b"a row of poisonexit here", "embed", DIED),
    "0590.txt": (b"a row of poisonkill here", "embed", DIED),
}
OPERATOR = {
    "0033.txt": (b"a row of poisonoperator here", "poison_text", "RuntimeError: the operator"),
    "0100.txt": (b"a row of poisonreader here", "decode", DIED),
}
GATES = {"max_reject_rate": 0.2}


def run_with_plugins(folder: Path, job: dict[str, Any], runner: str) -> dict[str, Any]:
    """Report of a job whose processes have the plugins."""
    plugins = folder / "plugins"
    path = plugins if plugins.exists() else install_plugins(plugins)
    return Driver(folder, job, "--runner", runner, python_path=path).succeed(WAIT_S)


def check_rejects(job: dict[str, Any], poison: dict[str, tuple[bytes, str, str]]) -> None:
    """Every poisoned object is a reject of the right stage and reason, and nothing else is."""
    found = {name: (stage, error) for name, _, _, _, stage, error, *_ in take_snapshot(job).rejects}
    assert sorted(found) == sorted(poison)
    for name, (_, stage, reason) in poison.items():
        assert found[name][0] == stage, (name, found[name])
        assert re.search(reason, found[name][1]), (name, found[name])


def check_run(
    folder: Path, job: dict[str, Any], total: int, poison: dict[str, tuple[bytes, str, str]], runner: str = "ray"
) -> None:
    """Run a job on poison, then once more."""
    report = run_with_plugins(folder, job, runner)
    assert (report["counts"]["embedded"], report["counts"]["rejected"]) == (total - len(poison), len(poison))
    check_rejects(job, poison)
    check_snapshot(take_snapshot(job))
    again = run_with_plugins(folder, job, runner)
    assert (again["state"], again["objects_read"], again["counts"]["rejected"]) == ("unchanged", 0, len(poison))


@pytest.mark.fault("2 % poison: texts and the model", "rejects with stage and reason; the rest embedded; the run ends")
@pytest.mark.parametrize("runner", ["ray", "inline"])
def test_poisoned_texts(tmp_path: Path, runner: str) -> None:
    (tmp_path / "in").mkdir()
    good = {f"{n:04}.txt": f"text number {n} about subject {n % 7}" for n in range(600)}
    for name, text in good.items():
        (tmp_path / "in" / name).write_bytes(TEXTS[name][0] if name in TEXTS else text.encode())
    embed = {"column": "v", "family": "poison", "dim": 16, "pool": {"min": 1, "max": 1}}
    source = {"kind": "files", "uri": str(tmp_path / "in")}
    job = make_job(tmp_path, source, [embed], gates=GATES, shard={"max_objects": 64})
    check_run(tmp_path, job, 600, TEXTS, runner)
    rows = {row["id"]: row["v"] for row in take_snapshot(job).rows.to_pylist()}
    config = Config(dim=16, normalize=True)
    names = sorted(set(good) - set(TEXTS))
    vectors = config.load("cpu").embed(
        config.prepare({"text": object_array([good[name] for name in names])}, "document")
    )
    np.testing.assert_array_equal(np.array([rows[name] for name in names], dtype=np.float32), vectors)


@pytest.mark.fault("2 % poison: an operator that kills its process", "rejects with stage and reason; the run ends")
@pytest.mark.parametrize("runner", ["ray", "inline"])
def test_a_poisoned_reading_task(tmp_path: Path, runner: str) -> None:
    (tmp_path / "in").mkdir()
    for n in range(150):
        name = f"{n:04}.txt"
        (tmp_path / "in" / name).write_bytes(OPERATOR[name][0] if name in OPERATOR else f"text number {n}".encode())
    embed = {"column": "v", "family": "hashing", "dim": 16, "pool": {"min": 1, "max": 1}}
    source = {"kind": "files", "uri": str(tmp_path / "in")}
    job = make_job(
        tmp_path, source, [embed], preprocess=[{"op": "poison_text"}], gates=GATES, shard={"max_objects": 64}
    )
    check_run(tmp_path, job, 150, OPERATOR, runner)


OVERRAN = r"it took longer than 8 s \(limits.object_timeout_s\)"
HANGS = {
    "0007.txt": (b"a row of poisonsleepoperator here", "decode", OVERRAN),
    "0019.txt": (b"a row of poisonlockoperator here", "decode", DIED),
    "0028.txt": (b"a row of poisonsleep here", "embed", OVERRAN),
    "0030.txt": (b"a row of poisonabort here", "embed", DIED),
}


@pytest.mark.fault(
    "objects that hang, in an operator and in the model", "rejects that say so; the rest embedded; the run ends"
)
def test_what_hangs(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for n in range(40):
        name = f"{n:04}.txt"
        (tmp_path / "in" / name).write_bytes(HANGS[name][0] if name in HANGS else f"text number {n}".encode())
    embed = {"column": "v", "family": "poison", "dim": 16, "pool": {"min": 1, "max": 1}}
    source = {"kind": "files", "uri": str(tmp_path / "in")}
    limits = {"object_timeout_s": 8}
    job = make_job(
        tmp_path,
        source,
        [embed],
        preprocess=[{"op": "poison_text"}],
        gates=GATES,
        shard={"max_objects": 16},
        limits=limits,
    )
    check_run(tmp_path, job, 40, HANGS)


def picture(seed: int, kind: str = "PNG") -> bytes:
    """A small picture."""
    pixels = np.random.default_rng(seed).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def bomb() -> bytes:
    """A PNG that says it is 60,000 x 60,000."""
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )


@pytest.mark.fault("2 % poison: images and files", "rejects with stage and reason; the rest embedded; the run ends")
def test_poisoned_images(tmp_path: Path) -> None:
    poison = {
        "010.jpg": (picture(1, "JPEG")[:-200], "decode", "broken JPEG"),
        "020.png": (picture(2)[:400], "decode", "broken PNG"),
        "030.png": (bomb(), "decode", "decompression bomb"),
        "040.png": (b"", "decode", "empty"),
        "050.png": (b"just a text", "decode", "not an image"),
        "060.png": (os.urandom(500), "decode", "not an image"),
        "070.png": (picture(3)[:8] + b"\0" * 300, "decode", "."),
        "080.gif": (b"GIF89a" + b"\xff" * 40, "decode", "."),
    }
    folder = tmp_path / "in"
    folder.mkdir()
    for n in range(200):
        (folder / f"{n:03}.good.png").write_bytes(picture(n + 100))
    for name, (content, _, _) in poison.items():
        (folder / name).write_bytes(content)
    (folder / "dangling.png").symlink_to(folder / "nowhere.png")
    os.mkfifo(folder / "pipe.png")
    poison |= {"dangling.png": (b"", "list", "."), "pipe.png": (b"", "list", "not a regular file")}
    embed = {"column": "v", "family": "hashing", "dim": 16, "pool": {"min": 1, "max": 1}}
    source = {"kind": "files", "uri": str(folder)}
    job = make_job(tmp_path, source, [embed], "image", gates=GATES, shard={"max_objects": 64})
    check_run(tmp_path, job, 200 + len(poison), poison)
