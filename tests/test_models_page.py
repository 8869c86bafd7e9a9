"""docs/models.md is what the code and docs/models_peers.yaml make of it; claims about peers can be looked up."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from pydantic import ValidationError

ROOT = Path(__file__).parent.parent
GENERATOR = ROOT / "docs" / "generate_models.py"


def load_generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_models", GENERATOR)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # pydantic looks its annotations up there
    spec.loader.exec_module(module)
    return module


generator = load_generator()
comparison = generator.read_comparison()
ROWS = [*comparison.models, *comparison.settings]
CLAIMS = [
    pytest.param(peer, claim, id=f"{peer}: {row.kind}")
    for row in ROWS
    for peer in comparison.peers
    if (claim := getattr(row, peer)) is not None
]


def test_the_committed_page_is_the_generated_one():
    assert generator.PAGE.read_text(encoding="utf-8") == generator.make_page(), "run: python docs/generate_models.py"


def test_what_is_installed_makes_no_difference():
    """The same page is made where no model library can be imported, or is found."""
    libraries = "torch transformers timm open_clip sentence_transformers torchvision onnxruntime lancedb lance ray"
    code = f"""
import runpy, sys

for name in {libraries.split()!r}:
    sys.modules[name] = None
make_page = runpy.run_path({str(GENERATOR)!r})["make_page"]
sys.stdout.buffer.write(make_page().encode())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode() == generator.make_page()


@pytest.mark.parametrize("family", generator.own_families())
def test_other_pages_name_the_extra_of_a_family(family: str):
    config = generator.own_families()[family]
    row = re.search(rf"^\| `{family}` \| ([\w, ]+) \| (.+?) \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert row and set(row[1].split(", ")) == config.modalities
    assert row[2] == (f"`{config.extra}`" if config.extra else "none")
    section = (ROOT / "docs" / "embedders.md").read_text().split(f"\n## {family}\n")[1].split("\n## ")[0]
    needed = f"needs the extra `{config.extra}`" if config.extra else "needs no extra"
    assert needed in " ".join(section.lower().split())


def test_every_family_stands_beside_the_peers():
    families = set(generator.own_families())
    assert {name for row in comparison.models for name in row.families} == families


def test_rows_say_something_of_us_or_of_a_peer():
    for row in ROWS:
        claims = [getattr(row, peer) for peer in comparison.peers]
        assert row.families or row.field or row.ours or any(claims), row.kind
    assert all(row.field and generator.ours_of(row, generator.own_families()) != "none" for row in comparison.settings)


@pytest.mark.parametrize(("peer", "claim"), CLAIMS)
def test_claims_name_files_of_the_peers_package(peer: str, claim: object):
    root = re.escape(comparison.peers[peer].root)
    for source in claim.sources:  # type: ignore[attr-defined]
        assert re.fullmatch(rf"{root}[\w/]+\.py( of commit [0-9a-f]{{12,40}})?", source), source


def test_a_claim_without_a_source_is_refused():
    with pytest.raises(ValidationError, match="sources"):
        generator.Claim.model_validate({"covers": "everything", "sources": []})
    with pytest.raises(ValidationError, match="curator"):
        generator.Row.model_validate({"kind": "video", "daft": None, "lancedb": None})


@pytest.mark.parametrize("peer", comparison.peers)
def test_peers_are_named_by_repository_and_version(peer: str):
    found = comparison.peers[peer]
    assert found.package.startswith("https://github.com/")
    assert f"{found.version}](" in (ROOT / "docs" / "models.md").read_text(encoding="utf-8")


def test_lancedb_is_read_at_the_version_that_is_installed_here():
    """Its claims can be held against the package itself: the files are there, and no registered name is left out."""
    version = re.search(r"^lancedb==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert version and version[1] == comparison.peers["lancedb"].version, "read the new version, then name it"
    (package,) = importlib.util.find_spec("lancedb").submodule_search_locations  # type: ignore[union-attr,misc]
    folder = Path(package)
    claims = [claim for row in ROWS if (claim := row.lancedb) is not None]
    for source in (source for claim in claims for source in claim.sources):
        assert (folder.parent / source).is_file(), source
    code = "".join(path.read_text(encoding="utf-8") for path in (folder / "embeddings").glob("*.py"))
    registered = set(re.findall(r'^@register\("([\w-]+)"\)', code, re.MULTILINE))
    assert len(registered) > 10
    named = {name for claim in claims for name in re.findall(r"`([\w-]+)`", claim.covers)}
    assert registered <= named, registered - named
