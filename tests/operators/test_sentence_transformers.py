"""The family beside plain sentence-transformers, with the real all-MiniLM-L6-v2."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from libraries import library
from model_maker import change_json, write_json, write_modules

from latentlake.provenance import fingerprint_of
from operators.batch import Batch, make_batch, object_array
from operators.batching import form_batches
from operators.chain import Chain
from operators.embedders._sentence_modules import Usual, usual_modules
from operators.embedders.sentence_transformers import Config
from operators.errors import ModelNotFound, SpecError

library("sentence_transformers")

SPECIAL = 2  # tokens that MiniLM puts around a text
WINDOW = 256

TEXTS = [
    *(f"sentence number {k}: " + "the quick brown fox jumps over the lazy dog " * (k % 7) for k in range(40)),
    "",
    " ",
    "\n\n\ttabs and\r\nline breaks\n",
    "UPPER and lower and MiXeD",
    "grüße, naïve café, Straße, ŒUVRE",
    "世界你好，这是一个测试",
    "שלום עולם",
    "مرحبا بالعالم",
    "🙂🙃 emoji 👩‍👩‍👧 and e\u0301",
    "\u200bzero\u200dwidth\ufeff",
    "pneumonoultramicroscopicsilicovolcanoconiosis" * 3,
    "x" * 5000,
    "word " * (WINDOW - SPECIAL),  # fits to the token
    "word " * (WINDOW - SPECIAL + 1),  # one too many
    "word " * 3000,
    "1,234.56 € <b>html</b> &amp; [SEP] [CLS] [PAD] [MASK]",
    "def f(x):\n    return x ** 2  # code",
    "http://example.org/a?b=c#d user@example.org",
    "...---...",
    "?",
]


def batch_of(texts: list[str]) -> Batch:
    return {**make_batch([str(k) for k in range(len(texts))], texts), "text": object_array(texts)}


def embed_all(config: Config, embedder: Any, texts: list[str], role: Any = "document") -> np.ndarray:
    prepared = config.prepare(batch_of(texts), role)
    vectors = np.zeros((len(texts), config.dimension), dtype=np.float32)
    for rows in form_batches(prepared["cost"], config.batch_cost("cpu")):
        vectors[rows] = embedder.embed({name: values[rows] for name, values in prepared.items()})
    return vectors


@pytest.fixture(scope="module")
def config(minilm: str) -> Config:
    return Config(model=minilm).resolve()


@pytest.fixture(scope="module")
def embedder(config: Config) -> Any:
    return config.load("cpu", threads=1)


@pytest.fixture(scope="module")
def plain(minilm: str) -> Any:
    """The library as anyone uses it."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(minilm, device="cpu")


@pytest.fixture
def copied(minilm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The model's folder at another place, weights and all."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Path(shutil.copytree(minilm, tmp_path / "model"))


# the same numbers


def test_vectors_are_those_of_encode(config: Config, embedder: Any, plain: Any):
    expected = plain.encode(TEXTS, batch_size=8)
    assert expected.shape == (len(TEXTS), config.dimension) == (60, 384)
    np.testing.assert_allclose(embed_all(config, embedder, TEXTS), expected, atol=1e-5)


def test_prompts_are_those_of_encode(minilm: str, embedder: Any, plain: Any):
    config = Config(model=minilm, document_prompt="passage: ", query_prompt="search for ").resolve()
    texts = TEXTS[40:52] + TEXTS[-4:]
    document = embed_all(config, embedder, texts)
    query = embed_all(config, embedder, texts, "query")
    np.testing.assert_allclose(document, plain.encode(texts, prompt="passage: "), atol=1e-5)
    np.testing.assert_allclose(query, plain.encode(texts, prompt="search for "), atol=1e-5)
    assert np.abs(document - query).max() > 1e-3


def test_a_narrower_window_is_that_of_max_seq_length(minilm: str, embedder: Any, plain: Any):
    config = Config(model=minilm, max_tokens=16).resolve()
    plain.max_seq_length = 16
    try:
        expected = plain.encode(TEXTS)
    finally:
        plain.max_seq_length = WINDOW
    np.testing.assert_allclose(embed_all(config, embedder, TEXTS), expected, atol=1e-5)


def test_a_cut_vector_is_that_of_truncate_dim(minilm: str):
    from sentence_transformers import SentenceTransformer

    config = Config(model=minilm, truncate_dim=64).resolve()
    model = SentenceTransformer(minilm, device="cpu", truncate_dim=64)
    expected = model.encode(TEXTS[:8], normalize_embeddings=True)
    np.testing.assert_allclose(embed_all(config, config.load("cpu", threads=1), TEXTS[:8]), expected, atol=1e-5)


@pytest.mark.parametrize(("compute_dtype", "name"), [("bf16", "bfloat16"), ("fp16", "float16")])
def test_half_precision_is_that_of_a_model_loaded_so(minilm: str, compute_dtype: Any, name: str, embedder: Any):
    from sentence_transformers import SentenceTransformer

    config = Config(model=minilm, compute_dtype=compute_dtype).resolve()
    half = config.load("cpu", threads=1)
    assert {str(weight.dtype) for weight in half.model.parameters()} == {f"torch.{name}"}
    model, texts = SentenceTransformer(minilm, device="cpu", model_kwargs={"dtype": name}), TEXTS[:4]
    expected = model.encode(texts, convert_to_tensor=True).float().numpy()
    vectors = embed_all(config, half, texts)
    np.testing.assert_allclose(vectors, expected, atol=1e-4)
    assert 1e-5 < np.abs(vectors - embed_all(config, embedder, texts)).max() < 1e-2


def test_tokens_and_truncation_are_those_of_the_tokenizer(config: Config, plain: Any):
    prepared = config.prepare(batch_of(TEXTS), "document")
    full = [plain.tokenizer(text, truncation=False, verbose=False)["input_ids"] for text in TEXTS]
    cut = [plain.tokenizer(text, truncation=True, max_length=WINDOW)["input_ids"] for text in TEXTS]
    assert prepared["tokens"].tolist() == [len(ids) for ids in full]
    assert prepared["truncated"].tolist() == [len(ids) > WINDOW for ids in full]
    assert [ids.tolist() for ids in prepared["input_ids"]] == cut
    assert prepared["cost"].tolist() == [len(ids) for ids in cut]
    assert prepared["truncated"].sum() == 2  # the word of 5,000 characters is one unknown token
    assert prepared["truncated"][52:55].tolist() == [False, True, True]


def test_the_prompt_counts_towards_the_window(minilm: str):
    config = Config(model=minilm, document_prompt="one two three ", query_prompt="").resolve()
    text = "word " * (WINDOW - SPECIAL)
    assert config.prepare(batch_of([text]), "document")["tokens"].tolist() == [WINDOW + 3]
    assert config.prepare(batch_of([text]), "document")["truncated"].tolist() == [True]
    assert config.prepare(batch_of([text]), "query")["truncated"].tolist() == [False]
    assert config.window == WINDOW - SPECIAL - 3


# what the model's files say


def test_resolve_reads_the_models_files(config: Config):
    assert (config.dim, config.max_tokens, config.window) == (384, WINDOW, WINDOW - SPECIAL)
    assert (config.document_prompt, config.query_prompt, config.lowercase) == ("", "", False)
    assert config.revision is not None and len(config.revision) == 32


def test_prompts_of_the_model_hold_unless_the_job_says_otherwise(copied: Path):
    prompts = {"query": "query: ", "document": "passage: "}
    change_json(copied / "config_sentence_transformers.json", prompts=prompts)
    config = Config(model=str(copied)).resolve()
    assert (config.document_prompt, config.query_prompt) == ("passage: ", "query: ")
    change_json(copied / "config_sentence_transformers.json", prompts={"any": "all: "}, default_prompt_name="any")
    both = Config(model=str(copied)).resolve()
    assert (both.document_prompt, both.query_prompt) == ("all: ", "all: ")
    change_json(copied / "config_sentence_transformers.json", prompts={"passage": "p: "}, default_prompt_name=None)
    assert Config(model=str(copied)).resolve().document_prompt == "p: "
    change_json(copied / "config_sentence_transformers.json", prompts=prompts)
    config = Config(model=str(copied), document_prompt="", query_prompt="q").resolve()
    assert (config.document_prompt, config.query_prompt) == ("", "q")


def test_prompts_of_the_model_are_those_of_its_own_methods(copied: Path):
    from sentence_transformers import SentenceTransformer

    prompts = {"query": "look for ", "document": "this says: "}
    change_json(copied / "config_sentence_transformers.json", prompts=prompts)
    model, config = SentenceTransformer(str(copied), device="cpu"), Config(model=str(copied)).resolve()
    embedder, texts = config.load("cpu", threads=1), TEXTS[:3]
    np.testing.assert_allclose(embed_all(config, embedder, texts), model.encode_document(texts), atol=1e-5)
    np.testing.assert_allclose(embed_all(config, embedder, texts, "query"), model.encode_query(texts), atol=1e-5)


def test_a_model_that_leaves_prompts_out_of_pooling_is_refused(copied: Path):
    change_json(copied / "1_Pooling" / "config.json", include_prompt=False)
    Config(model=str(copied)).resolve()  # without prompts it does not matter
    with pytest.raises(SpecError, match="leaves its prompts out of pooling"):
        Config(model=str(copied), document_prompt="passage: ").resolve()


def test_models_saved_by_old_versions(copied: Path):
    (copied / "sentence_bert_config.json").unlink()
    (copied / "sentence_roberta_config.json").write_text('{"max_seq_length": 77, "do_lower_case": true}')
    config = Config(model=str(copied)).resolve()
    assert (config.max_tokens, config.lowercase) == (77, True)


def test_windows_and_dimensions_of_other_models(copied: Path):
    (copied / "sentence_bert_config.json").write_text("{}")
    assert (
        Config(model=str(copied)).resolve().max_tokens
        == 512
        == json.loads((copied / "config.json").read_text())["max_position_embeddings"]
    )
    (copied / "modules.json").write_text(
        json.dumps(
            [
                {"path": "", "type": "sentence_transformers.models.Transformer"},
                {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
                {"path": "2", "type": "sentence_transformers.models.Dense"},
                {"path": "3", "type": "sentence_transformers.models.Normalize"},
            ]
        )
    )
    (copied / "2").mkdir()
    (copied / "2" / "config.json").write_text('{"in_features": 384, "out_features": 96}')
    assert Config(model=str(copied)).resolve().dimension == 96
    (copied / "modules.json").unlink()
    assert Config(model=str(copied)).resolve().dimension == 384
    change_json(copied / "tokenizer_config.json", model_max_length=10**30)
    change_json(copied / "config.json", max_position_embeddings=None)
    with pytest.raises(ModelNotFound, match="does not say its window; give `max_tokens`"):
        Config(model=str(copied)).resolve()


def test_lower_casing_models(copied: Path, embedder: Any):
    change_json(copied / "sentence_bert_config.json", do_lower_case=True)
    config = Config(model=str(copied)).resolve()
    assert config.lowercase is True
    prepared = config.prepare(batch_of(["ABC Def", "abc def"]), "document")
    assert prepared["input_ids"][0].tolist() == prepared["input_ids"][1].tolist()


# revisions


def fingerprint(model: Path | str) -> str:
    return fingerprint_of(Config(model=str(model)).resolve(), Chain("text"), "float32")


def test_the_same_files_elsewhere_are_the_same_model(minilm: str, copied: Path):
    assert fingerprint(copied) == fingerprint(minilm)
    (copied / "onnx").mkdir()
    (copied / "onnx" / "model.json").write_text("{}")
    (copied / ".cache.json").write_text("{}")
    (copied / "README.md").write_text("other words")
    assert fingerprint(copied) == fingerprint(minilm)  # nothing of this takes part


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors", "1_Pooling/config.json"])
def test_one_byte_makes_another_model(minilm: str, copied: Path, name: str):
    path = copied / name
    with path.open("r+b") as file:
        if name.endswith(".json"):
            file.seek(0, 2)
            file.write(b" ")
        else:
            file.seek(-1, 2)
            last = file.read(1)
            file.seek(-1, 2)
            file.write(bytes([last[0] ^ 1]))
    assert fingerprint(copied) != fingerprint(minilm)


def test_a_change_after_the_hash_was_cached_is_seen(copied: Path):
    before = fingerprint(copied)
    with (copied / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x77")
    assert fingerprint(copied) != before


@pytest.mark.parametrize("name", ["/nowhere/model", "./nowhere", "~/ll-nowhere"])
def test_a_missing_folder(name: str):
    with pytest.raises(ModelNotFound, match=r"no model folder '.*nowhere.*'\. Give an existing folder, or a hub id"):
        Config(model=name).resolve()


def test_a_hub_id_that_cannot_be_had():
    with pytest.raises(ModelNotFound) as failure:
        Config(model="no-such-owner/no-such-model").resolve()
    assert "is neither a local folder nor to be had from the hub" in str(failure.value)
    assert "download the model and give its folder" in str(failure.value)


def test_a_folder_without_a_fast_tokenizer(copied: Path):
    (copied / "tokenizer.json").unlink()
    config = Config(model=str(copied)).resolve()
    with pytest.raises(ModelNotFound, match=r"has no tokenizer\.json\.\n  Save it once with AutoTokenizer"):
        config.prepare(batch_of(["x"]), "document")


# what is loaded where


def test_preparation_loads_neither_torch_nor_transformers(minilm: str):
    code = """
import json, sys
import numpy as np
from operators.batch import make_batch, object_array
from operators.embedders.sentence_transformers import Config
imported = sorted(sys.modules)
config = Config(model=sys.argv[1]).resolve()
batch = {**make_batch(["a"], ["x"]), "text": object_array(["some words"])}
config.prepare(batch, "document"), config.spans(["some words"]), config.window
print(json.dumps([imported, sorted(sys.modules)]))
"""
    run = subprocess.run([sys.executable, "-c", code, minilm], capture_output=True, text=True, check=True)
    for modules in json.loads(run.stdout):
        loaded = {name.split(".")[0] for name in modules}
        assert "numpy" in loaded and not loaded & {"torch", "transformers", "sentence_transformers"}
    assert "tokenizers" in loaded


# spans


def test_spans_point_at_the_words(config: Config):
    text = "Grüße an  transformers, naïvely\n世界!"
    spans = config.spans([text])[0]
    pieces = [text[start:end] for start, end, _ in spans]
    assert "".join(pieces) == "".join(text.split())
    words: dict[int, str] = {}
    for piece, word in zip(pieces, spans[:, 2].tolist(), strict=True):
        words[word] = words.get(word, "") + piece
    assert list(words.values()) == ["Grüße", "an", "transformers", ",", "naïvely", "世", "界", "!"]


def test_spans_are_as_many_as_tokens(config: Config):
    prepared = config.prepare(batch_of(TEXTS), "document")
    counts = [len(spans) for spans in config.spans(TEXTS)]
    assert counts == (prepared["tokens"] - SPECIAL).tolist()


def test_a_model_of_the_usual_modules_is_loaded_without_the_library(config: Config, monkeypatch: pytest.MonkeyPatch):
    """Its import alone takes longer than the model's."""
    for name in [name for name in sys.modules if name.split(".")[0] == "sentence_transformers"]:
        monkeypatch.setitem(sys.modules, name, None)  # who imports it now fails
    with pytest.raises(ImportError):
        importlib.import_module("sentence_transformers")
    assert config.load("cpu", threads=1).embed(config.prepare(batch_of(["a"]), "document")).shape == (1, 384)


KINDS = ["Transformer", "Pooling", "Normalize"]
UNUSUAL = {
    "a Dense module": ("modules.json", [*KINDS[:2], "Dense"]),
    "a module of its own": ("modules.json", [*KINDS, "modeling_own.Own"]),
    "two ways of pooling": ("1_Pooling/config.json", {"pooling_mode_cls_token": True}),
    "another way of pooling": ("1_Pooling/config.json", {"pooling_mode": "weightedmean"}),
    "prompts left out": ("1_Pooling/config.json", {"include_prompt": False}),
    "a body with options": ("sentence_bert_config.json", {"model_args": {"attn_implementation": "eager"}}),
    "another architecture": ("config.json", {"model_type": "t5"}),
}


@pytest.mark.parametrize("what", UNUSUAL)
def test_what_the_library_is_needed_for(copied: Path, what: str):
    assert usual_modules(copied) == Usual("mean", normalize=True)
    name, change = UNUSUAL[what]
    if isinstance(change, list):
        kinds = [kind if "." in kind else f"sentence_transformers.models.{kind}" for kind in change]
        write_modules(copied, *kinds)
    else:
        change_json(copied / name, **change)
    assert usual_modules(copied) is None


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_each_way_of_pooling_is_the_librarys(copied: Path, pooling: str):
    write_json(copied / "1_Pooling" / "config.json", {"embedding_dimension": 384, "pooling_mode": pooling})
    write_modules(copied, *(f"sentence_transformers.models.{kind}" for kind in KINDS[:2]))
    config = Config(model=str(copied)).resolve()
    assert usual_modules(copied) == Usual(pooling, normalize=False)
    from sentence_transformers import SentenceTransformer

    texts = ["a few words", "more words than in the first one, and a mark", "", "世界 🙂"]
    expected = SentenceTransformer(str(copied), device="cpu").encode(texts)
    found = config.load("cpu", threads=1).embed(config.prepare({"text": object_array(texts)}, "document"))
    np.testing.assert_allclose(found, expected, atol=2e-6)
