"""The family beside plain transformers, with small models of several architectures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from libraries import library
from model_maker import Payload, change_json, write_transformer

from operators.batch import Batch, RowError, make_batch, object_array
from operators.embedders._pooling import pool_places
from operators.embedders.transformers_text import Config
from operators.errors import ModelNotFound, SpecError

torch = library("torch")
transformers = library("transformers")

KINDS = ("bert", "roberta", "modernbert", "gpt2", "llama", "t5", "bart")
DECODERS = ("gpt2", "llama")
POOLINGS = ("cls", "mean", "max", "last_token", "weighted_mean")
TEXTS = [
    "a short one",
    "parse the options of a command line, and say what is wrong with them",
    "grüße, 世界 🙂",
    "a",
    "word " * 50,  # longer than the window
    "run a function every few seconds",
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: write_transformer(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


def batch_of(texts: list[str]) -> Batch:
    return {**make_batch([str(k) for k in range(len(texts))], texts), "text": object_array(texts)}


def embed(model: Path, texts: list[str] = TEXTS, role: Any = "document", **options: Any) -> np.ndarray:
    config = Config(model=str(model), **options).resolve()
    vectors = config.load("cpu", threads=1).embed(config.prepare(batch_of(texts), role))
    assert vectors.shape == (len(texts), config.dimension)
    return vectors


def plain_states(
    model: Path, texts: list[str] = TEXTS, side: str = "right", dtype: Any = "float32"
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Hidden states of every layer and the mask, as anyone gets them of transformers."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(model, padding_side=side)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
    inputs = tokenizer(texts, padding=True, truncation=True, max_length=64, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    plain = transformers.AutoModel.from_pretrained(model, dtype=dtype).eval()
    if side == "left":  # as `generate` counts them
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    body = plain.get_encoder() if plain.config.is_encoder_decoder else plain
    with torch.no_grad():
        output = body(**inputs, output_hidden_states=True)
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)
    return list(output.hidden_states), inputs["attention_mask"]


def pooled(states: torch.Tensor, mask: torch.Tensor, pooling: str) -> np.ndarray:
    """Row by row, without padding: what each pooling means."""
    rows = [row[kept == 1].float() for row, kept in zip(states, mask, strict=True)]
    if pooling == "cls":
        vectors = [row[0] for row in rows]
    elif pooling == "last_token":
        vectors = [row[-1] for row in rows]
    elif pooling == "mean":
        vectors = [row.mean(0) for row in rows]
    elif pooling == "max":
        vectors = [row.max(0).values for row in rows]
    else:
        vectors = [(row * (w := torch.arange(1, len(row) + 1)[:, None])).sum(0) / w.sum() for row in rows]
    return torch.stack(vectors).numpy()


# the same numbers


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_vectors_are_those_of_transformers(models: dict[str, Path], kind: str, pooling: str):
    states, mask = plain_states(models[kind])
    expected = pooled(states[-1], mask, pooling)
    assert np.ptp(expected, axis=0).max() > 0.1  # the rows differ
    np.testing.assert_allclose(embed(models[kind], pooling=pooling), expected, atol=1e-4)


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_decoder_gives_what_it_gives_with_padding_on_the_left(models: dict[str, Path], kind: str, pooling: str):
    states, mask = plain_states(models[kind], side="left")
    assert mask[0, 0] == 0 and mask[4].all()
    np.testing.assert_allclose(embed(models[kind], pooling=pooling), pooled(states[-1], mask, pooling), atol=1e-4)


def test_the_side_that_a_tokenizer_pads_does_not_matter(models: dict[str, Path], tmp_path: Path):
    model = write_transformer(tmp_path / "gpt2", "gpt2")
    change_json(model / "tokenizer_config.json", padding_side="left")
    expected = embed(models["gpt2"], pooling="last_token")
    np.testing.assert_allclose(embed(model, pooling="last_token"), expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["bert", "gpt2", "modernbert", "t5"])
@pytest.mark.parametrize(
    ("layers", "aggregate"),
    [((0,), "mean"), ((-2,), "mean"), ((1, 2), "mean"), ((-1, -2), "sum"), ((0, 1, 2), "max"), ((2, 0), "concat")],
)
def test_layers(models: dict[str, Path], kind: str, layers: tuple[int, ...], aggregate: str):
    states, mask = plain_states(models[kind])
    chosen = [states[layer] for layer in layers]
    if aggregate == "concat":
        together = torch.cat(chosen, dim=2)
    else:
        stack = torch.stack(chosen)
        together = {"mean": stack.mean(0), "sum": stack.sum(0), "max": stack.max(0).values}[aggregate]
    vectors = embed(models[kind], layers=layers, aggregate=aggregate)
    np.testing.assert_allclose(vectors, pooled(together, mask, "mean"), atol=1e-4)


def test_prompts_stand_before_the_text(models: dict[str, Path]):
    prompts = {"document_prompt": "passage: ", "query_prompt": "query: "}
    for role in ("document", "query"):
        states, mask = plain_states(models["bert"], [prompts[f"{role}_prompt"] + text for text in TEXTS])
        expected = pooled(states[-1], mask, "mean")
        np.testing.assert_allclose(embed(models["bert"], role=role, **prompts), expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_half_precision_is_that_of_a_model_loaded_so(models: dict[str, Path], kind: str):
    states, mask = plain_states(models[kind], dtype=torch.bfloat16)
    vectors = embed(models[kind], compute_dtype="bf16")
    np.testing.assert_allclose(vectors, pooled(states[-1], mask, "mean"), atol=1e-4)
    exact = embed(models[kind])
    assert 1e-4 < np.abs(vectors - exact).max() < 0.3


def test_weights_are_never_larger_than_they_have_to_be(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch):
    seen: list[Any] = []
    real = transformers.AutoModel.from_pretrained

    def watched(*args: Any, **options: Any) -> Any:
        made = real(*args, **options)
        seen.append(next(made[0].parameters()).dtype)
        return made

    monkeypatch.setattr(transformers.AutoModel, "from_pretrained", watched)
    embed(models["llama"], compute_dtype="bf16")
    assert seen == [torch.bfloat16]


# what the model's files say


@pytest.mark.parametrize("kind", KINDS)
def test_resolve_reads_the_models_files(models: dict[str, Path], kind: str):
    config = Config(model=str(models[kind])).resolve()
    marks = {"t5": 1, **dict.fromkeys(DECODERS, 0)}.get(kind, 2)
    assert (config.dim, config.max_tokens, config.window) == (16, 64, 64 - marks)
    assert (config.document_prompt, config.query_prompt) == ("", "")
    assert config.revision is not None and len(config.revision) == 32
    assert Config(model=str(models[kind]), layers=(0, 1, 2), aggregate="concat").resolve().dimension == 48


@pytest.mark.parametrize("kind", ["bert", "roberta", "gpt2"])
def test_a_window_that_only_the_positions_say(kind: str, tmp_path: Path):
    model = write_transformer(tmp_path / kind, kind)
    change_json(model / "tokenizer_config.json", model_max_length=10**30)
    config = Config(model=str(model)).resolve()
    assert config.max_tokens == 64
    assert np.isfinite(embed(model)).all()  # also at the last position
    assert Config(model=str(model), max_tokens=20).resolve().max_tokens == 20


def test_a_window_that_nothing_says(tmp_path: Path):
    model = write_transformer(tmp_path / "t5", "t5")
    change_json(model / "tokenizer_config.json", model_max_length=10**30)
    with pytest.raises(ModelNotFound, match="does not say its window; give `max_tokens`"):
        Config(model=str(model)).resolve()
    assert Config(model=str(model), max_tokens=20).resolve().max_tokens == 20


@pytest.mark.parametrize("layer", [3, -4])
def test_a_layer_that_is_not_there(models: dict[str, Path], layer: int):
    with pytest.raises(SpecError, match=rf"the model has layers 0 \(embeddings\) to 2, or -3 to -1; not {layer}"):
        Config(model=str(models["bert"]), layers=(-1, layer)).resolve()


def test_a_config_that_does_not_say_a_dimension(models: dict[str, Path], tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelNotFound, match="does not say the length of its vectors"):
        Config(model=str(tmp_path), max_tokens=9).resolve()


def test_a_text_without_a_token(models: dict[str, Path]):
    config = Config(model=str(models["gpt2"])).resolve()
    with pytest.raises(RowError, match="no token"):
        config.prepare(batch_of(["a", ""]), "document")


# what is refused


def test_weights_that_lack_some_of_the_models(tmp_path: Path):
    from safetensors.torch import load_file, save_file

    model = write_transformer(tmp_path / "bert", "bert")
    weights = load_file(model / "model.safetensors")
    name = "encoder.layer.1.output.dense.weight"
    save_file({k: v for k, v in weights.items() if k != name}, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelNotFound, match=rf"lack 1 of those of BertModel: {name}[\s\S]*would be random"):
        embed(model)


def test_a_pooler_is_not_needed(models: dict[str, Path], tmp_path: Path):
    from safetensors.torch import load_file, save_file

    model = write_transformer(tmp_path / "bert", "bert")
    weights = {k: v for k, v in load_file(model / "model.safetensors").items() if not k.startswith("pooler.")}
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    np.testing.assert_allclose(embed(model), embed(models["bert"]), atol=1e-6)


def test_weights_that_would_run_code_are_refused(tmp_path: Path):
    model = write_transformer(tmp_path / "bert", "bert")
    (model / "model.safetensors").unlink()
    torch.save({"x": Payload(tmp_path / "ran")}, model / "pytorch_model.bin")
    with pytest.raises(ModelNotFound, match="do not load as tensors alone"):
        embed(model)
    assert not (tmp_path / "ran").exists()


def test_code_of_the_models_own_is_refused(tmp_path: Path):
    model = write_transformer(tmp_path / "bert", "bert")
    change_json(model / "config.json", auto_map={"AutoModel": "modeling_own.Net"})
    with pytest.raises(SpecError, match=r"brings code of its own: modeling_own\.Net"):
        Config(model=str(model)).resolve()
    with pytest.raises(ValueError, match="trust_remote_code needs a pinned `revision`"):
        Config(model=str(model), trust_remote_code=True)


def test_a_tokenizer_that_makes_other_tokens_than_transformers(models: dict[str, Path]):
    config = Config(model=str(models["bert"])).resolve()
    config.check_tokenizer(transformers.AutoTokenizer.from_pretrained(models["bert"]))
    with pytest.raises(
        ModelNotFound, match=r"tokenizer\.json of model .* makes \[.*and transformers \[[\s\S]*Save it once"
    ):
        config.check_tokenizer(transformers.AutoTokenizer.from_pretrained(models["gpt2"]))
    with pytest.raises(ModelNotFound, match="with token types"):
        tokens = config._tokenizer().encode("one two, three").ids
        config.check_tokenizer(lambda text: {"input_ids": tokens, "token_type_ids": [0, 1]})


def test_models_that_prepare_alike_share_token_ids(models: dict[str, Path]):
    first = Config(model=str(models["bert"])).resolve()
    alike = Config(
        model=str(models["bert"]), pooling="cls", layers=(0,), normalize=True, compute_dtype="bf16"
    ).resolve()
    assert alike.preparation_key() == first.preparation_key()
    others = [{"max_tokens": 9}, {"document_prompt": "x"}, {"query_prompt": "x"}, {"model": str(models["gpt2"])}]
    keys = {Config(**{"model": str(models["bert"]), **other}).resolve().preparation_key() for other in others}
    assert len(keys | {first.preparation_key()}) == 5


@pytest.mark.parametrize("pooling", ["mean", "weighted_mean"])
def test_places_are_counted_to_the_end_in_half_precision(pooling: str):
    states = torch.linspace(0, 1, 1000, dtype=torch.bfloat16)[None, :, None].expand(1, 1000, 2)
    mask = torch.ones((1, 1000), dtype=torch.int64)
    np.testing.assert_allclose(pool_places(states, mask, pooling).numpy(), pooled(states, mask, pooling), atol=1e-5)
