"""Models of torchvision: those that classify, and the backbones of those that detect.

https://docs.pytorch.org/vision/stable/models.html. The vector is what the last layer would classify, or what `pooling`
makes of feature maps. Preparation resizes and crops as the weights' own transforms do.
"""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from operators.embedders._maps import check_pooling, places_of, pool_places
from operators.embedders._pixels import PixelsConfig, PixelsEmbedder, ResizeMode, build_on_meta, vector_width
from operators.errors import ModelNotFound, SpecError, unknown_name
from operators.model_files import NO_DOWNLOADS, check_pinned, downloads_allowed, local_path, sha256_of

if TYPE_CHECKING:
    from torch import Tensor

USUAL = {"resize": 256, "crop": 224, "interpolation": "bilinear"}  # evaluation on ImageNet
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


class Config(PixelsConfig):
    """A model by torchvision's name, with weights: a file (.safetensors, .pth) or a torchvision name.

    `pooling`: "model", what the model itself does before its last layer; "gap" and "gmp", of its last feature map, or of
    those that `layers` names (nodes of torchvision's `get_graph_node_names`), side by side; "fc", the logits. A detector
    has only the maps of its backbone, "model" is their "gap", and `layers` are their names.

    `resize`, `crop`, `interpolation`, `mean` and `std` default to what the named weights say; for a file and for a
    detector, to the usual ImageNet evaluation (256, 224, bilinear).
    """

    modalities: ClassVar[frozenset[str]] = frozenset({"image"})
    not_in_fingerprint: ClassVar[frozenset[str]] = PixelsConfig.not_in_fingerprint | {"weights"}
    younger_fields: ClassVar[frozenset[str]] = PixelsConfig.younger_fields | {
        "resize_mode",
        "fill",
        "pooling",
        "layers",
    }
    requires: ClassVar[tuple[str, ...]] = ("torch", "torchvision", "safetensors")
    extra: ClassVar[str | None] = "torchvision"
    covers: ClassVar[str] = (
        "ResNet, VGG, EfficientNet, Inception, ConvNeXt, ViT, Swin and the others that torchvision classifies with; "
        "backbones of Faster R-CNN, RetinaNet, FCOS, SSD"
    )

    family: Literal["torchvision"] = "torchvision"
    model: str
    weights: str
    resize_mode: ResizeMode = "shortest"
    fill: tuple[int, int, int] = (0, 0, 0)
    pooling: Literal["model", "gap", "gmp", "fc"] = "model"
    layers: tuple[str, ...] = ()

    revision: str | None = None

    def resolve(self) -> Self:
        """Pin the weights (sha256 of a file, the hash in a published file's name) and read the dimension off the model.

        Raises `ModelNotFound` where the weights are not there, or not those pinned, and `SpecError` where the model has no
        such pooling or layer.
        """
        check_model(self.model)
        usual: dict[str, Any] = USUAL | IMAGENET
        meant_for: dict[str, Any] = {}
        if is_file(self.weights):
            path = local_path(self.weights)
            if not path.is_file():
                raise ModelNotFound(
                    f"no weights file '{self.weights}'. Give an existing file or a torchvision weights name."
                )
            revision = sha256_of(path)
        else:
            named = named_weights(self.model, self.weights)
            revision, preset, meant_for = Path(named.url).stem, named.transforms(), named.meta
            if not is_detector(self.model):
                usual = {
                    "resize": preset.resize_size[0],
                    "crop": preset.crop_size[0],
                    "interpolation": preset.interpolation.value,
                    "mean": tuple(preset.mean),
                    "std": tuple(preset.std),
                }
        check_pinned(f"weights '{self.weights}' of '{self.model}'", revision, self.revision)
        sized = {"image_size": meant_for["min_size"][0]} if self.model.startswith("vit_") and meant_for else {}
        module = build_on_meta(lambda: build_model(self.model, **sized))
        if is_detector(self.model):
            usual |= {"mean": tuple(module.transform.image_mean), "std": tuple(module.transform.image_std)}
        framing = self.framing(usual)
        width = vector_width(with_vectors(module, self), framing["crop"], self.model)
        return self.sized(width, **framing, revision=revision)

    def load(self, device: str, threads: int | None = None) -> PixelsEmbedder:
        """Load the weights onto `device`; `threads` bounds torch's CPU threads in this process.

        Raises `ModelNotFound` where the weights do not load without running code, or would have to be fetched and may not.
        """
        import_libraries()
        try:
            if is_file(self.weights):
                model = build_model(self.model)
                model.load_state_dict(read_state(local_path(self.weights)))
            else:
                named = named_weights(self.model, self.weights)
                check_published(named)
                model = build_model(self.model, named)
        except UnpicklingError as failure:
            raise ModelNotFound(
                f"weights '{self.weights}' do not load as tensors alone: damaged, or with objects that run code.\n"
                "  Where you trust them, convert them: safetensors.torch.save_file(state_dict, 'weights.safetensors')."
            ) from failure
        return PixelsEmbedder(with_vectors(model.eval(), self), self, device, threads)


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
    """Raise `UnknownName` unless `model` classifies or detects."""
    _, torchvision = import_libraries()
    models = torchvision.models
    known = [*models.list_models(module=models), *models.list_models(module=models.detection)]
    if model not in known:
        raise unknown_name("torchvision model", model, known)


def is_detector(model: str) -> bool:
    """Whether `model` detects; else it classifies."""
    _, torchvision = import_libraries()
    return model in torchvision.models.list_models(module=torchvision.models.detection)


def build_model(model: str, weights: Any = None, **sizes: int) -> Any:
    """The architecture, with published weights or none."""
    _, torchvision = import_libraries()
    check_model(model)
    slow_to_initialise = weights is None and model in ("googlenet", "inception_v3")
    parts = {"weights_backbone": None} if is_detector(model) else {}
    return torchvision.models.get_model(
        model, weights=weights, **sizes, **parts, **({"init_weights": False} if slow_to_initialise else {})
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


def with_vectors(model: Any, config: Config) -> Any:
    """A module of parts of `model` that turns images (n, 3, side, side) to the vectors that `config` asks for.

    Raises `SpecError` where the model has no such pooling or layer.
    """
    if is_detector(config.model):
        how = "gap" if config.pooling == "model" else config.pooling
        return with_pooled_maps(model.backbone, config.model, config.layers, how)
    if config.layers or config.pooling in ("gap", "gmp"):
        from torchvision.models.feature_extraction import create_feature_extractor

        names = known_layers(model, config) if config.layers else (last_map(model, config),)
        extractor = create_feature_extractor(model, list(names), suppress_diff_warning=True)
        return with_pooled_maps(extractor, config.model, names, config.pooling)
    if config.pooling == "model":
        cut_classifier(model)
        run = model.forward
        model.forward = lambda images: run(images).flatten(1)
    return model


def known_layers(model: Any, config: Config) -> tuple[str, ...]:
    """The layers of `config`. Raises `UnknownName` where one is neither a node of the model's graph nor a module of it."""
    from torchvision.models.feature_extraction import get_graph_node_names

    paths = [node.split(".") for node in get_graph_node_names(model, suppress_diff_warning=True)[1]]
    known = {".".join(path[:length]) for path in paths for length in range(1, len(path) + 1)}
    for name in config.layers:
        if name not in known:
            raise unknown_name(f"layer of model '{config.model}'", name, known)
    return config.layers


def last_map(model: Any, config: Config) -> str:
    """Name of the feature map that a model pools to a vector; its classifier is cut off. Raises `SpecError` without one."""
    torch, torchvision = import_libraries()
    cut_classifier(model)
    kinds = [kind for kind in vars(torchvision.ops).values() if isinstance(kind, type)]
    leaves = [kind for kind in kinds if issubclass(kind, torch.nn.Module)]  # as `create_feature_extractor` has it
    tracer = torchvision.models.feature_extraction.NodePathTracer(leaf_modules=leaves)
    modules = (torch.nn.AdaptiveAvgPool2d, torch.nn.AvgPool2d)
    pooled = [
        node.args[0]
        for node in tracer.trace(model).nodes
        if (node.op == "call_module" and isinstance(model.get_submodule(node.target), modules))
        or node.target in (torch.nn.functional.adaptive_avg_pool2d, "mean")
    ]
    if not pooled:
        raise SpecError(
            f"model '{config.model}' pools no feature map; it has the poolings model and fc, and gap and gmp of `layers`."
        )
    return str(tracer.node_to_qualname[pooled[-1]])


def with_pooled_maps(module: Any, model: str, names: tuple[str, ...], how: str) -> Any:
    """Let `module`, which gives feature maps by name, pool those of `names` (all, where there are none), in place.

    Their vectors stand side by side. Maps have their channels first, but for Swin's; tokens begin with a class token.
    """
    check_pooling(how, ["gap", "gmp"], f"{model}' with `layers")
    torch, _ = import_libraries()
    extract = module.forward

    def forward(images: Tensor) -> Tensor:
        """Pooled maps of the chosen layers, side by side."""
        maps = extract(images)
        vectors = []
        for name in names or maps:
            if name not in maps:
                raise unknown_name(f"layer of model '{model}'", name, maps)
            if maps[name].ndim not in (3, 4):
                raise SpecError(
                    f"layer '{name}' of model '{model}' is no feature map; name one that has places to pool."
                )
            channels_last = model.startswith("swin") and name not in ("permute", "features.0.0")
            vectors.append(pool_places(places_of(maps[name], channels_last), how, prefix=int(maps[name].ndim == 3)))
        return torch.cat(vectors, dim=1)

    module.forward = forward
    return module
