"""The documentation is true: jobs are valid, code runs, command lines and links lead somewhere."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import lance
import numpy as np
import pytest
import typer
import yaml
from doc_commands import FENCE, PAGES, ROOT, block_of, shell_blocks
from jsonschema import Draft202012Validator
from PIL import Image

from clusters import ClusterProfile
from latentlake.evaluation import load_suite
from operators.chain import Chain
from operators.embedders.hashing import Config
from pipelines.cli.main import app
from pipelines.job.document import job_schema
from pipelines.job.jobfile import load_job, parse_yaml

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def blocks(language: str, mark: str = "") -> list[Any]:
    """Blocks of a language in all pages whose first line is `mark`, named by page and line."""
    made = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for found in FENCE.finditer(text):
            if found[1] == language and found[2].startswith(mark):
                line = text.count("\n", 0, found.start()) + 1
                made.append(pytest.param(found[2], id=f"{page.relative_to(ROOT)}:{line}"))
    return made


def command_lines() -> list[Any]:
    """Every command of our program in a shell block."""
    made = []
    for block in shell_blocks():
        for command in block.commands:
            words = shlex.split(command.partition(" > ")[0])
            for program in (["latentlake"], ["python", "-m", "pipelines"]):
                if words[: len(program)] == program:
                    made.append(pytest.param(words[len(program) :], id=f"{block.page}:{command}"))
    return made


@pytest.fixture(scope="session")
def schema() -> Draft202012Validator:
    """The JSON schema of a job file."""
    return Draft202012Validator(job_schema())


@pytest.mark.parametrize("text", blocks("yaml", "# job"))
def test_jobs_are_valid(text: str, schema: Draft202012Validator):
    assert parse_yaml(text).embed
    schema.validate(yaml.safe_load(text))


@pytest.mark.parametrize("text", blocks("yaml", "# cluster"))
def test_cluster_profiles_are_valid(text: str):
    profile = ClusterProfile.model_validate(yaml.safe_load(text))
    assert profile.cpus or profile.worker_groups or profile.job_server


@pytest.mark.parametrize("text", blocks("yaml"))
def test_yaml_is_marked(text: str):
    assert text.startswith(("# job\n", "# cluster\n", "# suite\n"))


@pytest.mark.parametrize("text", blocks("yaml", "# suite"))
def test_suites_are_valid(text: str):
    assert load_suite(yaml.safe_load(text)).tasks


@pytest.mark.parametrize("path", sorted(ROOT.glob("examples/*.yaml")), ids=lambda path: path.name)
def test_examples_are_valid(path: Path, schema: Draft202012Validator):
    assert load_job(path).embed
    schema.validate(yaml.safe_load(path.read_text(encoding="utf-8")))


def test_the_readme_shows_the_example():
    shown = next(block.values[0] for block in blocks("yaml", "# job") if block.id.startswith("README.md"))
    assert parse_yaml(shown) == load_job(ROOT / "examples" / "docs.yaml")


@pytest.fixture(scope="session")
def folder_with_lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with red.jpg, a job, and a lake of the tables `products`, `texts`, `rebuilt` and `both`, as the code in the pages expects it."""
    lake_maker = load_lake_maker()
    folder = tmp_path_factory.mktemp("docs")
    maker = lake_maker.LakeMaker(str(folder / "lake"))
    names = []
    for colour, value in lake_maker.COLOURS.items():
        names.append(f"{colour}.jpg")
        Image.new("RGB", (60, 40), value).save(folder / names[-1])
    contents = [(folder / name).read_bytes() for name in names]
    rows = {"id": names, "object_id": names, "uri": [str(folder / name) for name in names]}
    write_table(maker, "products", "squeeze", Config(dim=32, normalize=True), Chain("image"), contents, rows)
    texts = list(lake_maker.TEXTS)
    ids = [f"doc{row}" for row in range(len(texts))]
    rows = {"id": ids, "object_id": ids, "text": texts, "length": [len(text) for text in texts]}
    for name in ("texts", "rebuilt"):
        write_table(maker, name, "minilm", Config(), Chain("text"), texts, rows)
    words = [f"word{number} of {number % 7} and {number % 11}" for number in range(60)]
    columns = {}
    for column, dim in (("old", 32), ("new", 64)):
        field = maker.vector_field(column, Config(dim=dim), Chain("text"), "float32", "cosine")
        columns[column] = (field, np.asarray(maker.embed(Config(dim=dim), Chain("text"), words)))
    maker.write("both", {"id": words, "content_hash": words, "text": words}, columns)
    (folder / "notes").mkdir()
    (folder / "notes" / "ray.txt").write_text("Ray runs the models.")
    job = yaml.safe_load(block_of("docs/quickstart.md", "Quickstart", "yaml"))
    (folder / "job.yaml").write_text(json.dumps(job | {"embed": [{"column": "minilm", "family": "hashing"}]}))
    return folder


def load_lake_maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lake_maker", ROOT / "tests" / "latentlake" / "lake_maker.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_table(
    maker: Any, name: str, column: str, config: Config, chain: Chain, contents: list[Any], rows: dict[str, Any]
) -> None:
    field = maker.vector_field(column, config, chain, "float32", "cosine")
    encoded = [content if isinstance(content, bytes) else content.encode() for content in contents]
    hashes = [hashlib.sha256(content).hexdigest() for content in encoded]
    data = {**rows, "content_hash": hashes, "object_hash": hashes}
    maker.write(name, data, {column: (field, np.asarray(maker.embed(config, chain, contents)))})
    dataset = lance.dataset(f"{maker.uri}/{name}.lance")
    dataset.tags.create("prod", dataset.version)


# Runs each block by itself: with no name that another one has made. The imports, which take seconds, are those of all pages.
RUN_BLOCKS = """
import json, sys, traceback
told = {}
for name, code in json.load(sys.stdin).items():
    told[name] = ""
    try:
        exec(compile(code, name, "exec"), {"__name__": "__main__"})
    except BaseException:
        told[name] = traceback.format_exc()
json.dump(told, open(sys.argv[1], "w"))
"""


@pytest.fixture(scope="session")
def failures(folder_with_lake: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What became of the blocks of code, run in one process: empty where all went well."""
    code = {block.id: block.values[0] for block in blocks("python", "# run")}
    told = tmp_path_factory.mktemp("told") / "told.json"
    done = subprocess.run(
        [sys.executable, "-W", "error::SyntaxWarning", "-c", RUN_BLOCKS, str(told)],
        input=json.dumps(code),
        cwd=folder_with_lake,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    found: dict[str, str] = json.loads(told.read_text()) if done.returncode == 0 else {}
    return dict.fromkeys(code, done.stderr or "died") | found


@pytest.mark.parametrize("name", [block.id for block in blocks("python", "# run")])
def test_code_runs(name: str, failures: dict[str, str]):
    assert failures[name] == ""


@pytest.mark.parametrize("code", blocks("python"))
def test_code_is_marked(code: str):
    assert code.startswith(
        ("# run\n", "# needs mteb\n")
    )  # tests/latentlake/evaluation/test_mteb.py runs the same calls


@pytest.mark.parametrize("path", sorted(ROOT.glob("examples/*.ipynb")), ids=lambda path: path.name)
def test_notebooks_are_clean(path: Path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    cells = notebook["cells"]
    assert len({cell["id"] for cell in cells}) == len(cells)
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(ROOT.glob("examples/*.ipynb")), ids=lambda path: path.name)
def test_notebooks_run(path: Path, folder_with_lake: Path):
    """In a real kernel, one per notebook; the last cell of each gives a result that shows itself as HTML."""
    client = pytest.importorskip("nbclient")
    notebook = pytest.importorskip("nbformat").read(path, as_version=4)
    resources = {"metadata": {"path": str(folder_with_lake)}}
    client.NotebookClient(notebook, timeout=240, kernel_name="python3", resources=resources).execute()
    (*_, shown) = (output for cell in notebook.cells for output in cell.get("outputs", ()) if output.get("data"))
    assert "<table>" in shown["data"]["text/html"] or "<figure" in shown["data"]["text/html"]


@pytest.mark.parametrize("words", command_lines())
def test_command_lines_exist(words: list[str]):
    group = typer.main.get_command(app)
    while words[0].startswith("--"):  # an option of all commands, with its value
        assert words[0] in {option for parameter in group.params for option in parameter.opts}
        words = words[2:]
    commands = group.commands  # type: ignore[attr-defined]
    assert words[0] in commands, f"no command '{words[0]}'"
    commands[words[0]].make_context(words[0], words[1:])


def test_every_command_is_shown():
    shown = {words.values[0][0] for words in command_lines()}
    assert shown >= set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def test_make_targets_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for block in blocks("sh"):
        for target in re.findall(r"^make ([\w-]+)", block.values[0], re.MULTILINE):
            assert target in targets, f"{block.id}: make {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path):
    for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        assert path.is_relative_to(ROOT), target
        if anchor:
            assert anchor in anchors(path), target


def anchors(path: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", FENCE.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
