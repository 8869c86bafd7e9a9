"""Vision models of transformers, and those of images and text in one space: https://huggingface.co/docs/transformers.

Pictures are framed with Pillow as the model's image processor is configured to do; `resolve` runs both on pictures of its
own and refuses a processor that does more. Text is prepared with the model's `tokenizer.json` alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from PIL import Image

from operators.batch import Batch
from operators.embedders._joint import JointConfig, JointEmbedder
from operators.embedders._maps import check_pooling, join_layers, places_of, pool_places, poolings_of_places
from operators.embedders._pixels import FRAMING, build_on_meta, channels, square, vector_width
from operators.embedders._pooling import LayeredConfig
from operators.embedders._tokens import TokensConfig, narrowed
from operators.embedders._transformers import CONFIG_FILES, read_json, read_model
from operators.embedders.base import Role
from operators.errors import SpecError
from operators.model_files import find_model

if TYPE_CHECKING:
    from torch import Tensor

PREFIX_TOKENS = ("cls_token", "class_token", "class_embedding", "distillation_token")
WARPED_FROM = 384  # pixels: where ConvNeXt's processor stops cropping


class Config(JointConfig, TokensConfig, LayeredConfig):
    """A model that `AutoModel` loads: a folder or a hub id, with its preprocessor_config.json.

    `pooling`: "pooler", what the model itself gives (`pooler_output`; the projected `image_embeds` of CLIP and SigLIP,
    which text shares); "cls", "mean_patch", "gap" and "gmp" of its last features, or of those of `layers`; "attention", its
    attention pool. `max_tokens` and the prompts are for text.
    """

    modalities: ClassVar[frozenset[str]] = frozenset({"image", "text"})
    not_in_fingerprint: ClassVar[frozenset[str]] = TokensConfig.not_in_fingerprint | JointConfig.not_in_fingerprint
    younger_fields: ClassVar[frozenset[str]] = TokensConfig.younger_fields | JointConfig.younger_fields
    requires: ClassVar[tuple[str, ...]] = ("transformers", "tokenizers", "torch")
    extra: ClassVar[str | None] = "transformers"
    covers: ClassVar[str] = "ViT, DeiT, BEiT, DINOv2, DINOv3, Swin, ResNet, ConvNeXt, and, with text, CLIP and SigLIP"
    crop_rounds_down: ClassVar[bool] = True

    family: Literal["transformers_image"] = "transformers_image"
    pooling: Literal["pooler", "cls", "mean_patch", "attention", "gap", "gmp"] = "pooler"

    @property
    def joint(self) -> bool:
        """Whether text and images meet: where the model has both, and gives its own projections of them."""
        return self.max_tokens is not None

    def resolve(self) -> Self:
        """Pin the revision; read framing, dimension and window off the model's files.

        Raises `ModelNotFound` if the files are not those pinned, `SpecError` where the model brings untrusted code, has
        no such pooling or layer, takes no text where `max_tokens` is given, or frames pictures in a way of its own.
        """
        import_transformers()
        _, revision = self.pin()
        folder, _ = find_model(
            self.model, self.revision, (*CONFIG_FILES, *(["*.py"] if self.trust_remote_code else []))
        )
        module = build_on_meta(lambda: empty_model(folder, self))
        framing = self._framing(folder)
        found = {
            "revision": revision,
            "max_tokens": self._window(module, folder),
            "document_prompt": self.document_prompt or "",
            "query_prompt": self.query_prompt or "",
        }
        give_vectors(module, self)
        return self.sized(vector_width(module, framing["crop"], self.model), **framing, **found)

    def prepare_text(self, batch: Batch, role: Role) -> Batch:
        """Token ids, cut to the window."""
        return TokensConfig.prepare(self, batch, role)

    def text_fields(self) -> dict[str, Any]:
        """The tokenizer, which is the revision's, the window and the prompt."""
        return {"revision": self.revision, "max_tokens": self.max_tokens, "prompt": self.document_prompt}

    def load(self, device: str, threads: int | None = None) -> TransformersImageEmbedder:
        """Load the weights onto `device`; `threads` bounds torch's CPU threads in this process.

        Raises `ModelNotFound` if there are no weights, some are missing, or none load without running code.
        """
        transformers = import_transformers()
        folder, _ = self.find_weights()
        model = read_model(
            transformers.AutoModel, folder, self, unused=() if self.pooling == "pooler" else ("pooler.",)
        )
        if self.joint and (folder / "tokenizer.json").is_file():
            options = {"trust_remote_code": self.trust_remote_code, "local_files_only": True}
            self.check_tokenizer(transformers.AutoTokenizer.from_pretrained(str(folder), **options))
        give_vectors(model, self)
        return TransformersImageEmbedder(model, self, device, threads)

    def _window(self, module: Any, folder: Path) -> int | None:
        """Tokens that the model takes of a text; None if its vectors share no space with text's."""
        if not takes_text(module) or self.pooling != "pooler":
            if self.max_tokens is not None:
                raise SpecError(
                    f"model '{self.model}' with pooling '{self.pooling}' takes no text; leave max_tokens out."
                )
            return None
        positions = int(module.config.text_config.max_position_embeddings)
        stated = read_json(folder / "tokenizer_config.json").get("model_max_length") or positions
        return narrowed(int(min(stated, positions)), self.max_tokens, folder)

    def _framing(self, folder: Path) -> dict[str, Any]:
        """The job's framing, and for what it leaves out, the image processor's. Raises `SpecError`."""
        if all(getattr(self, name) is not None for name in FRAMING):
            return self.framing({})
        processor = read_processor(folder, self)
        usual = framing_of(processor)
        known = self.model_copy(update=usual)
        if all(usual[name] is not None for name in FRAMING) and not frames_alike(processor, known):
            raise SpecError(
                f"the image processor of model '{self.model}', {type(processor).__name__}, does more than to resize, crop and "
                f"normalise.\n  To frame pictures otherwise, give all of {', '.join(FRAMING)}."
            )
        return self.framing(usual)


class TransformersImageEmbedder(JointEmbedder):
    """A loaded model; see `Config`."""

    config: Config

    def encode_text(self, rows: np.ndarray) -> Any:
        """Vectors of token ids. SigLIP reads its padding, and always to its window; others mask it."""
        text = self.model.config.text_config
        fill = text.pad_token_id if isinstance(text.pad_token_id, int) else 0
        if not text.model_type.startswith("siglip"):
            ids, mask = self.padded(rows, fill)
            return self.model(input_ids=ids.long(), attention_mask=mask)
        ids = np.full((len(rows), text.max_position_embeddings), fill, dtype=np.int64)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = row
        return self.model(input_ids=self.tensor(ids))


def import_transformers() -> Any:
    """The library, whose parts are imported as they are named. Raises `MissingExtra`."""
    try:
        import torch  # noqa: F401
        import transformers
    except ImportError as failure:
        raise Config.missing_extra() from failure
    return transformers


def empty_model(folder: Path, config: Config) -> Any:
    """The architecture that config.json describes, without weights."""
    transformers, trusted = import_transformers(), {"trust_remote_code": config.trust_remote_code}
    description = transformers.AutoConfig.from_pretrained(str(folder), local_files_only=True, **trusted)
    return transformers.AutoModel.from_config(description, **trusted)


def takes_text(module: Any) -> bool:
    """Whether a model has a space that images and text share."""
    return all(hasattr(module, name) for name in ("get_text_features", "get_image_features", "vision_model"))


def give_vectors(module: Any, config: Config) -> None:
    """Let the model's `forward`, in place, give the vectors that `config` asks for, of images or of token ids.

    Raises `SpecError`, as it runs, where the model has no such pooling or layer.
    """
    both = takes_text(module)
    vision = module.vision_model if both else module
    see, (prefix, class_token) = vision.forward, prefix_of(vision)
    head: Any = getattr(vision, "head", None)
    attention: Any = head if hasattr(head, "probe") else None

    def pooled(images: Tensor) -> Tensor:
        """Pooled vectors of images."""
        if both and config.pooling == "pooler" and not config.needs_hidden_states:
            return module.get_image_features(pixel_values=images).pooler_output
        output = see(pixel_values=images, output_hidden_states=config.needs_hidden_states)
        own = [] if getattr(output, "pooler_output", None) is None else ["pooler"]
        own += [] if attention is None else ["attention"]
        last = output.last_hidden_state
        known = poolings_of_places(last, prefix, class_token)
        if config.needs_hidden_states:
            config.check_layers(len(output.hidden_states) - 1)
            check_pooling(config.pooling, known, f"{config.model}' with `layers")
            chosen = [output.hidden_states[layer] for layer in config.layers]
            return join_layers([pool_places(places_of(c), config.pooling, prefix) for c in chosen], config.aggregate)
        check_pooling(config.pooling, [*own, *known], config.model)
        if config.pooling == "pooler":
            return output.pooler_output.flatten(1)
        if config.pooling == "attention":
            return attention(last)
        return pool_places(places_of(last), config.pooling, prefix)

    def forward(images: Tensor | None = None, **text: Tensor) -> Tensor:
        return module.get_text_features(**text).pooler_output if images is None else pooled(images)

    module.forward = forward


def prefix_of(vision: Any) -> tuple[int, bool]:
    """How many tokens come before the patches', and whether the first of them is a class token; by the parameters' names."""
    shapes = {name.rpartition(".")[2]: parameter.shape for name, parameter in vision.named_parameters()}
    single = [name for name in PREFIX_TOKENS if name in shapes]
    registers = int(shapes["register_tokens"][1]) if "register_tokens" in shapes else 0
    return len(single) + registers, bool(single)


def read_processor(folder: Path, config: Config) -> Any:
    """The model's image processor, of Pillow where there is one. Raises `SpecError` if the folder has none."""
    from transformers import AutoImageProcessor

    options = {"local_files_only": True, "trust_remote_code": config.trust_remote_code}
    try:
        return AutoImageProcessor.from_pretrained(str(folder), backend="pil", **options)
    except (OSError, ValueError) as failure:
        raise SpecError(
            f"model '{config.model}' does not say how it frames pictures: {str(failure).splitlines()[0]}\n"
            f"  Give a model with a preprocessor_config.json, or all of {', '.join(FRAMING)}."
        ) from failure


def framing_of(processor: Any) -> dict[str, Any]:
    """How an image processor of transformers frames pictures; None for what cannot be said in these words."""
    size = {name: value for name, value in dict(processor.size or {}).items() if value}
    mode, crop_pct = "shortest", getattr(processor, "crop_pct", None)
    resize, crop = size.get("shortest_edge") if len(size) == 1 else None, None
    if set(size) == {"height", "width"}:
        resize = crop = square(list(size.values()))
        mode = "exact"
    elif resize and crop_pct is not None:
        crop = resize
        mode, resize = ("exact", resize) if resize >= WARPED_FROM else (mode, int(resize / crop_pct))
    if getattr(processor, "do_center_crop", None):
        crop = square([value for value in dict(processor.crop_size).values() if value])
    full = processor.rescale_factor * 255 if processor.do_rescale else 255.0
    full = 1.0 if abs(full - 1) < 1e-6 else full
    resample = Image.Resampling.BILINEAR if processor.resample is None else Image.Resampling(processor.resample)
    mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else (0.0, 1.0)
    return {
        "resize": resize if processor.do_resize else None,
        "resize_mode": mode,
        "crop": crop,
        "fill": (0, 0, 0),
        "interpolation": resample.name.lower(),
        "mean": tuple(level / full for level in channels(mean)),
        "std": tuple(level / full for level in channels(std)),
    }


def frames_alike(processor: Any, config: Config) -> bool:
    """Whether `config` makes of pictures what `processor` makes of them, to two levels of 255."""
    draw = np.random.default_rng(0).integers
    for shape in ((61, 90, 3), (150, 47, 3), (301, 400, 3)):
        picture = Image.fromarray(draw(0, 256, shape, dtype=np.uint8))
        theirs = np.asarray(processor(picture, return_tensors="np")["pixel_values"])[0].transpose(1, 2, 0)
        ours = (config.frame(picture) / 255 - np.array(config.mean)) / np.array(config.std)
        if ours.shape != theirs.shape or (np.abs(ours - theirs) * np.array(config.std) * 255).max() > 2:
            return False
    return True
