"""The command line speaks of its own options, and finds the same mistakes in every file that it is given."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from job_maker import make_job, run, write_texts

import latentlake
from pipelines.cli import main as cli
from pipelines.cli.wording import as_command

ROOT = Path(latentlake.__file__).parent.parent
# What nobody types on a command line: calls and keywords of Python.
PYTHON = re.compile(r"connect\(|`\w+=`|`\w+\(\)`|pathlib|=True|PIL image")
FILES = [*(ROOT / "latentlake").glob("*.py"), ROOT / "operators" / "model_files.py"]
NOT_OF_COMMANDS = ("embedders.py", "handover.py")  # which no command uses


def strings(path: Path) -> list[str]:
    """Texts of the errors that a module raises, with PLACE for what they fill in."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    docs = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    joined = [node for node in nodes if isinstance(node, ast.JoinedStr)]
    parts = {id(part) for node in joined for part in node.values} | docs
    found = ["".join(str(getattr(part, "value", "")) if isinstance(part, ast.Constant) else "PLACE" for part in node.values) for node in joined]  # fmt: skip
    return found + [
        n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in parts
    ]


@pytest.mark.parametrize("path", [path for path in FILES if path.name not in NOT_OF_COMMANDS], ids=lambda p: p.name)
def test_messages_of_the_sdk_are_put_in_words_of_the_command_line(path: Path):
    left = [as_command(text) for text in strings(path) if PYTHON.search(as_command(text))]
    assert not left


@pytest.fixture
def lake(tmp_path: Path) -> str:
    job = make_job(tmp_path, write_texts(tmp_path / "in", {"a.txt": "one", "b.txt": "two"}))
    run(job)
    return str(job["table"]["uri"])


def failed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """What a command that ends with 2 prints."""
    monkeypatch.setattr(sys, "argv", ["latentlake", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    told = capsys.readouterr()
    assert not told.out and "Traceback" not in told.err
    return told.err


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["search", "LAKE", "t"], "give one of: a query, --file, --id"),
        (["search", "LAKE", "t", "x", "--id", "a"], "give one of: a query, --file, --id"),
        (["search", "LAKE", "t", "x", "-k", "0"], "-k is 0; it must be 1 or more."),
        (["search", "LAKE", "t", "x", "--where", "nope = 1"], "--where "),
        (["search", "LAKE", "t", "--file", "x.png"], "cannot read"),
        (["show", "LAKE", "t", "--version", "99"], "`latentlake versions URI TABLE` lists them"),
        (["show", "LAKE", "t", "--version", "1", "--tag", "prod"], "give --version or --tag, not both"),
        (["runs", "LAKE", "tt"], "no table 'tt' in lake"),
        (["runs", "LAKE", "tt", "--json"], "Did you mean 't'?"),
    ],
)
def test_mistakes_on_the_command_line(
    lake: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], wanted: str
):
    told = failed(capsys, monkeypatch, *[lake if argument == "LAKE" else argument for argument in arguments])
    assert wanted in told and not PYTHON.search(told)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("cpu: 4\n", "cpu (line 1): unknown key. Did you mean 'cpus'?"),
        ("address: auto\ncpus: many\n", "cpus (line 2): Input should be a valid integer"),
        ("cpus: 0\nmemory_mb: 1\n", "2 mistakes"),
        ("[1]\n", "must be a mapping of keys to values, not list."),
        ("cpus: 1\ncpus: 2\n", "key 'cpus' appears twice"),
        ("a: [", "not YAML"),
    ],
)
def test_mistakes_in_a_cluster_profile(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, text: str, wanted: str
):
    import yaml

    job, profile = tmp_path / "job.yaml", tmp_path / "profile.yaml"
    job.write_text(yaml.safe_dump(make_job(tmp_path, write_texts(tmp_path / "in", {"a.txt": "x"}))), encoding="utf-8")
    profile.write_text(text, encoding="utf-8")
    told = failed(capsys, monkeypatch, "plan", str(job), "--cluster", str(profile))
    assert wanted in told and "profile.yaml" in told and "pydantic" not in told and "validation error" not in told


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("embd.0.dim=3", "the job has no section 'embd'. Did you mean 'embed'?"),
        ("xyz=3", "the job has no section 'xyz'. Known: name, modality"),
        ("embed.5.dim=3", "'embed' has 1 entries, numbered from 0; there is no 5."),
        ("embed.h.dim=3", "'embed' is a list: name an entry by its number, from 0."),
        ("table.name.x=3", "'table.name' is a value, and has no 'x'."),
        ("embed.0.dimm=3", "unknown key. Did you mean 'dim'?"),
    ],
)
def test_a_path_that_leads_nowhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, path: str, wanted: Any
):
    import yaml

    job = tmp_path / "job.yaml"
    job.write_text(yaml.safe_dump(make_job(tmp_path, write_texts(tmp_path / "in", {"a.txt": "x"}))), encoding="utf-8")
    assert wanted in failed(capsys, monkeypatch, "validate", str(job), "--set", path)
