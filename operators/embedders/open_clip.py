"""CLIP, SigLIP, CoCa and their kin of open_clip: images and text in one space. https://github.com/mlfoundations/open_clip.

Pictures are framed as the model's own configuration says, to the pixel as open_clip does on PIL images. Text goes through
open_clip's own tokenizer, which loads torch, and no weights.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, ClassVar, Literal, Self

import numpy as np

from operators.batch import Batch, object_array
from operators.embedders._clip_tokens import prepare_text, read_tokenizer, spans_of_texts
from operators.embedders._joint import JointConfig, JointEmbedder
from operators.embedders._pixels import ResizeMode, build_on_meta, channels, square, vector_width
from operators.embedders._weights import find_weights, find_weights_file, unloadable, weight_files
from operators.embedders.base import Role
from operators.errors import ModelNotFound, SpecError, unknown_name
from operators.model_code import code_named
from operators.model_files import check_pinned, find_model, revision_of_files, sha256_of

DESCRIPTION = "open_clip_config.json"
TOKENIZER_FILES = ("*.json", "*.txt", "*.model")
TOKENIZER_OPTIONS = {"clean", "language", "strip_sep_token"}
PREFIXES = ("hf-hub:", "local-dir:")  # open_clip's words for where a model lies
RESIZE_MODES: dict[str, ResizeMode] = {"shortest": "shortest", "longest": "longest", "squash": "exact"}


class Config(JointConfig):
    """A model by open_clip's name, with a file of `weights`; or a folder or hub id with an open_clip_config.json.

    Prompts are put before the text. Texts are cut to the model's context.
    """

    modalities: ClassVar[frozenset[str]] = frozenset({"image", "text"})
    not_in_fingerprint: ClassVar[frozenset[str]] = JointConfig.not_in_fingerprint | {"model", "weights", "query_prompt"}
    requires: ClassVar[tuple[str, ...]] = ("open_clip", "torch", "safetensors")
    extra: ClassVar[str | None] = "open-clip"
    covers: ClassVar[str] = (
        "CLIP, OpenCLIP, SigLIP, CoCa, EVA-CLIP, MobileCLIP and the others of open_clip, with their text"
    )

    family: Literal["open_clip"] = "open_clip"
    model: str
    weights: str | None = None
    revision: str | None = None
    document_prompt: str = ""
    query_prompt: str = ""

    architecture: str | None = None  # open_clip's name; None if the model's folder, which is pinned, describes it

    @property
    def joint(self) -> bool:
        """Every model of the family is."""
        return True

    def resolve(self) -> Self:
        """Pin the weights; read framing and dimension off the model.

        Raises `ModelNotFound`, `UnknownName`, and `SpecError` where the model needs what its revision does not pin.
        """
        folder, commit = self._find()
        if folder is None:
            assert self.weights is not None
            revision = sha256_of(find_weights_file(self.weights))
        else:
            files = [path for pattern in TOKENIZER_FILES for path in folder.glob(pattern)]
            revision = commit or revision_of_files([*files, *weight_files(folder)], folder)
        if commit is None:  # else `revision` may be a branch, which stands for a commit
            check_pinned(f"the weights of model '{self.model}'", revision, self.revision)
        check_parts(self.model, import_open_clip().get_model_config(self._name(folder)), folder)
        module = build_on_meta(lambda: create(self._name(folder), load=False))
        framing = self.framing(framing_of(module))
        give_vectors(module)
        return self.sized(
            vector_width(module, framing["crop"], self.model),
            **framing,
            revision=revision,
            architecture=self.model if folder is None else None,
        )

    @property
    def window(self) -> int | None:
        """The model's context, less its marks and the document prompt's tokens."""
        tokenizer = self._tokenizer()
        return max(1, int(tokenizer.context_length) - prepare_text(tokenizer, self.document_prompt)[1])

    def spans(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token spans of each text, int64 (n, 3): start, end, word; of the text as it stands, before it is cleaned."""
        return spans_of_texts(self._tokenizer(), texts)

    def prepare_text(self, batch: Batch, role: Role) -> Batch:
        """Token ids of each text, padded to the model's context (`input_ids`: int32 arrays); `tokens` before the cut."""
        prompt, tokenizer = self.document_prompt if role == "document" else self.query_prompt, self._tokenizer()
        texts = [prompt + text for text in batch["text"]]
        rows = [prepare_text(tokenizer, text) for text in texts]
        tokens = np.array([count for _, count in rows], dtype=np.int64)
        return {
            "input_ids": object_array([ids for ids, _ in rows]),
            "tokens": tokens,
            "truncated": tokens > tokenizer.context_length,
            "cost": np.minimum(tokens, tokenizer.context_length),
        }

    def text_fields(self) -> dict[str, Any]:
        """What decides of the tokenizer, and the prompt."""
        return {"architecture": self.architecture or self.revision, "prompt": self.document_prompt}

    def load(self, device: str, threads: int | None = None) -> OpenClipEmbedder:
        """Load the weights onto `device`; `threads` bounds torch's CPU threads in this process.

        Raises `ModelNotFound` if there are none, or none that load without running code and fit.
        """
        folder = None if self.weights else find_weights(self._published(), self.revision, TOKENIZER_FILES)
        try:
            module = create(
                self._name(folder), load=True, weights=self.weights and str(find_weights_file(self.weights))
            )
        except (AssertionError, RuntimeError, UnpicklingError) as failure:
            raise unloadable(self.model, failure) from failure
        give_vectors(module)
        return OpenClipEmbedder(module, self, device, threads)

    def _find(self) -> tuple[Path | None, str | None]:
        """The model's folder (None if there is a file of weights), and the hub commit that it holds."""
        library = import_open_clip()
        if self.weights is not None:
            if self.model not in library.list_models():
                raise unknown_name("open_clip model", self.model, library.list_models())
            return None, None
        folder, commit = find_model(self._published(), self.revision, TOKENIZER_FILES)
        if not (folder / DESCRIPTION).is_file():
            raise ModelNotFound(
                f"model folder '{folder}' has no {DESCRIPTION}.\n"
                "  Give a model that open_clip saved, or the architecture's name and a file of `weights`."
            )
        return folder, commit

    def _published(self) -> str:
        """The folder or hub id that holds the model. Raises `SpecError` for a bare architecture."""
        model = next((self.model.removeprefix(p) for p in PREFIXES if self.model.startswith(p)), self.model)
        if "/" not in model and not Path(model).is_dir() and model in import_open_clip().list_models():
            raise SpecError(
                f"open_clip model '{model}' needs `weights`, a file; or give a hub id with weights, such as "
                "'laion/CLIP-ViT-B-32-laion2B-s34B-b79K'."
            )
        return model

    def _name(self, folder: Path | None) -> str:
        return self.model if folder is None else f"local-dir:{folder}"

    def _tokenizer(self) -> Any:
        folder, _ = self._find()
        import_open_clip()
        return read_tokenizer(self._name(folder))


class OpenClipEmbedder(JointEmbedder):
    """A loaded model; see `Config`."""

    config: Config

    def encode_text(self, rows: np.ndarray) -> Any:
        """Vectors of token ids that are padded to the context."""
        return self.model(text=self.tensor(np.stack(list(rows))).long())


def import_open_clip() -> Any:
    """The library. Raises `MissingExtra`."""
    try:
        import open_clip
    except ImportError as failure:
        raise Config.missing_extra() from failure
    return open_clip


def create(name: str, load: bool, weights: str | None = None) -> Any:
    """The model by open_clip's word for it, without weights or, `load`, with those of its folder or of a file, `weights`.

    open_clip reads weights as tensors alone: safetensors, or torch's format with `weights_only`.
    """
    import torch

    root = logging.getLogger()
    root.addFilter(unalarming)
    try:
        return import_open_clip().create_model(
            name,
            pretrained=weights,
            load_weights=load,
            require_pretrained=load,
            pretrained_image=False,
            pretrained_text=False,
            device=torch.get_default_device(),
            weights_only=True,
        )
    finally:
        root.removeFilter(unalarming)


def unalarming(record: logging.LogRecord) -> bool:
    """Whether a message may pass: open_clip warns of random weights where none are asked for."""
    return "initialized randomly" not in record.getMessage()


def check_parts(model: str, description: dict[str, Any], folder: Path | None) -> None:
    """Raise `SpecError` where a model is made of what its revision does not pin, or names code, or draws tokens at random."""
    if folder is not None and (code := sorted(set(code_named(folder)))):
        raise SpecError(f"model '{model}' brings code of its own: {', '.join(code)}.\n  Take a model without.")
    text, vision = description["text_cfg"], description["vision_cfg"]
    tower = vision.get("timm_model_name") or ""  # a name of timm's registry is an architecture, and no files
    if tower := text.get("hf_model_name") or (tower if set(tower) & set(":/") else None):
        raise SpecError(
            f"a tower of model '{model}' is built of another model, '{tower}', which no revision pins.\n"
            "  Take a model whose text tower is open_clip's own."
        )
    if (tokenizer := text.get("hf_tokenizer_name")) and folder is None:
        raise SpecError(
            f"the tokenizer of model '{model}' is that of the hub model '{tokenizer}', which the weights do not pin.\n"
            f"  Give the folder or hub id of a model with {DESCRIPTION} and its tokenizer."
        )
    options = set(text.get("tokenizer_kwargs") or {}) - TOKENIZER_OPTIONS
    if text.get("tokenizer_mode") or options:
        raise SpecError(
            f"the tokenizer of model '{model}' has options that are not supported: "
            f"{', '.join(sorted(options)) or text['tokenizer_mode']}."
        )


def framing_of(module: Any) -> dict[str, Any]:
    """How open_clip frames pictures for a model; None for what cannot be said in these words."""
    framing = module.visual.preprocess_cfg
    side, fill = square(framing["size"]), framing["fill_color"]
    return {
        "resize": side,
        "resize_mode": RESIZE_MODES[framing["resize_mode"]],
        "crop": side,
        "fill": (fill,) * 3 if isinstance(fill, int) else tuple(fill),
        "interpolation": "bilinear" if framing["interpolation"] == "bilinear" else "bicubic",
        "mean": channels(framing["mean"]),
        "std": channels(framing["std"]),
    }


def give_vectors(module: Any) -> None:
    """Let the model's `forward`, in place, give the vectors of images, or of token ids, before they are normalised."""

    def forward(images: Any = None, text: Any = None) -> Any:
        return module.encode_image(images) if text is None else module.encode_text(text)

    module.forward = forward
