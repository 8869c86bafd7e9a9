"""One contract over every registered family of embedders."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import families
import numpy as np
import pytest
from contract import INPUTS, TEXTS, Case, Materials
from pydantic import ValidationError

from latentlake.provenance import fingerprint_of
from operators.batch import Batch, make_batch, object_array
from operators.batching import form_batches
from operators.chain import Chain
from operators.embedders import config_class, family_names, load_config
from operators.embedders.base import Embedder, EmbedderConfig
from operators.errors import SpecError

CASES: dict[str, Case] = {
    name: case
    for module in iter_modules(families.__path__)
    for name, case in import_module(f"families.{module.name}").CASES.items()
}


@dataclass(frozen=True)
class Subject:
    """A case with its resolved config and its weights."""

    case: Case
    config: EmbedderConfig
    embedder: Embedder

    def batch(self, rows: list[int] | None = None) -> Batch:
        values = INPUTS[self.case.modality]()
        chosen = range(len(values)) if rows is None else rows
        batch = make_batch([str(row) for row in chosen], [b""] * len(chosen))
        return {**batch, self.case.modality: object_array([values[row] for row in chosen])}

    def prepare(self, rows: list[int] | None = None) -> Batch:
        return self.config.prepare(self.batch(rows), "document")

    def embed(self, prepared: Batch, budget: int) -> np.ndarray:
        vectors = np.full((len(prepared["cost"]), self.config.dimension), np.nan, dtype=np.float32)
        for rows in form_batches(prepared["cost"], budget):
            vectors[rows] = self.embedder.embed({name: values[rows] for name, values in prepared.items()})
        return vectors


@pytest.fixture(scope="module", params=CASES, ids=list(CASES))
def subject(
    request: pytest.FixtureRequest, data: Path, minilm: str, tmp_path_factory: pytest.TempPathFactory
) -> Subject:
    case = CASES[request.param]
    materials = Materials(data, minilm, tmp_path_factory.mktemp("model"))
    config = config_class(case.family)(**case.fields(materials)).resolve()
    return Subject(case, config, config.load("cpu", threads=1))


@pytest.fixture(scope="module")
def together(subject: Subject) -> np.ndarray:
    """Vectors of all rows, in batches as the pipeline forms them."""
    return subject.embed(subject.prepare(), subject.config.batch_cost("cpu"))


def test_every_family_has_a_case_for_each_of_its_modalities():
    covered = {(case.family, case.modality) for case in CASES.values()}
    assert covered == {(name, modality) for name in family_names() for modality in config_class(name).modalities}


def test_vectors(subject: Subject, together: np.ndarray):
    rows = len(subject.batch()["id"])
    made = subject.embedder.embed(subject.prepare([0, 1]))
    assert (made.shape, made.dtype) == ((2, subject.config.dimension), np.float32)
    assert together.shape == (rows, subject.config.dimension)
    assert np.isfinite(together).all() and (np.linalg.norm(together, axis=1) > 0).all()
    distinct = np.unique(together.round(4), axis=0)
    assert len(distinct) == rows - 1  # one row stands twice


def test_equal_rows_have_equal_vectors(subject: Subject, together: np.ndarray):
    first, again = (0, 6)
    np.testing.assert_allclose(together[first], together[again], atol=1e-4)


def test_order_is_kept(subject: Subject, together: np.ndarray):
    order = [3, 0, 4, 1]
    np.testing.assert_allclose(subject.embedder.embed(subject.prepare(order)), together[order], atol=1e-4)


def test_neither_batch_nor_padding_changes_a_vector(subject: Subject, together: np.ndarray):
    alone = np.concatenate([subject.embedder.embed(subject.prepare([row])) for row in range(len(together))])
    np.testing.assert_allclose(alone, together, atol=1e-4)
    everything_at_once = subject.embedder.embed(subject.prepare())
    np.testing.assert_allclose(everything_at_once, together, atol=1e-4)


def test_embedding_is_deterministic(subject: Subject, together: np.ndarray):
    again = subject.embed(subject.prepare(), subject.config.batch_cost("cpu"))
    np.testing.assert_array_equal(again, together)


def test_the_prepared_batch_survives(subject: Subject):
    prepared = subject.prepare([0, 1])
    for values in prepared.values():
        values.flags.writeable = False  # as arrays that come out of Arrow are
    first = subject.embedder.embed(prepared)
    np.testing.assert_array_equal(subject.embedder.embed(prepared), first)


def test_no_rows(subject: Subject):
    prepared = subject.prepare([])
    assert all(len(values) == 0 for values in prepared.values())
    assert prepared["cost"].dtype == np.int64
    vectors = subject.embedder.embed(prepared)
    assert (vectors.shape, vectors.dtype) == ((0, subject.config.dimension), np.float32)


def test_preparation(subject: Subject):
    batch = subject.batch()
    rows = len(batch["id"])
    prepared = subject.config.prepare(batch, "document")
    assert all(len(values) == rows for values in prepared.values())
    assert prepared["cost"].dtype == np.int64 and (prepared["cost"] > 0).all()
    assert not set(prepared) & set(batch)
    for row in range(rows):  # rows are prepared apart
        alone = subject.prepare([row])
        for name, values in prepared.items():
            np.testing.assert_array_equal(alone[name][0], values[row])
    if subject.case.modality == "text":
        assert (prepared["tokens"].dtype, prepared["truncated"].dtype) == (np.int64, np.bool_)
        assert (prepared["cost"] <= np.maximum(prepared["tokens"], 1)).all()
        assert (prepared["truncated"] == (prepared["tokens"] > prepared["cost"])).all()
    else:
        assert "tokens" not in prepared


def test_sizes_are_told(subject: Subject):
    assert subject.config.prepared_bytes() > 0
    for device in ("cpu", "cuda", "cuda:1"):
        assert subject.config.batch_cost(device) >= 1
    assert subject.config.batch_cost("cuda") >= subject.config.batch_cost("cpu")
    if subject.case.modality == "image" and subject.case.family not in ("hashing", "concat"):
        assert subject.prepare([0])["pixels"].nbytes <= subject.config.prepared_bytes()


def test_resolving_again_changes_nothing(subject: Subject):
    assert subject.config.resolve() == subject.config


def test_the_config_travels(subject: Subject):
    again = load_config(subject.config.model_dump(mode="json"))
    assert again == subject.config
    assert hash(again) == hash(subject.config)
    assert again.fingerprint_fields() == subject.config.fingerprint_fields()
    assert again.preparation_key() == subject.config.preparation_key()
    chain = Chain(subject.case.modality)
    assert fingerprint_of(again, chain, "float32") == fingerprint_of(subject.config, chain, "float32")


def test_a_config_is_frozen_and_takes_no_unknown_field(subject: Subject):
    with pytest.raises(ValidationError, match="frozen"):
        subject.config.normalize = True
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        load_config({**subject.config.model_dump(), "dimensions": 3})


def test_the_fingerprint_covers_what_changes_a_vector(subject: Subject):
    chain, config = Chain(subject.case.modality), subject.config
    before = fingerprint_of(config, chain, "float32")
    covered = set(type(config).model_fields) - config.not_in_fingerprint - {"family"}
    assert set(subject.case.other) == covered, "the case must have another value for each of these"
    seen = {before}
    for name, value in subject.case.other.items():
        assert getattr(config, name) != value
        seen.add(fingerprint_of(config.model_copy(update={name: value}), chain, "float32"))
    assert len(seen) == 1 + len(covered)
    assert set(subject.case.outside) == config.not_in_fingerprint
    for name, value in subject.case.outside.items():
        changed = config.model_copy(update={name: value})
        assert changed != config and fingerprint_of(changed, chain, "float32") == before
    assert fingerprint_of(config, chain, "float16") != before
    assert config.not_in_fingerprint <= set(type(config).model_fields)


def test_normalised_vectors(subject: Subject, together: np.ndarray):
    config = subject.config.model_copy(update={"normalize": True})
    embedder = config.load("cpu", threads=1)
    vectors = embedder.embed(subject.prepare([0, 1, 2]))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    expected = together[:3] / np.linalg.norm(together[:3], axis=1, keepdims=True)
    np.testing.assert_allclose(vectors, expected, atol=1e-4)


def test_vectors_are_cut_short(subject: Subject, together: np.ndarray):
    half = subject.config.dimension // 2
    config = subject.config.model_copy(update={"truncate_dim": half}).resolve()
    assert config.dimension == half
    vectors = config.load("cpu", threads=1).embed(subject.prepare([0, 1, 2]))
    expected = together[:3, :half] / np.linalg.norm(together[:3, :half], axis=1, keepdims=True)
    np.testing.assert_allclose(vectors, expected, atol=1e-4)
    with pytest.raises(SpecError, match="truncate_dim is"):
        subject.config.model_copy(update={"truncate_dim": subject.config.dimension + 1}).resolve()


def test_token_spans(subject: Subject):
    if subject.case.modality != "text":
        return
    for text, spans in zip(TEXTS, subject.config.spans(TEXTS), strict=True):
        assert spans.dtype == np.int64 and spans.shape == (len(spans), 3)
        starts, ends, words = spans.T
        assert (starts <= ends).all() and (starts[1:] >= starts[:-1]).all() and (ends <= len(text)).all()
        assert set(np.diff(words)) <= {0, 1}
    assert [spans.shape for spans in subject.config.spans(["", " "])] == [(0, 3)] * 2
