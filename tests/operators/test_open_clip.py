"""The family beside plain open_clip, with tiny models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contract import TEXTS, make_pictures
from image_models import SIDE, write_open_clip, write_tokenizer
from libraries import library
from model_maker import Payload, change_json

from operators.batch import Batch, make_batch, object_array
from operators.embedders.open_clip import Config
from operators.errors import ModelNotFound, SpecError, UnknownName

torch = library("torch")
open_clip = library("open_clip")

PICTURES = make_pictures()


def batch_of(column: str, values: list[Any]) -> Batch:
    ids = [str(row) for row in range(len(values))]
    return {**make_batch(ids, [b""] * len(ids)), column: object_array(values)}


def embed(config: Config, column: str, values: list[Any], role: Any = "document") -> np.ndarray:
    return config.load("cpu", threads=1).embed(config.prepare(batch_of(column, values), role))


def plain(name: str, weights: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of the pictures and of the texts, as open_clip's own parts give them."""
    model, _, transform = open_clip.create_model_and_transforms(name, pretrained=weights)
    with torch.no_grad():
        images = model.eval().encode_image(torch.stack([transform(picture) for picture in PICTURES]))
        return images.numpy(), model.encode_text(open_clip.get_tokenizer(name)(TEXTS)).numpy()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_open_clip(tmp_path_factory.mktemp("models") / "clip")


def check_equal(config: Config, name: str, weights: str | None = None) -> None:
    images, texts = plain(name, weights)
    assert config.joint and config.dimension == images.shape[1]
    np.testing.assert_allclose(embed(config, "image", PICTURES), images, atol=1e-4)
    np.testing.assert_allclose(embed(config, "text", TEXTS), texts, atol=1e-4)
    assert np.ptp(images, axis=0).max() > 1e-2 and np.ptp(texts, axis=0).max() > 1e-2


def test_vectors_are_those_of_open_clip(folder: Path, caplog: pytest.LogCaptureFixture):
    config = Config(model=str(folder)).resolve()
    assert not caplog.records  # open_clip would warn of random weights
    assert (config.resize, config.crop, config.interpolation, config.architecture) == (SIDE, SIDE, "bicubic", None)
    check_equal(config, f"local-dir:{folder}")
    assert Config(model=f"local-dir:{folder}").resolve().fingerprint_fields() == config.fingerprint_fields()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_an_architecture_with_a_file_of_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str):
    made = write_open_clip(tmp_path / "clip", mean=[0.4, 0.4, 0.4])
    from safetensors.torch import load_file

    description = tmp_path / "tiny-clip.json"
    description.write_text(json.dumps(json.loads((made / "open_clip_config.json").read_text())["model_cfg"]))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", [*open_clip.factory._MODEL_CONFIG_PATHS])
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", dict(open_clip.factory._MODEL_CONFIGS))
    open_clip.add_model_config(description)
    weights = made / "open_clip_model.safetensors"
    if suffix == ".pt":
        torch.save({"state_dict": load_file(weights)}, tmp_path / "w.pt")
        weights = tmp_path / "w.pt"
    config = Config(model="tiny-clip", weights=str(weights)).resolve()
    assert (config.architecture, len(config.revision or "")) == ("tiny-clip", 64)
    assert config.mean == open_clip.OPENAI_DATASET_MEAN
    check_equal(config, "tiny-clip", str(weights))


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
def test_pixels_are_those_of_open_clip(tmp_path: Path, resize_mode: str):
    framing = {"resize_mode": resize_mode, "interpolation": "bilinear", "fill_color": 9, "std": [0.5, 0.4, 0.3]}
    made = write_open_clip(tmp_path / "clip", **framing)
    config = Config(model=str(made)).resolve()
    transform = open_clip.create_model_and_transforms(f"local-dir:{made}")[2]
    expected = torch.stack([transform(picture) for picture in PICTURES]).permute(0, 2, 3, 1).numpy()
    pixels = config.prepare(batch_of("image", PICTURES), "document")["pixels"]
    np.testing.assert_allclose((pixels / 255 - np.array(config.mean)) / np.array(config.std), expected, atol=1e-5)


def test_a_tokenizer_of_the_folder(tmp_path: Path):
    """As SigLIP's: it cleans, pads with a token of its own, and pools what comes last."""
    text = {"context_length": 30, "vocab_size": 300, "width": 32, "heads": 2, "layers": 2, "pool_type": "last"}
    tokenizer = {"hf_tokenizer_name": "nobody/nothing", "tokenizer_kwargs": {"clean": "canonicalize"}}
    made = write_open_clip(tmp_path / "clip", model_cfg={"text_cfg": {**text, **tokenizer}, "custom_text": True})
    write_tokenizer(made, 30, begin=False)
    config = Config(model=str(made)).resolve()
    check_equal(config, f"local-dir:{made}")
    prepared = config.prepare(batch_of("text", ["Ab, c!", "x" * 40]), "document")
    assert prepared["tokens"].tolist() == [4, 41]  # a b c </s>
    assert prepared["truncated"].tolist() == [False, True]
    assert config.spans(["ab c"])[0].tolist() == [[0, 1, 0], [1, 2, 0], [3, 4, 1]]


def test_tokens_and_prompts(folder: Path):
    config = Config(model=str(folder), query_prompt="a photo of ").resolve()
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    prepared = config.prepare(batch_of("text", TEXTS), "document")
    assert prepared["tokens"].tolist() == [2 + len(tokenizer.encode(text)) for text in TEXTS]
    assert prepared["truncated"].tolist() == (prepared["tokens"] > 30).tolist()
    assert 0 < prepared["truncated"].sum() < len(TEXTS)
    asked, said = (
        config.prepare(batch_of("text", [text]), role)["input_ids"][0].tolist()
        for text, role in [("a cat", "query"), ("a photo of a cat", "document")]
    )
    assert asked == said
    assert config.window == 28
    assert Config(model=str(folder), document_prompt="a photo of ").resolve().window == 25


def test_spans_lie_over_the_letters(folder: Path):
    config = Config(model=str(folder)).resolve()
    text = "Grüße an  tokenization, ISTANBUL 世界!"
    spans = config.spans([text])[0]
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    assert len(spans) == len(tokenizer.encode(text))
    words: dict[int, list[tuple[int, int]]] = {}
    for start, end, word in spans.tolist():
        words.setdefault(word, []).append((start, end))
    assert [text[found[0][0] : found[-1][1]] for found in words.values()] == [
        *("Grüße", "an", "tokenization", ",", "ISTANBUL", "世界", "!"),
    ]
    pieces = [text[start:end] for start, end in words[2]]
    assert len(pieces) > 1 and "".join(pieces) == "tokenization"
    assert config.spans(["İ a"])[0][-1].tolist() == [2, 3, 1]


# what is not there, and what is refused


def test_names_and_weights_that_are_not_there(folder: Path, tmp_path: Path):
    with pytest.raises(SpecError, match="open_clip model 'ViT-B-32' needs `weights`, a file; or give a hub id"):
        Config(model="ViT-B-32").resolve()
    with pytest.raises(UnknownName, match=r"no open_clip model 'ViT-B-33'\. Did you mean 'ViT-B-32"):
        Config(model="ViT-B-33", weights=str(folder / "open_clip_model.safetensors")).resolve()
    with pytest.raises(ModelNotFound, match="no weights file '/nowhere"):
        Config(model="ViT-B-32", weights="/nowhere/w.safetensors").resolve()
    with pytest.raises(ModelNotFound, match=r"has no open_clip_config\.json"):
        Config(model=str(tmp_path)).resolve()
    with pytest.raises(ModelNotFound, match="neither a local folder nor to be had from the hub"):
        Config(model="laion/no-such-model").resolve()
    config = Config(model="ViT-B-32", weights=str(folder / "open_clip_model.safetensors")).resolve()
    with pytest.raises(ModelNotFound, match="do not load: text pos_embed width changed"):
        config.load("cpu")


def test_a_pinned_folder_is_compared_with_its_files(tmp_path: Path):
    made = write_open_clip(tmp_path / "clip")
    config = Config(model=str(made)).resolve()
    change_json(made / "open_clip_config.json", note="other")
    with pytest.raises(ModelNotFound, match=f"not {config.revision}, which `revision` pins"):
        config.resolve()
    (made / "open_clip_model.safetensors").unlink()
    with pytest.raises(ModelNotFound, match="has no weights"):
        Config(model=str(made)).resolve().load("cpu")


def test_a_file_that_would_run_code_is_refused(folder: Path, tmp_path: Path):
    torch.save({"weight": Payload(tmp_path / "it ran")}, tmp_path / "w.pt")
    config = Config(model="ViT-B-32", weights=str(tmp_path / "w.pt")).resolve()
    with pytest.raises(ModelNotFound, match="do not load: Weights only load failed"):
        config.load("cpu")
    assert not (tmp_path / "it ran").exists()


@pytest.mark.parametrize(
    ("part", "changes", "why"),
    [
        (
            "text_cfg",
            {"hf_model_name": "roberta-base"},
            "built of another model, 'roberta-base', which no revision pins",
        ),
        ("vision_cfg", {"timm_model_name": "hf-hub:some/vit"}, "built of another model, 'hf-hub:some/vit'"),
        ("text_cfg", {"tokenizer_kwargs": {"trust_remote_code": True}}, "not supported: trust_remote_code"),
        ("text_cfg", {"tokenizer_kwargs": {"reduction_mask": "random"}}, "not supported: reduction_mask"),
        ("text_cfg", {"tokenizer_mode": "clips"}, "not supported: clips"),
    ],
)
def test_parts_that_no_revision_pins_are_refused(tmp_path: Path, part: str, changes: dict[str, Any], why: str):
    made = write_open_clip(tmp_path / "clip")
    description = json.loads((made / "open_clip_config.json").read_text())
    description["model_cfg"][part] |= changes
    (made / "open_clip_config.json").write_text(json.dumps(description))
    with pytest.raises(SpecError, match=why):
        Config(model=str(made)).resolve()


def test_a_tokenizer_with_code_is_refused(tmp_path: Path):
    made = write_open_clip(tmp_path / "clip")
    (made / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["own.Tokenizer", null]}}')
    with pytest.raises(SpecError, match=r"brings code of its own: own\.Tokenizer"):
        Config(model=str(made)).resolve()


def test_the_tokenizer_of_another_hub_model_is_refused(tmp_path: Path):
    (tmp_path / "w.pt").write_bytes(b"")
    with pytest.raises(
        SpecError, match="is that of the hub model 'timm/ViT-B-16-SigLIP', which the weights do not pin"
    ):
        Config(model="ViT-B-16-SigLIP", weights=str(tmp_path / "w.pt")).resolve()
