"""The family beside plain timm, with random weights."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contract import make_pictures
from libraries import library
from model_maker import Payload

from operators.batch import Batch, make_batch, object_array
from operators.embedders.timm import Config
from operators.errors import ModelNotFound, SpecError, UnknownName

timm = library("timm")
torch = library("torch")

VIT, RESNET, ATTENTIVE = "test_vit", "test_resnet", "test_vit3"


def batch_of(pictures: list[Any]) -> Batch:
    ids = [str(row) for row in range(len(pictures))]
    return {**make_batch(ids, [b""] * len(ids)), "image": object_array(pictures)}


def embed(config: Config) -> np.ndarray:
    return config.load("cpu", threads=1).embed(config.prepare(batch_of(make_pictures()), "document"))


def images_for(model: Any) -> Any:
    """The pictures as timm's own transform makes them."""
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    return torch.stack([transform(picture) for picture in make_pictures()])


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Any, Path]]:
    """Makes a model with random weights and a file of them."""
    folder = tmp_path_factory.mktemp("weights")

    def save(name: str, **arguments: Any) -> tuple[Any, Path]:
        from safetensors.torch import save_file

        torch.manual_seed(0)
        model = timm.create_model(name, **arguments).eval()
        path = folder / f"{name}.safetensors"
        save_file(model.state_dict(), path)
        return model, path

    return save


PLAIN: list[tuple[str, str, Callable[[Any, Any], Any]]] = [
    (RESNET, "model", lambda m, x: m.forward_head(m.forward_features(x), pre_logits=True)),
    (RESNET, "gap", lambda m, x: m.forward_features(x).mean((2, 3))),
    (RESNET, "gmp", lambda m, x: m.forward_features(x).amax((2, 3))),
    (RESNET, "fc", lambda m, x: m(x)),
    (VIT, "model", lambda m, x: m.forward_head(m.forward_features(x), pre_logits=True)),
    (VIT, "cls", lambda m, x: m.forward_features(x)[:, 0]),
    (VIT, "mean_patch", lambda m, x: m.forward_features(x)[:, 1:].mean(1)),
    (VIT, "gap", lambda m, x: m.forward_features(x)[:, 1:].mean(1)),
    (VIT, "gmp", lambda m, x: m.forward_features(x)[:, 1:].amax(1)),
    (VIT, "fc", lambda m, x: m(x)),
    (ATTENTIVE, "attention", lambda m, x: m.attn_pool(m.forward_features(x))),
    (ATTENTIVE, "model", lambda m, x: m.forward_head(m.forward_features(x), pre_logits=True)),
    (ATTENTIVE, "mean_patch", lambda m, x: m.forward_features(x)[:, m.num_prefix_tokens :].mean(1)),
]


@pytest.mark.parametrize(("model", "pooling", "plain"), PLAIN, ids=[f"{m}-{p}" for m, p, _ in PLAIN])
def test_vectors_are_those_of_timm(saved: Any, model: str, pooling: str, plain: Callable[[Any, Any], Any]):
    whole, weights = saved(model)
    with torch.no_grad():
        expected = plain(whole, images_for(whole)).numpy()
    config = Config(model=model, weights=str(weights), pooling=pooling).resolve()
    vectors = embed(config)
    assert vectors.shape == (7, config.dimension) == expected.shape
    np.testing.assert_allclose(vectors, expected, atol=1e-4)
    assert np.ptp(vectors, axis=0).max() > 1e-3


@pytest.mark.parametrize(
    ("model", "layers", "pooling", "aggregate"),
    [
        (RESNET, ("layer4", "layer2"), "gap", "concat"),
        (RESNET, ("layer3",), "gmp", "concat"),
        (VIT, ("blocks.5", "blocks.1", "blocks.5"), "mean_patch", "concat"),
        (VIT, ("blocks.4", "blocks.5"), "cls", "mean"),
        (VIT, ("blocks.4", "blocks.5"), "gmp", "sum"),
    ],
)
def test_layers_are_those_of_timm(saved: Any, model: str, layers: tuple[str, ...], pooling: str, aggregate: str):
    whole, weights = saved(model)
    names = [info["module"] for info in whole.feature_info]
    prefix = {"return_prefix_tokens": True} if pooling == "cls" else {}
    with torch.no_grad():
        maps = whole.forward_intermediates(images_for(whole), intermediates_only=True, **prefix)
        found = [maps[names.index(layer)] for layer in layers]
        pool = {"cls": lambda f: f[1][:, 0], "gmp": lambda f: f.amax((2, 3))}.get(pooling, lambda f: f.mean((2, 3)))
        pooled = [pool(features) for features in found]
        join = {"concat": lambda v: torch.cat(v, 1), "mean": lambda v: sum(v) / len(v), "sum": sum}[aggregate]
        expected = join(pooled).numpy()
    config = Config(model=model, weights=str(weights), layers=layers, pooling=pooling, aggregate=aggregate).resolve()
    assert config.dimension == expected.shape[1]
    np.testing.assert_allclose(embed(config), expected, atol=1e-4)


@pytest.mark.parametrize("crop_mode", ["center", "border", "squash"])
@pytest.mark.parametrize(("crop_pct", "interpolation"), [(0.8, "bicubic"), (1.0, "bilinear")])
def test_pixels_are_those_of_timm(saved: Any, tmp_path: Path, crop_mode: str, crop_pct: float, interpolation: str):
    """Of a saved model, whose own configuration frames pictures so."""
    whole, _ = saved(RESNET)
    data = {"crop_mode": crop_mode, "crop_pct": crop_pct, "interpolation": interpolation, "mean": (0.5, 0.3, 0.1)}
    timm.models.save_for_hf(whole, tmp_path, model_config={"pretrained_cfg": data}, safe_serialization=True)
    config = Config(model=str(tmp_path)).resolve()
    transform = timm.data.create_transform((3, 160, 160), **{**data, "std": config.std})
    made = config.prepare(batch_of(make_pictures()), "document")["pixels"]
    plain = [transform(picture) for picture in make_pictures()]
    mean, std = torch.tensor(config.mean).view(3, 1, 1), torch.tensor(config.std).view(3, 1, 1)
    levels = torch.stack([(picture * std + mean) * 255 for picture in plain]).round().permute(0, 2, 3, 1)
    np.testing.assert_array_equal(made, levels.numpy().astype(np.uint8))
    assert config.mean == data["mean"]


def test_a_folder_of_timm(saved: Any, tmp_path: Path):
    whole, _ = saved(VIT, num_classes=7)
    timm.models.save_for_hf(whole, tmp_path, safe_serialization=True)
    config = Config(model=str(tmp_path), pooling="fc").resolve()
    assert (config.architecture, config.dim, len(config.revision or "")) == (VIT, 7, 32)
    with torch.no_grad():
        np.testing.assert_allclose(embed(config), whole(images_for(whole)).numpy(), atol=1e-4)
    named = Config(model=f"local-dir:{tmp_path}", pooling="fc").resolve()
    assert named.fingerprint_fields() == config.fingerprint_fields()
    with pytest.raises(ModelNotFound, match=f"are {config.revision}, not {'0' * 32}, which `revision` pins"):
        Config(model=str(tmp_path), revision="0" * 32).resolve()
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelNotFound, match="has no weights"):
        config.load("cpu")
    (tmp_path / "config.json").unlink()
    with pytest.raises(ModelNotFound, match=r"has no config\.json of timm's kind"):
        config.resolve()


def test_maps_with_channels_last(tmp_path: Path):
    """Swin's; smaller than any that timm names, which the folder says."""
    torch.manual_seed(0)
    sizes = {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2), "img_size": 56}
    whole = timm.create_model("swin_tiny_patch4_window7_224", **sizes).eval()
    timm.models.save_for_hf(whole, tmp_path, safe_serialization=True)
    config = Config(model=str(tmp_path), pooling="gap").resolve()
    assert (config.architecture, config.crop, config.dim) == ("swin_tiny_patch4_window7_224", 56, 16)
    with torch.no_grad():
        features = whole.forward_features(images_for(timm.create_model(f"local-dir:{tmp_path}")))
    assert features.shape[1:] == (7, 7, 16)
    np.testing.assert_allclose(embed(config), features.mean((1, 2)).numpy(), atol=1e-4)


def test_the_job_has_the_last_word_on_framing(saved: Any):
    _, weights = saved(RESNET)
    config = Config(model=RESNET, weights=str(weights), crop=128, interpolation="box", mean=(0, 0, 0)).resolve()
    assert (config.resize, config.crop, config.interpolation) == (134, 128, "box")  # 128 / 0.95
    assert (config.mean, config.std) == ((0, 0, 0), (0.5, 0.5, 0.5))
    assert config.prepared_bytes() == 128 * 128 * 3


def test_pixels_are_shared_with_models_that_frame_alike(saved: Any):
    from operators.embedders.torchvision import Config as TorchvisionConfig

    _, weights = saved(RESNET)
    framing = {"resize": 256, "crop": 224, "interpolation": "bilinear"}
    config = Config(model=RESNET, weights=str(weights), **framing).resolve()
    assert (
        config.preparation_key()
        == TorchvisionConfig(model="resnet18", weights="DEFAULT", **framing).resolve().preparation_key()
    )
    assert config.preparation_key() != Config(model=RESNET, weights=str(weights)).resolve().preparation_key()


def test_poolings_that_a_model_lacks(saved: Any):
    _, weights = saved(RESNET)
    for pooling in ("cls", "mean_patch", "attention"):
        with pytest.raises(SpecError, match=f"'{RESNET}' has no pooling '{pooling}'; it has model, fc, gap, gmp"):
            Config(model=RESNET, weights=str(weights), pooling=pooling).resolve()
    with pytest.raises(SpecError, match=r"has no pooling 'model'; it has gap, gmp"):
        Config(model=RESNET, weights=str(weights), layers=("layer1",)).resolve()
    with pytest.raises(UnknownName, match=r"no layer of model 'test_resnet' 'layer9'\. Did you mean 'layer"):
        Config(model=RESNET, weights=str(weights), pooling="gap", layers=("layer9",)).resolve()
    with pytest.raises(SpecError, match=r"widths .* can only be put together by 'concat'"):
        Config(
            model=RESNET, weights=str(weights), pooling="gap", layers=("layer1", "layer4"), aggregate="mean"
        ).resolve()


def test_a_side_that_the_model_does_not_take(saved: Any):
    _, weights = saved(VIT)
    with pytest.raises(SpecError, match="'test_vit' does not take images of 100 x 100 pixels: Input"):
        Config(model=VIT, weights=str(weights), crop=100).resolve()


def test_names_and_weights_that_are_not_there(saved: Any, tmp_path: Path):
    _, weights = saved(RESNET)
    with pytest.raises(UnknownName, match=r"no timm model 'resnet19'\. Did you mean 'resnet"):
        Config(model="resnet19", weights=str(weights)).resolve()
    with pytest.raises(UnknownName, match="no timm model 'resnet19'"):
        Config(model="resnet19").resolve()
    with pytest.raises(ModelNotFound, match="no weights file '/nowhere"):
        Config(model=RESNET, weights="/nowhere/w.safetensors").resolve()
    with pytest.raises(ModelNotFound, match="neither a local folder nor to be had from the hub"):
        Config(model="resnet18").resolve()  # whose weights timm publishes
    other, _ = saved("test_resnet", num_classes=3)
    torch.save(other.state_dict(), tmp_path / "three.pth")
    config = Config(model="test_vit", weights=str(tmp_path / "three.pth")).resolve()
    with pytest.raises(
        ModelNotFound, match=r"do not load: Error\(s\) in loading state_dict[\s\S]*Give weights of this architecture"
    ):
        config.load("cpu")


def test_a_file_that_would_run_code_is_refused(tmp_path: Path):
    torch.save({"weight": Payload(tmp_path / "it ran")}, tmp_path / "w.pth")
    config = Config(model=RESNET, weights=str(tmp_path / "w.pth")).resolve()
    with pytest.raises(ModelNotFound, match="do not load: weights_only"):
        config.load("cpu")
    assert not (tmp_path / "it ran").exists()


def test_preparation_loads_no_torch(saved: Any):
    _, weights = saved(RESNET)
    config = Config(model=RESNET, weights=str(weights)).resolve()
    code = """
import json, sys
from PIL import Image
from operators.batch import make_batch, object_array
from operators.embedders import load_config
config = load_config(json.loads(sys.argv[1]))
batch = {**make_batch(["a"], [b""]), "image": object_array([Image.new("RGB", (30, 40))])}
assert config.prepare(batch, "document")["pixels"].shape == (1, 160, 160, 3)
print(json.dumps(sorted(sys.modules)))
"""
    arguments = [sys.executable, "-c", code, json.dumps(config.model_dump(mode="json"))]
    run = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert not {name.split(".")[0] for name in json.loads(run.stdout)} & {"torch", "timm", "safetensors"}
