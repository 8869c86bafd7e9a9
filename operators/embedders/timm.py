"""Image models of timm: https://huggingface.co/docs/timm.

The vector is what the model's classifier takes in, or what `pooling` makes of its features. Pictures are framed as the
weights' own configuration says, to the pixel as timm's evaluation transform does on PIL images.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from operators.embedders._maps import check_pooling, join_layers, places_of, pool_places, poolings_of_places
from operators.embedders._pixels import (
    PixelsConfig,
    PixelsEmbedder,
    ResizeMode,
    build_on_meta,
    scaled_side,
    square,
    vector_width,
)
from operators.embedders._pooling import Aggregation
from operators.embedders._weights import find_weights, find_weights_file, unloadable, weight_files
from operators.errors import ModelNotFound, SpecError, unknown_name
from operators.model_files import check_pinned, find_model, local_path, revision_of_files, sha256_of

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

CONFIG_FILES = ("config.json",)
PREFIXES = ("hf-hub:", "hf_hub:", "local-dir:")  # timm's words for where a model lies
RESIZE_MODES: dict[str, ResizeMode] = {"center": "shortest", "border": "longest", "squash": "exact"}


class Config(PixelsConfig):
    """A model by timm's name, with `weights` (a file) or those that timm publishes; or a folder or hub id of timm's kind.

    `pooling`: "model", what the model itself does before its classifier; "cls", "mean_patch", "gap" and "gmp" of its
    features; "attention", its attention pool; "fc", the classifier's logits. `layers` names feature maps of the model
    (as its `feature_info` does), which are pooled and put together by `aggregate`.
    """

    modalities: ClassVar[frozenset[str]] = frozenset({"image"})
    not_in_fingerprint: ClassVar[frozenset[str]] = PixelsConfig.not_in_fingerprint | {"model", "weights"}
    requires: ClassVar[tuple[str, ...]] = ("timm", "torch", "safetensors")
    extra: ClassVar[str | None] = "timm"
    covers: ClassVar[str] = (
        "ResNet, VGG, EfficientNet, Inception, ConvNeXt, DeiT, Swin, ViT, DINOv2, SigLIP and the thousand others of timm"
    )

    family: Literal["timm"] = "timm"
    model: str
    weights: str | None = None
    revision: str | None = None
    pooling: Literal["model", "cls", "mean_patch", "attention", "gap", "gmp", "fc"] = "model"
    layers: tuple[str, ...] = ()
    aggregate: Aggregation = "concat"

    architecture: str | None = None

    def resolve(self) -> Self:
        """Pin the weights; read framing and dimension off the model. Raises `ModelNotFound`, `UnknownName`, `SpecError`."""
        folder, revision, published = self._find()
        if not published:  # else `revision` may be a branch, which stands for a commit
            check_pinned(f"the weights of model '{self.model}'", revision, self.revision)
        module = build_on_meta(lambda: self._create(folder))
        framing = self.framing(framing_of(module, self.crop))
        give_vectors(module, self)
        return self.sized(
            vector_width(module, framing["crop"], self.model),
            **framing,
            revision=revision,
            architecture=str(module.pretrained_cfg["architecture"]),
        )

    def load(self, device: str, threads: int | None = None) -> PixelsEmbedder:
        """Load the weights onto `device`; `threads` bounds torch's CPU threads in this process.

        Raises `ModelNotFound` where there are none, or none that load without running code and fit.
        """
        folder = None if self.weights else find_weights(self._published(), self.revision, CONFIG_FILES)
        try:
            module = self._create(folder, pretrained=True)
        except RuntimeError as failure:
            raise unloadable(self.model, failure) from failure
        give_vectors(module, self)
        return PixelsEmbedder(module, self, device, threads)

    def _find(self) -> tuple[Path | None, str, bool]:
        """The model's folder (None where there is a file of weights), its revision, and whether that is a hub's commit."""
        if self.weights is not None:
            timm = import_timm()
            if not timm.is_model(self.model):
                raise unknown_name("timm model", self.model, timm.list_models())
            return None, sha256_of(find_weights_file(self.weights)), False
        folder, commit = find_model(self._published(), self.revision, CONFIG_FILES)
        config = folder / "config.json"
        if not config.is_file():
            raise ModelNotFound(
                f"model folder '{folder}' has no config.json of timm's kind.\n"
                "  Save it with timm.models.save_for_hf(model, folder), or give the architecture's name and `weights`."
            )
        return folder, commit or revision_of_files([config, *weight_files(folder)], folder), commit is not None

    def _create(self, folder: Path | None, pretrained: bool = False) -> Any:
        """The model, without weights or, `pretrained`, with its own.

        timm reads weights as tensors alone: safetensors, or torch's format with `weights_only`.
        """
        name = self.model if folder is None else f"local-dir:{folder}"
        file = None if self.weights is None else {"file": str(local_path(self.weights)), "custom_load": False}
        return import_timm().create_model(name, pretrained=pretrained, pretrained_cfg_overlay=file)

    def _published(self) -> str:
        """The folder or hub id that holds the model. Raises `UnknownName`, `SpecError`."""
        timm = import_timm()
        for prefix in PREFIXES:
            if self.model.startswith(prefix):
                return self.model.removeprefix(prefix)
        if not timm.is_model(self.model):
            if "/" not in self.model and not Path(self.model).is_dir():
                raise unknown_name("timm model", self.model, timm.list_models(pretrained=True))
            return self.model
        published = timm.models.get_pretrained_cfg(self.model)
        if published is None or not published.hf_hub_id:
            raise SpecError(f"timm publishes no weights of '{self.model}' on the hub; give a file of `weights`.")
        return str(published.hf_hub_id)


def import_timm() -> Any:
    """The library. Raises `MissingExtra`."""
    try:
        import timm
    except ImportError as failure:
        raise Config.missing_extra() from failure
    return timm


def framing_of(module: Module, crop: int | None) -> dict[str, Any]:
    """How timm's evaluation frames pictures for a model, cropped to `crop` where that is given."""
    timm = import_timm()
    data = timm.data.resolve_model_data_config(module)
    side = crop or square(data["input_size"][1:])
    mode = RESIZE_MODES[data["crop_mode"]]
    mean = tuple(data["mean"])
    return {
        "resize": side and scaled_side(side, data["crop_pct"]),
        "resize_mode": mode,
        "crop": side,
        "fill": tuple(round(255 * level) for level in mean) if mode == "longest" else (0, 0, 0),
        "interpolation": data["interpolation"],
        "mean": mean,
        "std": tuple(data["std"]),
    }


def give_vectors(module: Any, config: Config) -> None:
    """Let the model's `forward`, in place, give the vectors that `config` asks for. Raises `SpecError`, also as it runs."""
    module.forward = layers_to_vectors(module, config) if config.layers else features_to_vectors(module, config)


def features_to_vectors(module: Any, config: Config) -> Callable[[Tensor], Tensor]:
    """Images (n, 3, side, side) to vectors, by the pooling of the last features."""
    classify, (prefix, class_token) = module.forward, prefix_of(module)
    channels_last = getattr(module, "output_fmt", "NCHW") == "NHWC"
    attention: Any = getattr(module, "attn_pool", None)

    def forward(images: Tensor) -> Tensor:
        """Pooled vectors of images."""
        if config.pooling == "fc" and module.num_classes:
            return classify(images)
        features = module.forward_features(images)
        if config.pooling == "model":
            return module.forward_head(features, pre_logits=True).flatten(1)
        own = (["fc"] if module.num_classes else []) + (["attention"] if attention is not None else [])
        known = poolings_of_places(features, prefix, class_token) if hasattr(features, "ndim") else []
        check_pooling(config.pooling, ["model", *own, *known], config.model)
        if config.pooling == "attention":
            return attention(features)
        return pool_places(places_of(features, channels_last), config.pooling, prefix)

    return forward


def layers_to_vectors(module: Any, config: Config) -> Callable[[Tensor], Tensor]:
    """Images to vectors, by the pooling of named feature maps."""
    names = [info["module"] for info in getattr(module, "feature_info", [])]
    if wrong := [name for name in config.layers if name not in names]:
        raise unknown_name(f"layer of model '{config.model}'", wrong[0], names)
    wanted = [names.index(name) for name in config.layers]
    taken = sorted(set(wanted))
    has_tokens, class_token = hasattr(module, "num_prefix_tokens"), prefix_of(module)[1]
    known = [*(["cls"] if class_token else []), *(["mean_patch"] if has_tokens else []), "gap", "gmp"]
    check_pooling(config.pooling, known, f"{config.model}' with `layers")
    with_prefix = {"return_prefix_tokens": True} if config.pooling == "cls" else {}

    def forward(images: Tensor) -> Tensor:
        maps = module.forward_intermediates(images, indices=taken, intermediates_only=True, **with_prefix)
        if with_prefix:
            pooled = [pool_places(tokens, "cls") for _, tokens in maps]
        else:
            pooled = [pool_places(places_of(features), config.pooling) for features in maps]
        return join_layers([pooled[taken.index(index)] for index in wanted], config.aggregate)

    return forward


def prefix_of(module: Any) -> tuple[int, bool]:
    """How many tokens come before the patches', and whether the first of them is a class token."""
    class_token = getattr(module, "cls_token", None) is not None
    return int(getattr(module, "num_prefix_tokens", class_token)), class_token
