"""The family beside plain transformers, with tiny models."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contract import TEXTS, make_pictures
from image_models import SIDE, write_model
from libraries import library
from model_maker import change_json

from operators.batch import Batch, make_batch, object_array
from operators.embedders.transformers_image import Config
from operators.errors import ModelNotFound, SpecError

torch = library("torch")
transformers = library("transformers")

PICTURES = make_pictures()


def batch_of(column: str, values: list[Any]) -> Batch:
    ids = [str(row) for row in range(len(values))]
    return {**make_batch(ids, [b""] * len(ids)), column: object_array(values)}


def embed(config: Config, column: str, values: list[Any], role: Any = "document") -> np.ndarray:
    return config.load("cpu", threads=1).embed(config.prepare(batch_of(column, values), role))


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny model of a kind, made once."""
    root = tmp_path_factory.mktemp("models")

    def make(kind: str) -> Path:
        return root / kind if (root / kind).is_dir() else write_model(root / kind, kind)

    return make


def pixel_values(folder: Path) -> Any:
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    return processor(PICTURES, return_tensors="pt")["pixel_values"]


PLAIN: list[tuple[str, str, Callable[[Any, Any], Any]]] = [
    ("vit", "pooler", lambda m, x: m(x).pooler_output),
    ("vit", "cls", lambda m, x: m(x).last_hidden_state[:, 0]),
    ("vit", "mean_patch", lambda m, x: m(x).last_hidden_state[:, 1:].mean(1)),
    ("vit", "gap", lambda m, x: m(x).last_hidden_state[:, 1:].mean(1)),
    ("vit", "gmp", lambda m, x: m(x).last_hidden_state[:, 1:].amax(1)),
    ("deit", "mean_patch", lambda m, x: m(x).last_hidden_state[:, 2:].mean(1)),
    ("beit", "pooler", lambda m, x: m(x).pooler_output),
    ("beit", "mean_patch", lambda m, x: m(x).last_hidden_state[:, 1:].mean(1)),
    ("dinov2", "cls", lambda m, x: m(x).last_hidden_state[:, 0]),
    ("dinov2_with_registers", "mean_patch", lambda m, x: m(x).last_hidden_state[:, 4:].mean(1)),
    ("dinov3_vit", "mean_patch", lambda m, x: m(x).last_hidden_state[:, 3:].mean(1)),
    ("swin", "pooler", lambda m, x: m(x).pooler_output),
    ("swin", "gap", lambda m, x: m(x).last_hidden_state.mean(1)),
    ("resnet", "pooler", lambda m, x: m(x).pooler_output.flatten(1)),
    ("resnet", "gap", lambda m, x: m(x).last_hidden_state.mean((2, 3))),
    ("resnet", "gmp", lambda m, x: m(x).last_hidden_state.amax((2, 3))),
    ("convnext", "pooler", lambda m, x: m(x).pooler_output),
    ("clip", "pooler", lambda m, x: m.get_image_features(pixel_values=x).pooler_output),
    ("clip", "cls", lambda m, x: m.vision_model(x).last_hidden_state[:, 0]),
    ("clip", "mean_patch", lambda m, x: m.vision_model(x).last_hidden_state[:, 1:].mean(1)),
    ("siglip", "pooler", lambda m, x: m.get_image_features(pixel_values=x).pooler_output),
    ("siglip", "attention", lambda m, x: m.vision_model.head(m.vision_model(x).last_hidden_state)),
    ("siglip", "mean_patch", lambda m, x: m.vision_model(x).last_hidden_state.mean(1)),
]


@pytest.mark.parametrize(("kind", "pooling", "plain"), PLAIN, ids=[f"{k}-{p}" for k, p, _ in PLAIN])
def test_vectors_are_those_of_transformers(folder_of: Any, kind: str, pooling: str, plain: Callable[[Any, Any], Any]):
    folder = folder_of(kind)
    with torch.no_grad():
        expected = plain(transformers.AutoModel.from_pretrained(folder).eval(), pixel_values(folder)).numpy()
    config = Config(model=str(folder), pooling=pooling).resolve()
    assert config.dimension == expected.shape[1]
    # Only DINOv3's processor has no Pillow in it: it resizes in floats, where we round to a level of 255.
    np.testing.assert_allclose(embed(config, "image", PICTURES), expected, atol=2e-2 if kind == "dinov3_vit" else 1e-4)
    assert np.ptp(expected, axis=0).max() > 0.1


@pytest.mark.parametrize(
    ("kind", "pooling", "layers", "aggregate"),
    [
        ("vit", "cls", (1,), "mean"),
        ("vit", "mean_patch", (-1, -2), "mean"),
        ("vit", "gmp", (0, 3), "sum"),
        ("clip", "cls", (-2, 1), "concat"),
        ("resnet", "gap", (1, 2), "concat"),
        ("swin", "gap", (0, -1), "concat"),
    ],
)
def test_layers_are_those_of_transformers(
    folder_of: Any, kind: str, pooling: str, layers: tuple[int, ...], aggregate: str
):
    folder = folder_of(kind)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        states = getattr(model, "vision_model", model)(pixel_values(folder), output_hidden_states=True).hidden_states
    prefix = 1 if kind in ("vit", "clip") else 0
    found = [states[k].flatten(2).transpose(1, 2) if states[k].ndim == 4 else states[k][:, prefix:] for k in layers]
    pool = {"cls": lambda f: f, "gmp": lambda f: f.amax(1)}.get(pooling, lambda f: f.mean(1))
    pooled = [states[k][:, 0] for k in layers] if pooling == "cls" else [pool(f) for f in found]
    join = {"concat": lambda v: torch.cat(v, 1), "mean": lambda v: sum(v) / len(v), "sum": sum}[aggregate]
    config = Config(model=str(folder), pooling=pooling, layers=layers, aggregate=aggregate).resolve()
    expected = join(pooled).numpy()
    assert config.dimension == expected.shape[1]
    np.testing.assert_allclose(embed(config, "image", PICTURES), expected, atol=1e-4)


# text beside images


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_text_vectors_are_those_of_transformers(folder_of: Any, kind: str):
    folder = folder_of(kind)
    config = Config(model=str(folder), query_prompt="a photo of ").resolve()
    assert config.joint and config.max_tokens == {"clip": 77, "siglip": 64}[kind]
    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    padding = {"clip": True, "siglip": "max_length"}[kind]

    def plain(texts: list[str]) -> Any:
        made = tokenizer(texts, padding=padding, truncation=True, max_length=config.max_tokens, return_tensors="pt")
        mask = {"attention_mask": made["attention_mask"]} if kind == "clip" else {}
        with torch.no_grad():
            return model.get_text_features(input_ids=made["input_ids"], **mask).pooler_output.numpy()

    np.testing.assert_allclose(embed(config, "text", TEXTS), plain(TEXTS), atol=1e-4)
    asked = embed(config, "text", TEXTS[:2], "query")
    np.testing.assert_allclose(asked, plain([f"a photo of {text}" for text in TEXTS[:2]]), atol=1e-4)
    prepared = config.prepare(batch_of("text", TEXTS), "document")
    assert prepared["tokens"].tolist() == [len(tokenizer(text, verbose=False)["input_ids"]) for text in TEXTS]
    assert prepared["truncated"].tolist() == (prepared["tokens"] > config.max_tokens).tolist()
    assert 0 < prepared["truncated"].sum() < len(TEXTS)


def test_many_texts_are_run_in_parts(folder_of: Any):
    config = Config(model=str(folder_of("clip"))).resolve()
    embedder = config.load("cpu", threads=1)
    texts = [f"text {number}" for number in range(200)]  # 2,000 tokens, and a batch may have 1,024
    prepared = config.prepare(batch_of("text", texts), "document")
    sizes: list[int] = []
    forward = embedder.model.forward
    embedder.model.forward = lambda **given: sizes.append(given["input_ids"].numel()) or forward(**given)
    vectors = embedder.embed(prepared)
    assert len(sizes) > 1 and max(sizes) <= 1024
    np.testing.assert_allclose(vectors[150:], embed(config, "text", texts[150:]), atol=1e-5)


def test_a_model_of_images_alone_takes_no_text(folder_of: Any):
    for config in (
        Config(model=str(folder_of("vit"))).resolve(),
        Config(model=str(folder_of("clip")), pooling="cls").resolve(),
    ):
        assert not config.joint
        with pytest.raises(SpecError, match="embeds images only"):
            config.prepare(batch_of("text", ["a"]), "query")
    with pytest.raises(SpecError, match="with pooling 'pooler' takes no text; leave max_tokens out"):
        Config(model=str(folder_of("vit")), max_tokens=12).resolve()


def test_what_is_prepared_is_shared_by_models_that_prepare_alike(folder_of: Any):
    vit, dino = (Config(model=str(folder_of(kind))).resolve() for kind in ("vit", "dinov2"))
    clip = Config(model=str(folder_of("clip"))).resolve()
    other = Config(model=str(folder_of("clip")), document_prompt="a photo of ").resolve()
    assert vit.preparation_key() == dino.preparation_key()
    keys = {config.preparation_key() for config in (vit, clip, other)}
    assert len(keys) == 3


def test_text_needs_a_fast_tokenizer_and_images_none(tmp_path: Path):
    folder = write_model(tmp_path / "clip", "clip")
    (folder / "tokenizer.json").unlink()
    config = Config(model=str(folder)).resolve()
    assert embed(config, "image", PICTURES[:2]).shape == (2, 20)
    with pytest.raises(ModelNotFound, match=r"has no tokenizer\.json"):
        config.prepare(batch_of("text", ["a"]), "document")


# framing


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("clip", {"size": {"shortest_edge": 41}}),
        ("clip", {"resample": 2, "do_normalize": False}),
        ("clip", {"rescale_factor": 1 / 127.5, "image_mean": [1.0, 1.0, 1.0], "image_std": [1.0, 1.0, 1.0]}),
        ("clip", {"do_rescale": False, "image_mean": [99.0, 100.0, 101.0], "image_std": [5.0, 6.0, 7.0]}),
        ("vit", {"size": SIDE, "resample": 0}),
        ("convnext", {"crop_pct": 0.7}),
        ("convnext", {"size": {"shortest_edge": 384}}),
    ],
)
def test_framing_is_that_of_the_image_processor(tmp_path: Path, kind: str, changes: dict[str, Any]):
    folder = write_model(tmp_path / kind, kind)
    change_json(folder / "preprocessor_config.json", **changes)
    config = Config(model=str(folder), pooling="gap" if kind == "convnext" else "pooler").resolve()
    pixels = config.prepare(batch_of("image", PICTURES), "document")["pixels"]
    made = (pixels / 255 - np.array(config.mean)) / np.array(config.std)
    plain = pixel_values(folder).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(made, plain, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "changes", "lacking"),
    [
        ("clip", {"do_center_crop": False}, "crop"),
        ("clip", {"crop_size": {"height": 32, "width": 24}}, "crop"),
        ("clip", {"do_resize": False}, "resize"),
        ("vit", {"size": {"height": 32, "width": 24}}, "resize, crop"),
    ],
)
def test_framing_that_these_words_cannot_say(tmp_path: Path, kind: str, changes: dict[str, Any], lacking: str):
    folder = write_model(tmp_path / kind, kind)
    change_json(folder / "preprocessor_config.json", **changes)
    with pytest.raises(SpecError, match=f"does not say how it frames pictures; give {lacking}"):
        Config(model=str(folder)).resolve()
    assert Config(model=str(folder), resize=SIDE, crop=SIDE).resolve().crop == SIDE


def test_a_processor_that_does_more_is_refused(tmp_path: Path):
    folder = write_model(tmp_path / "vit", "vit")
    change_json(
        folder / "preprocessor_config.json", image_processor_type="EfficientNetImageProcessor", rescale_offset=True
    )
    with pytest.raises(SpecError, match=r"EfficientNetImageProcessor.*, does more than to resize, crop and normalise"):
        Config(model=str(folder)).resolve()
    framing = {"resize": 40, "resize_mode": "shortest", "crop": SIDE, "fill": (0, 0, 0), "interpolation": "bilinear"}
    config = Config(model=str(folder), **framing, mean=(0, 0, 0), std=(1, 1, 1)).resolve()
    assert (config.resize, config.mean) == (40, (0, 0, 0))
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(
        SpecError, match=r"Give a model with a preprocessor_config\.json, or all of resize, resize_mode"
    ):
        Config(model=str(folder)).resolve()
    assert Config(model=str(folder), **framing, mean=(0, 0, 0), std=(1, 1, 1)).resolve().dim == config.dim


def test_poolings_and_layers_that_a_model_lacks(folder_of: Any):
    def resolve(kind: str, **chosen: Any) -> Config:
        return Config(model=str(folder_of(kind)), **chosen).resolve()

    with pytest.raises(SpecError, match="has no pooling 'cls'; it has pooler, gap, gmp"):
        resolve("resnet", pooling="cls")
    with pytest.raises(SpecError, match="has no pooling 'attention'; it has pooler, cls, mean_patch, gap, gmp"):
        resolve("vit", pooling="attention")
    with pytest.raises(SpecError, match="has no pooling 'pooler'; it has cls, mean_patch, gap, gmp"):
        resolve("vit", layers=(1,))
    with pytest.raises(SpecError, match=r"the model has layers 0 \(embeddings\) to 3"):
        resolve("vit", pooling="cls", layers=(4,))
    with pytest.raises(SpecError, match="does not take images of 40 x 40 pixels"):
        resolve("vit", crop=40)


def test_a_pooler_without_weights_is_not_random(tmp_path: Path):
    folder = write_model(tmp_path / "vit", "vit")
    from safetensors.torch import load_file, save_file

    weights = {name: value for name, value in load_file(folder / "model.safetensors").items() if "pooler" not in name}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelNotFound, match=r"lack 2 of those of ViTModel: pooler\.dense"):
        Config(model=str(folder)).resolve().load("cpu")
    assert Config(model=str(folder), pooling="cls").resolve().load("cpu")


def test_preparation_loads_neither_torch_nor_transformers(folder_of: Any):
    config = Config(model=str(folder_of("clip"))).resolve()
    code = """
import json, sys
from PIL import Image
from operators.batch import make_batch, object_array
from operators.embedders import load_config
config = load_config(json.loads(sys.argv[1]))
batch = make_batch(["a"], [b""])
config.prepare({**batch, "image": object_array([Image.new("RGB", (30, 40))])}, "document")
config.prepare({**batch, "text": object_array(["some words"])}, "query"), config.spans(["some words"]), config.window
print(json.dumps(sorted(sys.modules)))
"""
    arguments = [sys.executable, "-c", code, json.dumps(config.model_dump(mode="json"))]
    run = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert not {name.split(".")[0] for name in json.loads(run.stdout)} & {"torch", "transformers", "torchvision"}
