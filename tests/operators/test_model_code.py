"""Models with code of their own, in Python files or in pickles: it runs where it is trusted and pinned, and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from libraries import library
from model_maker import Payload, change_json, write_json, write_model, write_modules, write_own_module
from pydantic import ValidationError

from operators.batch import make_batch, object_array
from operators.embedders.sentence_transformers import Config
from operators.errors import ModelNotFound, SpecError
from operators.model_files import downloads_if
from pipelines.job.jobfile import parse_yaml

library("sentence_transformers")
torch = library("torch")

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    return write_model(tmp_path / "model")


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    """A file that is there once the model's code ran."""
    return tmp_path / "ran"


def embed(config: Config) -> np.ndarray:
    batch = {**make_batch(["a"], ["open a file"]), "text": object_array(["open a file"])}
    return config.load("cpu", threads=1).embed(config.prepare(batch, "document"))


def pickle_weights(model: Path, **objects: Any) -> None:
    """Turn the model's weights into a pickle, with `objects` added."""
    from safetensors.torch import load_file

    torch.save({**load_file(model / "model.safetensors"), **objects}, model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()


# pickles


def test_weights_in_a_pickle_of_tensors_load(model: Path):
    expected = embed(Config(model=str(model)).resolve())
    pickle_weights(model)
    np.testing.assert_array_equal(embed(Config(model=str(model)).resolve()), expected)


@pytest.mark.parametrize("options", ["model_args", "model_kwargs"])
def test_weights_that_would_run_code_are_refused(model: Path, ran: Path, options: str):
    pickle_weights(model, extra=Payload(ran))
    # The library takes this over from the model's own files, and opens the pickle first to look for a dtype.
    change_json(model / "sentence_bert_config.json", **{options: {"weights_only": False}})
    change_json(model / "config.json", dtype=None)
    with pytest.raises(ModelNotFound, match=r"do not load as tensors alone[\s\S]*convert them to safetensors"):
        Config(model=str(model)).resolve().load("cpu")
    assert not ran.exists()


def test_a_dense_module_that_would_run_code_is_refused(model: Path, ran: Path):
    kinds = ("Transformer", "Pooling", "Dense")
    write_modules(model, *(f"sentence_transformers.models.{kind}" for kind in kinds))
    write_json(model / "2_Dense" / "config.json", {"in_features": 8, "out_features": 4})
    torch.save({"linear.weight": Payload(ran)}, model / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(ModelNotFound, match="do not load as tensors alone"):
        Config(model=str(model)).resolve().load("cpu")
    assert not ran.exists()


def test_a_model_without_weights(model: Path):
    (model / "model.safetensors").unlink()
    with pytest.raises(ModelNotFound, match="has no weights"):
        Config(model=str(model)).resolve().load("cpu")


# Python files


def test_a_models_own_module_runs_only_where_it_is_trusted(model: Path, ran: Path):
    write_own_module(model, ran)
    untrusted = Config(model=str(model))
    with pytest.raises(SpecError, match=r"brings code of its own: modeling_own\.Own") as failure:
        untrusted.resolve()
    with pytest.raises(ValueError, match="modeling_own"):  # and where nobody resolved, the library refuses
        untrusted.load("cpu")
    assert not ran.exists()

    revision = str(failure.value).partition("revision: ")[2][:32]
    trusted = Config(model=str(model), trust_remote_code=True, revision=revision).resolve()
    assert trusted.revision == revision and not ran.exists()
    assert np.linalg.norm(embed(trusted)) == pytest.approx(1) and ran.exists()


def test_the_pinned_revision_covers_the_code(model: Path, ran: Path):
    write_own_module(model, ran)
    with pytest.raises(SpecError) as failure:
        Config(model=str(model)).resolve()
    revision = str(failure.value).partition("revision: ")[2][:32]
    config = Config(model=str(model), trust_remote_code=True, revision=revision).resolve()
    with (model / "modeling_own.py").open("a") as file:
        file.write("# one line more\n")
    for act in (config.resolve, lambda: config.load("cpu")):
        with pytest.raises(ModelNotFound, match=rf"are [0-9a-f]{{32}}, not {revision}, which `revision` pins"):
            act()
    assert not ran.exists()


@pytest.mark.parametrize(
    ("file", "changes", "name"),
    [
        ("config.json", {"auto_map": {"AutoModel": "modeling_own.Net"}}, "modeling_own.Net"),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["words.Slow", None]}}, "words.Slow"),
        ("1_Pooling/config.json", {"activation_function": "os.system"}, "os.system"),
        ("1_Pooling/config.json", {"types": {"a": "own.Part", "b": "sentence_transformers.models.Dense"}}, "own.Part"),
    ],
)
def test_what_names_code(model: Path, file: str, changes: dict[str, Any], name: str):
    change_json(model / file, **changes)
    with pytest.raises(SpecError, match=rf"brings code of its own: {name}\.\n"):
        Config(model=str(model)).resolve()


@pytest.mark.parametrize(
    ("file", "changes", "name"),
    [
        ("config.json", {"auto_map": {"AutoModel": "owner/other--modeling.Net"}}, "owner/other--modeling.Net"),
        ("sentence_bert_config.json", {"model_args": {"attn_implementation": "owner/kernel"}}, "owner/kernel"),
    ],
)
def test_code_of_another_repository_is_refused_even_where_code_is_trusted(
    model: Path, file: str, changes: dict[str, Any], name: str
):
    change_json(model / file, **changes)
    for options in ({}, {"trust_remote_code": True, "revision": "0" * 32}):
        with pytest.raises(SpecError, match=rf"names code in another repository, which no revision pins: {name}\."):
            Config(model=str(model), **options).resolve()


def test_an_adapter_is_refused(model: Path):
    write_json(model / "adapter_config.json", {"base_model_name_or_path": "owner/base"})
    with pytest.raises(SpecError, match="is an adapter, whose base model its revision does not pin"):
        Config(model=str(model)).resolve()


# the option


@pytest.mark.parametrize("revision", [None, "main", "v1.0", "abc1234", "0" * 33])
def test_trusted_code_is_pinned(revision: str | None):
    with pytest.raises(ValidationError, match="trust_remote_code needs a pinned `revision`"):
        Config(model="owner/name", trust_remote_code=True, revision=revision)


def test_a_job_that_trusts_code_that_nothing_pins_is_invalid():
    job = """
name: j
modality: text
source: {kind: files, uri: in}
embed:
  - {column: v, family: sentence_transformers, model: owner/name, trust_remote_code: true}
table: {uri: lake, name: t}
"""
    with pytest.raises(SpecError) as failure:
        parse_yaml(job)
    assert failure.value.problems == [  # type: ignore[attr-defined]
        "embed[0] (line 6): trust_remote_code needs a pinned `revision`: the commit of a hub model (40 hex digits) or the "
        "hash of a folder's files (32); `latentlake plan` without trust_remote_code says which it is."
    ]


def test_the_fingerprint_is_what_it_was_where_no_code_is_trusted():
    plain = Config(model="owner/name", revision=COMMIT)
    assert set(plain.fingerprint_fields()) == {
        *("family", "normalize", "revision", "document_prompt", "max_tokens", "dim", "lowercase")
    }
    trusted = Config(model="owner/name", revision=COMMIT, trust_remote_code=True)
    assert trusted.fingerprint_fields() == {**plain.fingerprint_fields(), "trust_remote_code": True}


# revisions


def test_a_pinned_folder_is_compared_with_its_files(model: Path):
    found = Config(model=str(model)).resolve().revision
    assert Config(model=str(model), revision=found).resolve().revision == found
    with pytest.raises(ModelNotFound, match=rf"files of model '.*' are {found}, not {'0' * 32}, which `revision` pins"):
        Config(model=str(model), revision="0" * 32).resolve()


@pytest.fixture
def hub_model(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The model in the hub's cache on this machine, as `owner/tiny` at its branch main."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--owner--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "snapshots").mkdir()
    model.rename(repository / "snapshots" / COMMIT)
    return "owner/tiny"


def test_a_hub_model_in_the_cache_needs_no_download(hub_model: str, tmp_path: Path):
    with downloads_if(False):
        config = Config(model=hub_model, revision="main").resolve()
        assert config.revision == COMMIT
        assert embed(config).shape == (1, 8)
        with pytest.raises(ModelNotFound, match=r"'owner/other' is not on this machine.*allow_downloads=True"):
            Config(model="owner/other").resolve()
        next(tmp_path.rglob("model.safetensors")).unlink()
        with pytest.raises(ModelNotFound, match=r"'owner/tiny' is not on this machine.*allow_downloads=True"):
            config.load("cpu")


def test_the_code_of_a_hub_model_is_that_of_its_commit(hub_model: str, ran: Path, tmp_path: Path):
    folder = tmp_path / "hub" / "models--owner--tiny" / "snapshots" / COMMIT
    write_own_module(folder, ran)
    with pytest.raises(SpecError, match=f"revision: {COMMIT}"):
        Config(model=hub_model).resolve()
    assert not ran.exists()
    config = Config(model=hub_model, revision=COMMIT, trust_remote_code=True).resolve()
    assert np.linalg.norm(embed(config)) == pytest.approx(1) and ran.exists()
    (folder.parent.parent / "refs" / ("f" * 32)).write_text(COMMIT)  # a branch with the looks of a hash
    with pytest.raises(ModelNotFound, match=f"are {COMMIT}, not {'f' * 32}, which `revision` pins"):
        Config(model=hub_model, revision="f" * 32, trust_remote_code=True).resolve()
