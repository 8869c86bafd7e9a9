"""The family beside plain torchvision, with real weights and real pictures."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from libraries import library
from model_maker import Payload
from PIL import Image

from latentlake.provenance import fingerprint_of
from operators.batch import Batch, make_batch, object_array
from operators.chain import Chain
from operators.embedders.torchvision import Config, cut_classifier
from operators.errors import ModelNotFound, SpecError, UnknownName
from operators.model_files import downloads_if

torch = library("torch")
torchvision = library("torchvision")

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # of ImageNet, as torchvision's documentation gives them


@pytest.fixture(scope="module")
def weights(data: Path) -> Path:
    path = data / "weights" / "squeezenet1_0_imagenet.safetensors"
    if not path.is_file():
        pytest.skip(f"no weights at {path}: set LATENTLAKE_TEST_DATA")
    return path


@pytest.fixture(scope="module")
def pictures(data: Path) -> list[Image.Image]:
    paths = sorted((data / "cifar10").glob("*/0001.jpg"))[:8]
    if len(paths) < 8:
        pytest.skip(f"no pictures below {data / 'cifar10'}: set LATENTLAKE_TEST_DATA")
    return [Image.open(path).convert("RGB") for path in paths]


def batch_of(pictures: list[Image.Image]) -> Batch:
    return {
        **make_batch([str(k) for k in range(len(pictures))], [b""] * len(pictures)),
        "image": object_array(pictures),
    }


def plain_vectors(weights: Path, pictures: list[Image.Image]) -> np.ndarray:
    """Penultimate, pooled features, as torchvision's own parts give them."""
    from safetensors.torch import load_file
    from torchvision import transforms

    model = torchvision.models.squeezenet1_0()
    model.load_state_dict({name: tensor.float() for name, tensor in load_file(weights).items()})
    model.eval()
    transform = transforms.Compose(
        [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    )
    with torch.no_grad():
        features = model.features(torch.stack([transform(picture) for picture in pictures]))
        return torch.nn.functional.adaptive_avg_pool2d(features, 1).flatten(1).numpy()


def test_vectors_are_those_of_torchvision(weights: Path, pictures: list[Image.Image]):
    odd = [pictures[0].resize((300, 200)), pictures[1].resize((225, 451))]
    config = Config(model="squeezenet1_0", weights=str(weights)).resolve()
    vectors = config.load("cpu", threads=1).embed(config.prepare(batch_of([*pictures, *odd]), "document"))
    assert vectors.shape == (10, 512)
    expected = plain_vectors(weights, [*pictures, *odd])
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(vectors, expected, atol=1e-4)


def test_pixels_are_those_of_torchvision(weights: Path, pictures: list[Image.Image]):
    from torchvision import transforms

    config = Config(model="squeezenet1_0", weights=str(weights), resize=40, crop=33, interpolation="bicubic").resolve()
    pixels = config.prepare(batch_of(pictures), "document")["pixels"]
    resize = transforms.Resize(40, interpolation=transforms.InterpolationMode.BICUBIC)
    transform = transforms.Compose([resize, transforms.CenterCrop(33)])
    np.testing.assert_array_equal(pixels, np.stack([np.asarray(transform(picture)) for picture in pictures]))


def test_resolve_fills_in_the_usual_evaluation(weights: Path):
    config = Config(model="squeezenet1_0", weights=str(weights), crop=200).resolve()
    assert (config.resize, config.crop, config.interpolation, config.dim) == (256, 200, "bilinear", 512)
    assert (list(config.mean or ()), list(config.std or ())) == (MEAN, STD)
    assert config.prepared_bytes() == 200 * 200 * 3


def test_the_revision_is_the_content_of_the_weights(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def fingerprint(path: Path) -> str:
        return fingerprint_of(Config(model="squeezenet1_0", weights=str(path)).resolve(), Chain("image"), "float32")

    content = bytearray(weights.read_bytes())
    copied = tmp_path / "elsewhere.safetensors"
    copied.write_bytes(content)
    assert fingerprint(copied) == fingerprint(weights)
    content[-1] ^= 1
    copied.write_bytes(content)
    assert fingerprint(copied) != fingerprint(weights)


def test_named_weights_say_how_pictures_are_prepared():
    config = Config(model="vit_b_16", weights="IMAGENET1K_SWAG_E2E_V1").resolve()  # nothing is downloaded
    assert (config.resize, config.crop, config.interpolation, config.dim) == (384, 384, "bicubic", 768)
    assert config.revision == "vit_b_16_swag-9ac1b537"
    assert config.resolve() == config
    default = Config(model="resnet18", weights="DEFAULT").resolve()
    assert default.revision == "resnet18-f37072fd"
    with pytest.raises(ModelNotFound, match="are resnet18-f37072fd, not resnet18-other"):
        Config(model="resnet18", weights="DEFAULT", revision="resnet18-other").resolve()


@pytest.mark.parametrize(
    ("model", "dimension"),
    [
        ("squeezenet1_0", 512),
        ("resnet18", 512),
        ("vgg11", 4096),
        ("vit_b_16", 768),
        ("convnext_tiny", 768),
        ("mobilenet_v3_small", 1024),
        ("regnet_y_400mf", 440),
        ("densenet121", 1024),
        ("swin_t", 768),
    ],
)
def test_dimensions(model: str, dimension: int):
    assert Config(model=model, weights="DEFAULT").resolve().dimension == dimension  # nothing is downloaded


@pytest.mark.parametrize("model", ["mobilenet_v3_small", "regnet_y_400mf", "resnet18"])
def test_a_model_without_its_classifier_gives_what_it_would_classify(model: str):
    torch.manual_seed(0)
    whole = torchvision.models.get_model(model, weights=None).eval()
    seen: list[Any] = []
    last = [module for module in whole.modules() if isinstance(module, torch.nn.Linear)][-1]
    hook = last.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        whole(images)
        hook.remove()
        dimension = cut_classifier(whole)
        torch.testing.assert_close(whole(images).flatten(1), seen[0].flatten(1))
    assert seen[0].shape == (2, dimension)


def test_the_fingerprint_is_that_of_tables_written_before_there_were_poolings():
    config = Config(model="vit_b_16", weights="IMAGENET1K_SWAG_E2E_V1").resolve()
    assert config.fingerprint_fields() == {
        "family": "torchvision",
        "model": "vit_b_16",
        "revision": "vit_b_16_swag-9ac1b537",
        "resize": 384,
        "crop": 384,
        "interpolation": "bicubic",
        "mean": MEAN,
        "std": STD,
        "normalize": False,
        "dim": 768,
    }
    assert fingerprint_of(config, Chain("image"), "float32") == "c8b9017a228c1a696d89a7596463d303"


# poolings and layers


def saved(model: Any, folder: Path) -> str:
    torch.save(model.state_dict(), folder / "w.pth")
    return str(folder / "w.pth")


def embed(config: Config, pictures: list[Image.Image]) -> np.ndarray:
    return config.load("cpu", threads=1).embed(config.prepare(batch_of(pictures), "document"))


def images_of(pictures: list[Image.Image], side: int, mean: Any = MEAN, std: Any = STD) -> Any:
    from torchvision import transforms

    steps = [
        transforms.Resize(side),
        transforms.CenterCrop(side),
        transforms.ToTensor(),
        transforms.Normalize(mean, std),
    ]
    transform = transforms.Compose(steps)
    return torch.stack([transform(picture) for picture in pictures])


@pytest.fixture
def some() -> list[Image.Image]:
    """Two pictures."""
    rng = np.random.default_rng(1)
    return [Image.fromarray(rng.integers(0, 256, (90, 70, 3), dtype=np.uint8)), Image.new("RGB", (80, 80), "orange")]


LAST_MAPS = {
    "squeezenet1_0": lambda m, x: m.features(x),
    "resnet18": lambda m, x: m.layer4(m.layer3(m.layer2(m.layer1(m.maxpool(m.relu(m.bn1(m.conv1(x)))))))),
    "mobilenet_v2": lambda m, x: m.features(x),
    "mobilenet_v3_small": lambda m, x: m.features(x),
    "shufflenet_v2_x0_5": lambda m, x: m.conv5(m.stage4(m.stage3(m.stage2(m.maxpool(m.conv1(x)))))),
    "swin_tiny": lambda m, x: m.norm(m.features(x)).permute(0, 3, 1, 2),
}


@pytest.fixture
def small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add models that are made as torchvision's own, which are large."""
    for kind, make in (("vision_transformer", tiny_vit), ("swin_transformer", swin_tiny)):
        make.__module__ = f"torchvision.models.{kind}"
        monkeypatch.setitem(torchvision.models._api.BUILTIN_MODELS, make.__name__, make)


@pytest.mark.usefixtures("small_models")
@pytest.mark.parametrize("model", LAST_MAPS)
def test_pooled_maps_are_those_of_torchvision(model: str, some: list[Image.Image], tmp_path: Path):
    torch.manual_seed(0)
    whole = torchvision.models.get_model(model, weights=None).eval()
    weights, framing = saved(whole, tmp_path), {"resize": 64, "crop": 64}
    with torch.no_grad():
        images = images_of(some, 64)
        features, logits = LAST_MAPS[model](whole, images), whole(images)
    for pooling, expected in [("gap", features.mean((2, 3))), ("gmp", features.amax((2, 3))), ("fc", logits)]:
        config = Config(model=model, weights=weights, pooling=pooling, **framing).resolve()
        assert config.dimension == expected.shape[1]
        np.testing.assert_allclose(embed(config, some), expected.numpy(), atol=1e-4)


def tiny_vit(weights: None = None) -> Any:
    return torchvision.models.VisionTransformer(64, 16, num_layers=2, num_heads=2, hidden_dim=24, mlp_dim=32)


def swin_tiny(weights: None = None) -> Any:
    return torchvision.models.SwinTransformer([4, 4], 8, depths=[2, 2], num_heads=[1, 2], window_size=[7, 7])


@pytest.mark.usefixtures("small_models")
@pytest.mark.parametrize(
    ("model", "layers", "pool"),
    [
        ("resnet18", ("layer4", "layer1"), lambda f: f.mean((2, 3))),
        ("swin_tiny", ("features.1", "features.3"), lambda f: f.mean((1, 2))),
        ("tiny_vit", ("encoder.layers.encoder_layer_0", "encoder.ln"), lambda f: f[:, 1:].mean(1)),
    ],
)
def test_layers_stand_side_by_side(
    model: str, layers: tuple[str, ...], pool: Any, some: list[Image.Image], tmp_path: Path
):
    torch.manual_seed(0)
    whole = torchvision.models.get_model(model, weights=None).eval()
    seen: dict[str, Any] = {}
    for name in layers:
        whole.get_submodule(name).register_forward_hook(lambda _, __, made, name=name: seen.update({name: made}))
    with torch.no_grad():
        whole(images_of(some, 64))
    expected = torch.cat([pool(seen[name]) for name in layers], dim=1)
    framing = {"resize": 64, "crop": 64}
    config = Config(model=model, weights=saved(whole, tmp_path), layers=layers, pooling="gap", **framing).resolve()
    np.testing.assert_allclose(embed(config, some), expected.numpy(), atol=1e-4)


def test_backbones_of_detectors(some: list[Image.Image], tmp_path: Path):
    torch.manual_seed(0)
    name = "ssdlite320_mobilenet_v3_large"
    whole = torchvision.models.get_model(name, weights=None, weights_backbone=None).eval()
    weights, framing = saved(whole, tmp_path), {"resize": 96, "crop": 96}
    config = Config(model=name, weights=weights, **framing).resolve()
    assert (config.mean, config.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # the detector's own
    with torch.no_grad():
        maps = whole.backbone(images_of(some, 96, config.mean, config.std))
    expected = torch.cat([features.mean((2, 3)) for features in maps.values()], dim=1).numpy()
    np.testing.assert_allclose(embed(config, some), expected, atol=1e-4)
    one = Config(model=name, weights=weights, layers=("1",), pooling="gmp", **framing).resolve()
    np.testing.assert_allclose(embed(one, some), maps["1"].amax((2, 3)).numpy(), atol=1e-4)
    with pytest.raises(UnknownName, match=f"no layer of model '{name}' 'p5'"):
        Config(model=name, weights=weights, layers=("p5",)).resolve()
    with pytest.raises(SpecError, match="has no pooling 'fc'; it has gap, gmp"):
        Config(model=name, weights=weights, pooling="fc").resolve()
    assert Config(model="fasterrcnn_resnet50_fpn", weights="DEFAULT").resolve().dimension == 5 * 256


def test_poolings_and_layers_that_a_model_lacks():
    def resolve(model: str, **chosen: Any) -> Config:
        return Config(model=model, weights="DEFAULT", **chosen).resolve()

    with pytest.raises(SpecError, match="'vit_b_16' pools no feature map; it has the poolings model and fc"):
        resolve("vit_b_16", pooling="gap")
    with pytest.raises(UnknownName, match=r"no layer of model 'resnet18' 'layer5'\. Did you mean 'layer"):
        resolve("resnet18", pooling="gap", layers=("layer5",))
    with pytest.raises(SpecError, match="has no pooling 'model'; it has gap, gmp"):
        resolve("resnet18", layers=("layer4",))
    with pytest.raises(SpecError, match="layer 'flatten' of model 'resnet18' is no feature map"):
        resolve("resnet18", pooling="gap", layers=("flatten",))


def test_names_that_torchvision_does_not_have(weights: Path):
    with pytest.raises(UnknownName, match=r"no torchvision model 'resnet19'\. Did you mean 'resnet1\d+'\?"):
        Config(model="resnet19", weights=str(weights)).resolve()
    with pytest.raises(UnknownName, match="no torchvision model 'resnet19'"):
        Config(model="resnet19", weights="DEFAULT").resolve()
    with pytest.raises(UnknownName, match=r"no weights of 'resnet50' 'IMAGENET1K_V3'\. Did you mean 'IMAGENET1K_V"):
        Config(model="resnet50", weights="IMAGENET1K_V3").resolve()
    with pytest.raises(UnknownName, match="no torchvision model 'fcn_resnet50'"):  # neither classifies nor detects
        Config(model="fcn_resnet50", weights="DEFAULT").resolve()


@pytest.mark.parametrize("path", ["/nowhere/w.safetensors", "w.pth", "folder/w"])
def test_weights_that_are_not_there(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ModelNotFound, match=r"no weights file '.*'\. Give an existing file or a torchvision weights name"
    ):
        Config(model="resnet18", weights=path).resolve()


def test_a_torch_file_of_tensors_loads(weights: Path, pictures: list[Image.Image], tmp_path: Path):
    from safetensors.torch import load_file

    torch.save(load_file(weights), tmp_path / "w.pth")
    config = Config(model="squeezenet1_0", weights=str(tmp_path / "w.pth")).resolve()
    vectors = config.load("cpu", threads=1).embed(config.prepare(batch_of(pictures[:2]), "document"))
    np.testing.assert_allclose(vectors, plain_vectors(weights, pictures[:2]), atol=1e-4)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path):
    target = tmp_path / "it ran"
    torch.save({"weight": Payload(target)}, tmp_path / "w.pth")
    config = Config(model="squeezenet1_0", weights=str(tmp_path / "w.pth")).resolve()
    with pytest.raises(
        ModelNotFound, match=r"w\.pth' do not load as tensors alone[\s\S]*safetensors\.torch\.save_file"
    ):
        config.load("cpu")
    assert not target.exists()


def test_a_pinned_file_is_compared_with_its_content(tmp_path: Path):
    path = tmp_path / "w.pth"
    path.write_bytes(b"some weights")
    content = hashlib.sha256(b"some weights").hexdigest()
    assert Config(model="resnet18", weights=str(path), revision=content).resolve().revision == content
    with pytest.raises(ModelNotFound, match=f"are {content}, not {'0' * 64}, which `revision` pins"):
        Config(model="resnet18", weights=str(path), revision="0" * 64).resolve()


def test_published_weights_in_the_cache_run_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / "squeezenet1_1-b8a52dc0.pth"
    cached.parent.mkdir(parents=True)
    config = Config(model="squeezenet1_1", weights="DEFAULT").resolve()
    with (
        downloads_if(False),
        pytest.raises(ModelNotFound, match=rf"'{cached.name}' is not on this machine.*allow_downl"),
    ):
        config.load("cpu")
    torch.save(torchvision.models.squeezenet1_1().state_dict(), cached)
    with downloads_if(False):
        assert config.load("cpu").config == config
    torch.save({"weight": Payload(tmp_path / "it ran")}, cached)
    with pytest.raises(ModelNotFound, match="'DEFAULT' do not load as tensors alone"):
        config.load("cpu")
    assert not (tmp_path / "it ran").exists()


def test_preparation_loads_no_torch(weights: Path):
    config = Config(model="squeezenet1_0", weights=str(weights)).resolve()
    code = """
import json, sys
from PIL import Image
from operators.batch import make_batch, object_array
from operators.embedders import load_config
config = load_config(json.loads(sys.argv[1]))
batch = {**make_batch(["a"], [b""]), "image": object_array([Image.new("RGB", (30, 40))])}
assert config.prepare(batch, "document")["pixels"].shape == (1, 224, 224, 3)
print(json.dumps(sorted(sys.modules)))
"""
    arguments = [sys.executable, "-c", code, json.dumps(config.model_dump(mode="json"))]
    run = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert not {name.split(".")[0] for name in json.loads(run.stdout)} & {"torch", "torchvision", "safetensors"}
