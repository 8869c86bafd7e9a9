"""What a table names is data: a reader says what a query may run, fetch and call."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import EntryPoint
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
from lake_maker import LakeMaker
from model_maker import write_model, write_own_module

import latentlake
from latentlake.query import QueryModels
from latentlake.trust import Trust, host_of
from operators.chain import Chain
from operators.embedders import hashing, sentence_transformers
from operators.errors import FingerprintMismatch, ModelNotFound, SpecError
from operators.model_files import revision_of_files
from operators.registry import entry_points_of


class Config(hashing.Config):
    """A family that a server holds, as `hosted`; `loads` are the addresses that were asked."""

    loads: ClassVar[list[str | None]] = []

    family: Literal["hosted"] = "hosted"  # type: ignore[assignment]
    base_url: str | None = None

    def load(self, device: str, threads: int | None = None) -> hashing.HashingEmbedder:
        self.loads.append(self.base_url)
        return super().load(device, threads)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """Addresses that the family `hosted`, which this registers, was loaded for since."""
    entry = EntryPoint("hosted", __name__, "latentlake.embedders")
    monkeypatch.setitem(entry_points_of("embedders"), "hosted", entry)
    Config.loads.clear()
    return Config.loads


# servers


@pytest.mark.parametrize("hosts", [(), {"example.org"}, {"api.example.com.evil.org"}])
def test_a_server_that_a_table_names_is_not_asked(maker: LakeMaker, loads: list[str | None], hosts: Any):
    maker.write_texts(config=Config(base_url="https://API.example.com:8443/v1"))
    loads.clear()
    table = latentlake.connect(maker.uri, allow_hosts=hosts).open("notes")
    with pytest.raises(SpecError, match=r"https://API\.example\.com:8443/v1[\s\S]*allow_hosts=\{'api\.example\.com'\}"):
        table.search("open a file")
    assert len(table.search(id="doc1", k=2)) == 2
    assert loads == []


def test_a_server_that_the_reader_allows_is_asked(maker: LakeMaker, loads: list[str | None]):
    maker.write_texts(config=Config(base_url="https://api.example.com/v1"))
    loads.clear()
    table = latentlake.connect(maker.uri, allow_hosts={"API.example.com"}).open("notes")
    assert table.search("open a file and read its lines", k=1).to_list()[0]["id"] == "doc3"
    assert loads == ["https://api.example.com/v1"]


def test_a_family_with_a_server_of_its_own_needs_no_host(maker: LakeMaker, loads: list[str | None]):
    maker.write_texts(config=Config())
    assert len(latentlake.connect(maker.uri).open("notes").search("open", k=1)) == 1


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://api.example.com", "api.example.com"),
        ("http://LOCALHOST:80/v1", "localhost"),
        ("https://ours@theirs/", None),
        ("https://theirs\\@ours/", None),
        ("https://ours:80@theirs/", None),
        ("https://ours\n/", None),
        ("ftp://ours/", None),
        ("//ours/", None),
        ("None", None),
        ("", None),
    ],
)
def test_hosts(url: str, host: str | None):
    assert host_of(url) == host


def test_weights_are_loaded_after_the_fingerprint_is_compared(maker: LakeMaker, loads: list[str | None]):
    maker.write_texts(config=Config())
    loads.clear()
    stored = replace(latentlake.connect(maker.uri).open("notes").provenance("words"), fingerprint="0" * 32)
    with pytest.raises(FingerprintMismatch):
        QueryModels({}).embed("notes", "words", stored, "compare")
    assert loads == []


# code and files


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("sentence_transformers")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    return write_model(tmp_path / "model")


def test_code_runs_where_the_reader_trusts_it_too(maker: LakeMaker, model: Path, tmp_path: Path):
    write_own_module(model, tmp_path / "ran")
    files = [path for path in model.rglob("*") if path.suffix in (".json", ".safetensors", ".py")]
    fields = {"model": str(model), "revision": revision_of_files(files, model), "trust_remote_code": True}
    maker.write_texts(config=sentence_transformers.Config(**fields).resolve())
    (tmp_path / "ran").unlink()

    table = latentlake.connect(maker.uri).open("notes")
    with pytest.raises(SpecError, match=r"runs its own code[\s\S]*connect\(uri, trust_remote_code=True\)"):
        table.search("open a file")
    assert len(table.search(np.ones(8), k=2)) == 2
    assert not (tmp_path / "ran").exists()

    trusting = latentlake.connect(maker.uri, trust_remote_code=True).open("notes")
    assert trusting.search("open a file and read its lines", k=1).to_list()[0]["id"] == "doc3"
    assert (tmp_path / "ran").exists()


def test_a_model_whose_files_changed(maker: LakeMaker, model: Path):
    maker.write_texts(config=sentence_transformers.Config(model=str(model)).resolve())
    assert len(latentlake.connect(maker.uri).open("notes").search("open a file", k=1)) == 1
    (model / "config.json").write_text((model / "config.json").read_text() + " ")
    with pytest.raises(ModelNotFound, match=r"are .*, not .*, which `revision` pins[\s\S]*models=\{'words': PATH\}"):
        latentlake.connect(maker.uri).open("notes").search("open a file")


def test_a_model_that_the_reader_moved(maker: LakeMaker, model: Path):
    maker.write_texts(config=sentence_transformers.Config(model=str(model)).resolve())
    moved = model.rename(model.with_name("moved"))
    table = latentlake.connect(maker.uri, models={"words": moved}).open("notes")
    assert table.search("open a file and read its lines", k=1).to_list()[0]["id"] == "doc3"


# downloads


@pytest.fixture
def hub() -> Iterator[tuple[str, list[str]]]:
    """Address of a hub that has no model, and the paths that it is asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *arguments: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("allowed", [False, True])
def test_nothing_is_fetched_unless_the_reader_allows_it(hub: Any, tmp_path: Path, allowed: bool):
    address, asked = hub
    config = sentence_transformers.Config(model="owner/name", revision="0" * 40, dim=4)
    stored = {
        "fingerprint": "0" * 32,
        "identity": {},
        "embedder": config.model_dump(mode="json"),
        "chain": Chain("text").to_json(),
        "dtype": "float32",
    }
    code = """
import json, sys
from latentlake.provenance import Provenance
from latentlake.query import QueryModels
from latentlake.trust import Trust
from operators.errors import ModelNotFound
try:
    QueryModels({}, Trust(allow_downloads=sys.argv[2] == "True")).embed("t", "v", Provenance(**json.loads(sys.argv[1])), "a")
except ModelNotFound as failure:
    print(failure)
"""
    run = subprocess.run(
        [sys.executable, "-c", code, json.dumps(stored), str(allowed)],
        env={"HF_ENDPOINT": address, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_TELEMETRY": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert bool(asked) is allowed
    expected = "nor to be had from the hub" if allowed else "nothing is downloaded without `allow_downloads=True`"
    assert expected in run.stdout and "connect(uri, models={'v': PATH})" in run.stdout


def test_a_lake_hands_on_what_the_reader_allows(tmp_path: Path):
    given: dict[str, Any] = {"trust_remote_code": True, "allow_downloads": True, "allow_hosts": {"a"}}
    assert latentlake.connect(tmp_path, **given)._models._trust == Trust(True, True, {"a"})
    assert latentlake.connect(tmp_path)._models._trust == Trust(False, False, ())
