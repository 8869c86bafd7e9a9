"""Image classification models of torchvision; the vector is what their last layer would classify.

https://docs.pytorch.org/vision/stable/models.html. Preparation resizes and crops as the weights' own transforms do, with
Pillow, to uint8; normalisation (mean, std) happens on the actor, so that a quarter of the bytes travel.
"""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field

from operators.batch import Batch
from operators.embedders._torch import TorchConfig, TorchEmbedder
from operators.embedders.base import Role
from operators.errors import ModelNotFound, unknown_name
from operators.model_files import NO_DOWNLOADS, check_pinned, downloads_allowed, sha256_of
from operators.preprocess.image import crop_to_square, resize_shorter_side

IMAGES_A_BATCH = {"cpu": 16, "cuda": 256}


class Config(TorchConfig):
    """A classification model by torchvision's name, with weights: a file (.safetensors, .pth) or a torchvision name.

    `resize`, `crop`, `interpolation`, `mean` and `std` default to what the named weights say; for a file, to the usual
    ImageNet evaluation (256, 224, bilinear).
    """

    modalities: ClassVar[frozenset[str]] = frozenset({"image"})
    not_in_fingerprint: ClassVar[frozenset[str]] = TorchConfig.not_in_fingerprint | {"weights"}
    requires: ClassVar[tuple[str, ...]] = ("torch", "torchvision", "safetensors")
    extra: ClassVar[str | None] = "torchvision"
    covers: ClassVar[str] = (
        "ResNet, VGG, EfficientNet, Inception, ConvNeXt, ViT, Swin and the others that torchvision classifies with"
    )

    family: Literal["torchvision"] = "torchvision"
    model: str
    weights: str
    resize: int | None = Field(default=None, ge=1)
    crop: int | None = Field(default=None, ge=1)
    interpolation: Literal["bilinear", "bicubic"] | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None

    revision: str | None = None

    def resolve(self) -> Self:
        """Pin the weights (sha256 of a file, the hash in a published file's name) and read the dimension off the model.

        Raises `ModelNotFound` where the weights are not there, or not those pinned.
        """
        usual: dict[str, Any] = {
            "resize": 256,
            "crop": 224,
            "interpolation": "bilinear",
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
        }
        if is_file(self.weights):
            path = Path(self.weights).expanduser()
            if not path.is_file():
                raise ModelNotFound(
                    f"no weights file '{self.weights}'. Give an existing file or a torchvision weights name."
                )
            revision = sha256_of(path)
        else:
            named = named_weights(self.model, self.weights)
            revision, preset = Path(named.url).stem, named.transforms()
            usual = {
                "resize": preset.resize_size[0],
                "crop": preset.crop_size[0],
                "interpolation": preset.interpolation.value,
                "mean": tuple(preset.mean),
                "std": tuple(preset.std),
            }
        given = {name: getattr(self, name) if getattr(self, name) is not None else usual[name] for name in usual}
        check_pinned(f"weights '{self.weights}' of '{self.model}'", revision, self.revision)
        return self.sized(feature_dimension(self.model), **given, revision=revision)

    @property
    def side(self) -> int:
        """Height and width of a prepared image, in pixels."""
        assert self.crop is not None, "resolve() first"
        return self.crop

    def prepare(self, batch: Batch, role: Role) -> Batch:
        """Resize and crop each image: `pixels`, uint8 (n, crop, crop, 3). An image costs its pixels."""
        assert self.resize is not None and self.interpolation is not None, "resolve() first"
        resized = (resize_shorter_side(image, self.resize, self.interpolation) for image in batch["image"])
        images = [np.asarray(crop_to_square(image, self.side)) for image in resized]
        pixels = np.stack(images) if images else np.zeros((0, self.side, self.side, 3), dtype=np.uint8)
        return {"pixels": pixels, "cost": np.full(len(images), self.side**2, dtype=np.int64)}

    def preparation_key(self) -> str:
        """Models that resize and crop alike share their prepared pixels."""
        return f"pixels-{self.resize}-{self.crop}-{self.interpolation}"

    def prepared_bytes(self) -> int:
        """One uint8 image."""
        return self.side**2 * 3

    def batch_cost(self, device: str) -> int:
        """Pixels of a batch."""
        return IMAGES_A_BATCH["cuda" if device.startswith("cuda") else "cpu"] * self.side**2

    def load(self, device: str, threads: int | None = None) -> TorchvisionEmbedder:
        """Load the weights onto `device`; `threads` bounds torch's CPU threads in this process.

        Raises `ModelNotFound` where the weights do not load without running code, or would have to be fetched and may not.
        """
        import_libraries()
        try:
            if is_file(self.weights):
                model = build_model(self.model)
                model.load_state_dict(read_state(Path(self.weights).expanduser()))
            else:
                named = named_weights(self.model, self.weights)
                check_published(named)
                model = build_model(self.model, named)
        except UnpicklingError as failure:
            raise ModelNotFound(
                f"weights '{self.weights}' do not load as tensors alone: damaged, or with objects that run code.\n"
                "  Where you trust them, convert them: safetensors.torch.save_file(state_dict, 'weights.safetensors')."
            ) from failure
        cut_classifier(model)
        return TorchvisionEmbedder(model.float(), self, device, threads)


class TorchvisionEmbedder(TorchEmbedder):
    """A loaded model without its classifier; see `Config`."""

    config: Config

    def forward(self, prepared: Batch) -> Any:
        """Features of uint8 pixels."""
        assert self.config.mean is not None and self.config.std is not None, "resolve() first"
        images = self.images(prepared["pixels"], self.config.mean, self.config.std)
        return self.model(images).flatten(1)


def import_libraries() -> tuple[Any, Any]:
    """torch and torchvision. Raises `MissingExtra`."""
    try:
        import torch
        import torchvision
    except ImportError as failure:
        raise Config.missing_extra() from failure
    return torch, torchvision


def is_file(weights: str) -> bool:
    """Whether `weights` is a path rather than the name of published weights."""
    return weights.endswith((".safetensors", ".pth", ".pt")) or "/" in weights


def named_weights(model: str, weights: str) -> Any:
    """torchvision's entry for published weights. Raises `UnknownName`."""
    _, torchvision = import_libraries()
    check_model(model)
    known = torchvision.models.get_model_weights(model)
    if weights != "DEFAULT" and weights not in known.__members__:
        raise unknown_name(f"weights of '{model}'", weights, [*known.__members__, "DEFAULT"])
    return known[weights]


def check_model(model: str) -> None:
    """Raise `UnknownName` unless `model` is a classification model of torchvision."""
    _, torchvision = import_libraries()
    known = torchvision.models.list_models(module=torchvision.models)
    if model not in known:
        raise unknown_name("torchvision model", model, known)


def build_model(model: str, weights: Any = None) -> Any:
    """The architecture, with published weights or none."""
    _, torchvision = import_libraries()
    check_model(model)
    slow_to_initialise = weights is None and model in ("googlenet", "inception_v3")
    return torchvision.models.get_model(
        model, weights=weights, **({"init_weights": False} if slow_to_initialise else {})
    )


def read_state(path: Path) -> dict[str, Any]:
    """A state dict from a file that cannot run code: safetensors, or torch's format with `weights_only`."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return dict(load_file(path))
    torch, _ = import_libraries()
    return dict(torch.load(path, map_location="cpu", weights_only=True))


def check_published(named: Any) -> None:
    """Fetch published weights, where they are not in torch's cache, and read them as tensors alone.

    torchvision reads them once more, without `weights_only`: a file that is not what was published would run code there.
    """
    torch, _ = import_libraries()
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(named.url).name
    if not cached.is_file() and not downloads_allowed():
        raise ModelNotFound(f"weights file '{cached.name}' {NO_DOWNLOADS}")
    named.get_state_dict(progress=False, check_hash=True, map_location="cpu", weights_only=True)


def cut_classifier(model: Any) -> int:
    """Take the last layer off, in place, so that the model gives its penultimate, pooled features; their number.

    The head is the model's last child. Its last Linear becomes the identity; a head that classifies by convolution
    (SqueezeNet) is replaced by global average pooling.
    """
    torch, _ = import_libraries()
    name, head = list(model.named_children())[-1]
    linear = [(path, module) for path, module in head.named_modules() if isinstance(module, torch.nn.Linear)]
    if not linear:
        conv = next(module for module in head.modules() if isinstance(module, torch.nn.Conv2d))
        setattr(model, name, torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(1)))
        return int(conv.in_channels)
    path, last = linear[-1]
    target = f"{name}.{path}" if path else name
    parent, _, attribute = target.rpartition(".")
    setattr(model.get_submodule(parent) if parent else model, attribute, torch.nn.Identity())
    return int(last.in_features)


def feature_dimension(model: str) -> int:
    """Number of penultimate features, from the architecture built without storage; the model is not run."""
    torch, _ = import_libraries()
    try:
        with torch.device("meta"):
            return cut_classifier(build_model(model))
    except NotImplementedError:  # RegNet computes its widths with tensors, which the meta device cannot do
        return cut_classifier(build_model(model))
