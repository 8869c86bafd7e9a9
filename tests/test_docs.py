"""The documentation is true: jobs are valid, code runs, command lines and links lead somewhere, tables name what the code has."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import lance
import numpy as np
import pytest
import typer
import yaml
from doc_commands import PAGES, ROOT, block_of, shell_blocks
from jsonschema import Draft202012Validator
from PIL import Image
from pydantic import BaseModel

import latentlake
from clusters import ClusterProfile, HeadNode, KubernetesOptions, LauncherOptions, RuntimeEnv, WorkerGroup
from latentlake.building import IndexReport
from latentlake.evaluation import load_suite, task_kinds
from latentlake.evaluation.records import SCHEMA as EVALS_SCHEMA
from latentlake.evaluation.suite import task_class
from latentlake.indexes import ANN_MIN_ROWS, TRAINING_ROWS
from latentlake.provenance import Provenance
from latentlake.table import DUPLICATE_FIELDS, REJECTS_SCHEMA
from operators import decode, embedders, errors, preprocess
from operators.chain import Chain
from operators.embedders._encoder import AudioEncoder, ImageEncoder, TextEncoder
from operators.embedders._pixels import PixelsConfig
from operators.embedders._pooling import LayeredConfig
from operators.embedders._sound import SoundConfig
from operators.embedders._tokens import TokensConfig
from operators.embedders._torch import TorchConfig
from operators.embedders._transformers import FolderConfig
from operators.embedders.base import EmbedderConfig
from operators.embedders.hashing import Config
from pipelines import sources
from pipelines.cli.main import app
from pipelines.flow.counts import Counts
from pipelines.job.document import KEYS, EmbedKeys, job_schema
from pipelines.job.jobfile import load_job, parse_yaml
from pipelines.job.spec import (
    DeduplicateSpec,
    GateSpec,
    IndexSpec,
    PoolSpec,
    PublishSpec,
    ScalarIndexSpec,
    ShardSpec,
    TableSpec,
    TextIndexSpec,
)
from pipelines.publish.building import DISTRIBUTED_ROWS
from pipelines.publish.report import build_report
from pipelines.publish.tally import Tally
from pipelines.state.ledger import RUNS_SCHEMA

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
# Sections of docs/embedders.md with the options that families have from what they are made of.
SHARED_OPTIONS = {
    EmbedderConfig: "Every family",
    TorchConfig: "On torch",
    FolderConfig: "Folders and hub ids",
    TokensConfig: "Text by tokens",
    LayeredConfig: "Layers",
    PixelsConfig: "Pictures",
    SoundConfig: "Sound",
}
ROW = re.compile(r"^\| (`[^|]*`[^|]*?) \| ([^|]*?) \|", re.MULTILINE)


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


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


def section(page: str, title: str) -> str:
    """Text below a heading of any level, up to the next heading."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", FENCE.sub("", read(page)), re.MULTILINE | re.DOTALL)
    assert found, f"{page} has no section '{title}'"
    return found[1]


def documented(text: str) -> dict[str, set[str]]:
    """First cells of the tables in `text`, each name by itself, with what the second cells say."""
    found: dict[str, set[str]] = {}
    for first, second in ROW.findall(text):
        for name in re.findall(r"`([^`]+)`", first):
            found.setdefault(name, set()).add(second.strip("`"))
    return found


def default_of(field: Any) -> str:
    """A field's default, as the tables write it."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "none"
    if isinstance(value, BaseModel):
        return "{}"
    if value == ():
        return "[]"
    return (value or '""') if isinstance(value, str) else json.dumps(value)


def check_fields(model: type[BaseModel], text: str, left_out: tuple[str, ...] = ()) -> None:
    """Every field of `model` stands in a table of `text`, with its default."""
    known = documented(text)
    for name, field in model.model_fields.items():
        if name not in left_out:
            assert name in known, f"{model.__module__}.{model.__name__}.{name} is not documented"
            assert default_of(field) in known[name], f"{model.__name__}.{name}: {known[name]}"


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


def test_the_evaluation_page_has_every_column_of_the_records():
    assert {field.name for field in EVALS_SCHEMA} <= set(documented(section("docs/evaluation.md", "Records")))


@pytest.mark.parametrize("kind", task_kinds())
def test_the_evaluation_page_has_every_option(kind: str):
    check_fields(task_class(kind), section("docs/evaluation.md", f"`{kind}`"), ("kind", "name", "columns"))


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


# Runs each block by itself: with no name that another one has made. The imports, which take seconds, are those of all.
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
    """What became of the blocks of code, run in one process per page: empty where all went well."""
    pages: dict[str, dict[str, str]] = {}
    for block in blocks("python", "# run"):
        pages.setdefault(block.id.partition(":")[0], {})[block.id] = block.values[0]
    found: dict[str, str] = {}
    told = tmp_path_factory.mktemp("told") / "told.json"
    for page in pages.values():
        done = subprocess.run(
            [sys.executable, "-W", "error::SyntaxWarning", "-c", RUN_BLOCKS, str(told)],
            input=json.dumps(page),
            cwd=folder_with_lake,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        found |= json.loads(told.read_text()) if done.returncode == 0 else dict.fromkeys(page, done.stderr or "died")
    return found


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
    targets = set(re.findall(r"^([\w-]+):", read("Makefile"), re.MULTILINE))
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


def check_sections(models: dict[str, type[BaseModel]]) -> None:
    """Each section of the job's page names the keys of its model."""
    for title, model in models.items():
        text = section("docs/job.md", title)
        check_fields(model, text)
        assert set(documented(text)) == set(model.model_fields)


def test_the_job_page_names_every_key():
    assert list(documented(section("docs/job.md", "Top level"))) == list(KEYS)
    assert set(documented(section("docs/job.md", "embed"))) == {*EmbedKeys.model_fields, "family", "normalize"}
    models = {
        "pool": PoolSpec,
        "table": TableSpec,
        "deduplicate": DeduplicateSpec,
        "index": IndexSpec,
        "text_index": TextIndexSpec,
        "scalar_index": ScalarIndexSpec,
        "gates": GateSpec,
        "publish": PublishSpec,
        "shard": ShardSpec,
    }
    check_sections(models)


def test_the_job_page_names_every_key_of_a_cluster_profile():
    parts = {
        "Cluster profile": ClusterProfile,
        "Worker groups": WorkerGroup,
        "Head": HeadNode,
        "Runtime environment": RuntimeEnv,
        "On Kubernetes": KubernetesOptions,
        "Launcher": LauncherOptions,
    }
    check_sections(parts)


def test_the_source_page_names_every_key():
    for kind in sources.source_kinds():
        check_fields(sources.source_class(kind), read("docs/sources.md"), left_out=("kind",))


def test_the_embedder_page_names_every_option():
    for family in embedders.family_names():
        model = embedders.config_class(family)
        text = section("docs/embedders.md", family)
        for base, title in SHARED_OPTIONS.items():
            if issubclass(model, base):
                assert f"[{title.lower()}](#{title.lower().replace(' ', '-')})" in text, f"{family}: {title}"
                text += section("docs/embedders.md", title)
        check_fields(model, text, left_out=("family", "normalize"))
        assert set(documented(text)) <= set(model.model_fields)
        for name in model.not_in_fingerprint:
            assert re.search(rf"^\| `{name}` .*Not in the fingerprint", text, re.MULTILINE), name


def test_the_embedder_page_names_every_key_of_an_exported_encoder():
    text = section("docs/embedders.md", "encoder.json")
    for encoder in (ImageEncoder, TextEncoder, AudioEncoder):
        check_fields(encoder, text, left_out=("modality",))


def test_the_operator_page_names_every_parameter():
    for name, found in preprocess.operators_by_name().items():
        text = section("docs/preprocess.md", name)
        check_fields(found.params, text)
        assert set(documented(text)) == set(found.params.model_fields)


def test_the_report_page_names_every_key():
    plan = SimpleNamespace(
        run_id="r",
        base_version=1,
        spec=SimpleNamespace(columns=["v"], embed=(), table=SimpleNamespace(name="t")),
        changes=SimpleNamespace(gone=0, left_out=0, forgotten=0),
    )
    seconds = {"setup": 0.0, "stream": 0.0, "commit": 0.0, "index": 0.0}
    report = build_report(plan, "unchanged", {"v": Counts()}, Tally(["v"], "a"), {}, seconds)  # type: ignore[arg-type]
    assert set(documented(section("docs/report.md", "Keys"))) == {*report, "error", "phases", "runner"}
    assert set(documented(section("docs/report.md", "Counts"))) == set(report["counts"])
    assert set(documented(section("docs/report.md", "Seconds"))) == set(seconds)
    for name in {*report["columns"]["v"], *(field.name for field in fields(IndexReport))}:
        assert f"`{name}`" in read("docs/report.md"), name


def test_the_table_page_names_every_column():
    assert set(documented(section("docs/tables.md", "Rejects"))) == {
        *REJECTS_SCHEMA.names,
        *(field.name for field in DUPLICATE_FIELDS),
    }
    assert set(documented(section("docs/tables.md", "The ledger, `_runs`"))) == set(RUNS_SCHEMA.names)
    assert set(documented(section("docs/tables.md", "Provenance"))) == {field.name for field in fields(Provenance)}
    indexes = section("docs/tables.md", "Indexes")
    assert f"{ANN_MIN_ROWS:,} vectors" in indexes
    assert f"from {TRAINING_ROWS} vectors on" in indexes
    assert f"{DISTRIBUTED_ROWS:,} vectors" in section("docs/indexes.md", "Large tables")


def test_the_sdk_page_names_every_member():
    text = read("docs/sdk.md")
    kinds = [latentlake.Lake, latentlake.Table, latentlake.Rows, latentlake.SearchResult]
    for kind in (*kinds, latentlake.ModelEmbedder, latentlake.MultimodalEmbedder):
        for name in vars(kind):
            assert name.startswith("_") or re.search(rf"`{name}[(`]", text), f"{kind.__name__}.{name}"
    for name in latentlake.__all__:
        assert not name.startswith(("create_", "get_")) or f"`{name}(" in text, name


def test_the_readme_names_everything_registered():
    known = set(documented(read("README.md")))
    registered = {*sources.source_kinds(), *embedders.family_names(), *preprocess.operators_by_name()}
    assert registered <= known
    assert set(decode.modality_names()) == {"audio", "image", "scientific_image", "text"}


def test_the_readme_has_every_exit_code():
    codes = {kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "exit_code")}
    stated = {int(code) for code in re.findall(r"^\| (\d+) \|", section("README.md", "Exit codes"), re.MULTILINE)}
    assert stated == {0, 130, *codes}


def test_the_architecture_page_names_every_room_in_its_order():
    contracts = tomllib.loads(read("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract.get("containers") == ["pipelines"])
    rooms = [name.strip("()") for layer in layers for name in layer.split(" | ")]
    assert list(documented(section("docs/architecture.md", "Rooms of `pipelines`"))) == rooms
    for path in re.findall(r"\b((?:flow|planning|publish|sources)/\w+\.py)", read("docs/architecture.md")):
        assert (ROOT / "pipelines" / path).exists(), path
