"""The tables of the documentation name what the code has: keys, options, columns, members, with their defaults."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import pytest
from doc_commands import FENCE, ROOT
from pydantic import BaseModel

import latentlake
from clusters import ClusterProfile, HeadNode, KubernetesOptions, LauncherOptions, RuntimeEnv, WorkerGroup
from latentlake.building import IndexReport
from latentlake.evaluation import task_kinds
from latentlake.evaluation.records import SCHEMA as EVALS_SCHEMA
from latentlake.evaluation.suite import task_class
from latentlake.indexes import ANN_MIN_ROWS, TRAINING_ROWS
from latentlake.provenance import Provenance
from latentlake.table import DUPLICATE_FIELDS, REJECTS_SCHEMA
from operators import decode, embedders, errors, preprocess
from operators.embedders._encoder import AudioEncoder, ImageEncoder, TextEncoder
from operators.embedders._pixels import PixelsConfig
from operators.embedders._pooling import LayeredConfig
from operators.embedders._sound import SoundConfig
from operators.embedders._tokens import TokensConfig
from operators.embedders._torch import TorchConfig
from operators.embedders._transformers import FolderConfig
from operators.embedders.base import EmbedderConfig
from pipelines import sources
from pipelines.flow.counts import Counts
from pipelines.job.document import KEYS, EmbedKeys
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


def test_the_evaluation_page_has_every_column_of_the_records():
    assert {field.name for field in EVALS_SCHEMA} <= set(documented(section("docs/evaluation.md", "Records")))


@pytest.mark.parametrize("kind", task_kinds())
def test_the_evaluation_page_has_every_option(kind: str):
    check_fields(task_class(kind), section("docs/evaluation.md", f"`{kind}`"), ("kind", "name", "columns"))


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
