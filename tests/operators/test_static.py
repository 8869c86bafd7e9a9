"""The family beside word vectors read by hand, and beside plain model2vec."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_maker import change_json, write_static, write_word_vectors
from pydantic import ValidationError

from operators.batch import Batch, RowError, make_batch, object_array
from operators.embedders import _vectors
from operators.embedders._vectors import open_vectors, zipf_weights
from operators.embedders.static import Config
from operators.errors import ModelNotFound, SpecError

WORDS = ["the", "of", "Paris", "paris", "grüße", "世界", "don't", "fox", "quick", "3"]
VECTORS = dict(zip(WORDS, np.random.default_rng(3).standard_normal((len(WORDS), 5)).astype(np.float32), strict=True))
TEXTS = ["the quick fox", "the fox of the Paris", "Paris? paris! unknown words", "grüße, 世界 3"]
SPLIT = [
    ["the", "quick", "fox"],
    ["the", "fox", "of", "the", "Paris"],
    ["Paris", "paris"],
    ["grüße", "世界", "3"],
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    open_vectors.cache_clear()
    yield tmp_path / "cache" / "latentlake" / "vectors"
    open_vectors.cache_clear()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_word_vectors(tmp_path / "words.vec", VECTORS)


def batch_of(texts: list[str]) -> Batch:
    return {**make_batch([str(k) for k in range(len(texts))], texts), "text": object_array(texts)}


def embed(model: Path, texts: list[str] = TEXTS, **options: Any) -> np.ndarray:
    config = Config(model=str(model), **options).resolve()
    vectors = config.load("cpu").embed(config.prepare(batch_of(texts), "document"))
    assert (vectors.shape, vectors.dtype) == ((len(texts), config.dimension), np.float32)
    return vectors


def means(weights: dict[str, float] | None = None) -> np.ndarray:
    """What each text of `TEXTS` is, word by word."""
    rows = []
    for words in SPLIT:
        scale = np.array([1 if weights is None else weights[word] for word in words])
        rows.append(sum(w * VECTORS[word] for w, word in zip(scale, words, strict=True)) / scale.sum())
    return np.stack(rows)


# files


@pytest.mark.parametrize(
    ("name", "header"),
    [
        *[("w.vec", True), ("w.vec", False), ("w.txt", False), ("w.vec.gz", True), ("w.vec.gz", False)],
        *[("w.bin", True), ("w.bin.gz", True), ("w", True), ("w", False)],
    ],
)
def test_every_kind_of_file(tmp_path: Path, name: str, header: bool):
    binary = ".bin" in name
    path = write_word_vectors(tmp_path / name, VECTORS, header, binary)
    config = Config(model=str(path)).resolve()
    assert (config.format, config.dim, len(config.revision or "")) == ("binary" if binary else "text", 5, 64)
    np.testing.assert_allclose(embed(path), means(), atol=1e-6)


def test_a_binary_file_without_line_breaks(tmp_path: Path):
    content = f"{len(VECTORS)} 5\n".encode()
    content += b"".join(word.encode() + b" " + struct.pack("<5f", *vector) for word, vector in VECTORS.items())
    (tmp_path / "w.bin").write_bytes(content)
    np.testing.assert_allclose(embed(tmp_path / "w.bin"), means(), atol=1e-6)


def test_a_file_larger_than_what_is_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write_word_vectors(tmp_path / "w.bin", VECTORS, binary=True)
    monkeypatch.setattr(_vectors, "LONGEST_LINE", 16)
    config = Config(model=str(path), format="binary").resolve()
    np.testing.assert_allclose(config.load("cpu").vectors, np.stack(list(VECTORS.values())))


def test_words_with_spaces_and_words_that_stand_twice(tmp_path: Path):
    lines = ["fox 4 5 6", ". . . 1 2 3", "fox 7 8 9", "\u2028 1 1 1 "]
    (tmp_path / "glove.txt").write_text("\n".join(lines), newline="")
    config = Config(model=str(tmp_path / "glove.txt"), token_pattern=r"\. \. \.|\S+").resolve()
    assert config.dim == 3
    prepared = config.prepare(batch_of(["fox", ". . . fox"]), "document")
    assert [ids.tolist() for ids in prepared["input_ids"]] == [[0], [1, 0]]
    np.testing.assert_allclose(config.load("cpu").embed(prepared), [[4, 5, 6], [2.5, 3.5, 4.5]])


def test_weights_by_document_frequency(path: Path, tmp_path: Path):
    idf = {"the": 0.5, "of": 1.25, "Paris": 3.0, "unknown": 4.5, "世界": 2.0}
    (tmp_path / "idf.tsv").write_text("".join(f"{word}\t{value}\n" for word, value in idf.items()))
    expected = means({word: idf.get(word, 4.5) for word in WORDS})
    options = {"weighting": "tfidf", "idf": str(tmp_path / "idf.tsv")}
    np.testing.assert_allclose(embed(path, **options), expected, atol=1e-6)
    before = Config(model=str(path), **options).resolve()
    (tmp_path / "idf.tsv").write_text("the\t2\n")
    after = Config(model=str(path), **options).resolve()
    assert before.idf_revision != after.idf_revision
    with pytest.raises(ModelNotFound, match="which `revision` pins"):
        before.resolve()


def test_weights_by_rank(path: Path):
    total = sum(1 / rank for rank in range(2, len(WORDS) + 2))
    probabilities = [1 / rank / total for rank in range(2, len(WORDS) + 2)]
    weights = np.array([1e-4 / (1e-4 + probability) for probability in probabilities])
    np.testing.assert_allclose(zipf_weights(len(WORDS)), weights, rtol=1e-6)
    assert (np.diff(weights) > 0).all()
    expected = means(dict(zip(WORDS, weights.tolist(), strict=True)))
    np.testing.assert_allclose(embed(path, weighting="zipf"), expected, atol=1e-6)


# words


def test_words_are_counted(path: Path):
    config = Config(model=str(path), max_tokens=3).resolve()
    prepared = config.prepare(batch_of(["the fox", "the lazy unknown fox", "Paris"]), "document")
    assert prepared["tokens"].tolist() == [2, 4, 1]
    assert prepared["known"].tolist() == [2, 1, 1]
    assert prepared["truncated"].tolist() == [False, True, False]
    assert prepared["cost"].tolist() == [2, 3, 1]


def test_lower_case_and_the_pattern_of_words(path: Path):
    config = Config(model=str(path), lowercase=True, token_pattern=r"[\w']+").resolve()
    prepared = config.prepare(batch_of(["THE Paris, DON'T"]), "document")
    assert [WORDS[row] for row in prepared["input_ids"][0]] == ["the", "paris", "don't"]
    assert config.spans(["ab, don't"])[0].tolist() == [[0, 2, 0], [4, 9, 1]]
    with pytest.raises(ValidationError, match="token_pattern is no regular expression"):
        Config(model="w.vec", token_pattern="(")


@pytest.mark.parametrize(
    ("text", "reason"), [("nothing in here", "none of its 3 words is known"), ("?!", "no word in it")]
)
def test_a_text_without_a_known_word(path: Path, text: str, reason: str):
    config = Config(model=str(path)).resolve()
    with pytest.raises(RowError, match=reason):
        config.prepare(batch_of(["the fox", text]), "document")


# the cache


def test_a_file_is_read_once(path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    expected = embed(path)
    monkeypatch.setattr(_vectors, "text_rows", None)
    open_vectors.cache_clear()
    np.testing.assert_array_equal(embed(path), expected)
    assert len(list(cache.iterdir())) == 1
    vectors = Config(model=str(path)).resolve().load("cpu").vectors
    assert isinstance(vectors.base, np.memmap)


def test_a_file_that_changed_since_it_was_pinned(path: Path, cache: Path):
    config = Config(model=str(path)).resolve()
    write_word_vectors(path, {**VECTORS, "new": VECTORS["fox"]})
    with pytest.raises(ModelNotFound, match="which `revision` pins"):
        config.resolve()
    open_vectors.cache_clear()
    next(cache.iterdir()).rename(cache / "elsewhere")
    with pytest.raises(ModelNotFound, match="which `revision` pins"):
        config.load("cpu")


# broken files


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.vec", b"2 3\na 1 2 3\nb 1 2\n", "line 3 is not a word and 3 numbers"),
        ("w.vec", b"2 3\na 1 2 3\nb 1 2 x\n", "line 3 is not a word and 3 numbers"),
        ("w.vec", b"3 3\na 1 2 3\nb 1 2 3\n", "is cut off: it holds 2 of 3 vectors"),
        ("w.txt", b"these are only words\n", "holds no word vectors"),
        ("w.txt", b"", "holds no word vectors"),
        ("w.bin", b"2 3\na " + bytes(12) + b"b " + bytes(3), "is cut off: it holds 1 of 2 vectors"),
        ("w.bin", b"99999999999999 3\na " + bytes(12), "is cut off: it holds 1 of 99999999999999 vectors"),
        ("w.bin", (793712314).to_bytes(4, "little") + bytes(50), r"fastText's own binary format.*\n.*Give its \.vec"),
        ("w.vec.gz", gzip.compress(b"1 2\na 1 2\n", mtime=0)[:-9], "is broken: "),
        ("w.vec.gz", b"1 2\na 1 2\n", "is broken: Not a gzipped file"),
    ],
)
def test_broken_files(tmp_path: Path, cache: Path, name: str, content: bytes, message: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelNotFound, match=message):
        Config(model=str(tmp_path / name)).resolve()
    assert not cache.exists() or not list(cache.iterdir())


@pytest.mark.parametrize("line", ["word 1", "word\tx", "word\t0", "word\t-1", "word\tinf", "\t1"])
def test_broken_document_frequencies(path: Path, tmp_path: Path, line: str):
    (tmp_path / "idf.tsv").write_text(f"the\t1\n{line}\n")
    with pytest.raises(ModelNotFound, match="line 2 is not a word, a tab and a number above 0"):
        Config(model=str(path), weighting="tfidf", idf=str(tmp_path / "idf.tsv")).resolve()


def test_files_that_are_not_there(path: Path, tmp_path: Path):
    with pytest.raises(ModelNotFound, match="no file of word vectors"):
        Config(model=str(tmp_path / "nowhere.vec")).resolve()
    with pytest.raises(ModelNotFound, match="no model folder"):
        Config(model=str(tmp_path / "nowhere")).resolve()
    with pytest.raises(ModelNotFound, match="no file of document frequencies"):
        Config(model=str(path), weighting="tfidf", idf="/nowhere.tsv").resolve()
    for options in ({"weighting": "tfidf"}, {"idf": "idf.tsv"}):
        with pytest.raises(ValidationError, match="weighting tfidf needs `idf`"):
            Config(model=str(path), **options)


# model2vec

MODEL2VEC_TEXTS = [
    "a short one",
    "run a function every few seconds, 世界 🙂",
    "word " * 300,
    "wordsentencepunctuation" * 200,  # few long words, of which characters are cut
    "x",
]


def make_arrays(kind: str) -> dict[str, Any]:
    from model_maker import learn_tokenizer

    rng, size = np.random.default_rng(1), learn_tokenizer(None, None, None).get_vocab_size()
    weights = rng.random(size).astype(np.float32) + 0.1
    mapping = rng.permutation(np.arange(size) % 40)
    return {"plain": {}, "weights": {"weights": weights}, "shared": {"weights": weights, "token_mapping": mapping}}[
        kind
    ]


@pytest.mark.parametrize("kind", ["plain", "weights", "shared"])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("max_length", [512, 20, None])
def test_vectors_are_those_of_model2vec(tmp_path: Path, kind: str, normalize: bool, max_length: int | None):
    model2vec = pytest.importorskip("model2vec")
    folder = write_static(tmp_path / "model", normalize, max_length=max_length, **make_arrays(kind))
    expected = model2vec.StaticModel.from_pretrained(folder).encode(MODEL2VEC_TEXTS)
    config = Config(model=str(folder)).resolve()
    assert (config.format, config.dim, config.max_tokens) == ("model2vec", 8, max_length)
    assert config.normalize is normalize
    np.testing.assert_allclose(embed(folder, MODEL2VEC_TEXTS), expected, atol=1e-5)
    assert np.ptp(expected, axis=0).max() > 0.1


def test_a_narrower_cut_is_that_of_model2vec(tmp_path: Path):
    model2vec = pytest.importorskip("model2vec")
    folder = write_static(tmp_path / "model")
    expected = model2vec.StaticModel.from_pretrained(folder).encode(MODEL2VEC_TEXTS, max_length=7)
    np.testing.assert_allclose(embed(folder, MODEL2VEC_TEXTS, max_tokens=7), expected, atol=1e-5)
    config = Config(model=str(folder), max_tokens=7).resolve()
    prepared = config.prepare(batch_of(MODEL2VEC_TEXTS), "document")
    assert (prepared["cost"] <= 7).all()
    assert prepared["truncated"].tolist() == [True, True, True, True, False]


def test_unknown_tokens_are_left_out(tmp_path: Path):
    model2vec = pytest.importorskip("model2vec")
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "fox": 1, "the": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    vectors = np.arange(12, dtype=np.float32).reshape(3, 4)
    model2vec.StaticModel(vectors, tokenizer).save_pretrained(tmp_path / "model")
    config = Config(model=str(tmp_path / "model")).resolve()
    prepared = config.prepare(batch_of(["the lazy fox"]), "document")
    assert (prepared["tokens"].tolist(), prepared["known"].tolist()) == ([3], [2])
    expected = model2vec.StaticModel.from_pretrained(tmp_path / "model").encode(["the lazy fox"])
    np.testing.assert_allclose(embed(tmp_path / "model", ["the lazy fox"]), expected)
    with pytest.raises(RowError, match="none of its 2 words is known"):
        config.prepare(batch_of(["lazy dog"]), "document")


def test_a_static_embedding_of_sentence_transformers(tmp_path: Path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    from sentence_transformers.models import StaticEmbedding

    folder = write_static(tmp_path / "made")
    static = StaticEmbedding.from_model2vec(str(folder))
    model = sentence_transformers.SentenceTransformer(modules=[static], device="cpu")
    model.save(str(tmp_path / "model"))
    expected = model.encode(MODEL2VEC_TEXTS[:2])
    np.testing.assert_allclose(embed(tmp_path / "model", MODEL2VEC_TEXTS[:2]), expected, atol=1e-5)


def test_folders_that_are_refused(tmp_path: Path):
    pytest.importorskip("model2vec")
    folder = write_static(tmp_path / "model")
    for options in ({"weighting": "zipf"}, {"lowercase": True}, {"token_pattern": r"\S+"}):
        with pytest.raises(SpecError, match="a tokenizer and weights of its own"):
            Config(model=str(folder), **options).resolve()
    revision = Config(model=str(folder)).resolve().revision
    change_json(folder / "config.json", max_length=3)
    with pytest.raises(ModelNotFound, match="which `revision` pins"):
        Config(model=str(folder), revision=revision).resolve()
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelNotFound, match="is no model2vec folder"):
        Config(model=str(folder)).resolve()
    assert json.loads((folder / "config.json").read_text())["max_length"] == 3
