"""Embedding without a job: one interface over every model family, for notebooks, services and tests.

What comes out is what a job with the same settings would store (before it is stored as float16 or bits).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from latentlake.query import encode_image, waveform
from operators.batch import Batch, RowError, Waveform, make_batch, object_array
from operators.batching import form_batches
from operators.chain import Chain, reject_empty
from operators.decode.audio import is_sound
from operators.embedders import config_class, family_names
from operators.embedders.base import EmbedderConfig, Role
from operators.errors import SpecError, UnknownName, unknown_name
from operators.loading import load_embedder
from operators.presets import find_preset, preset_names
from operators.sniff import UNKNOWN, sniff

Metric = Literal["cosine", "euclidean"]
# What people call the families; the libraries of several modalities have a family for each.
FRAMEWORKS = {
    "text": {"transformers": "transformers_text", "huggingface": "transformers_text", "word2vec": "static"},
    "image": {"transformers": "transformers_image", "huggingface": "transformers_image"},
    "audio": {"transformers": "transformers_audio", "huggingface": "transformers_audio"},
}


class ModelEmbedder:
    """One model, loaded, for inputs of one modality, or of each that a joint model takes.

    A str is text, a `Path` a file, beside PIL images and sound: a `Waveform`, or `(samples, rate)` with float samples (n,).
    """

    def __init__(self, config: EmbedderConfig, modality: str, device: str = "auto", threads: int | None = None) -> None:
        """`config` is resolved here. Raises `ModelNotFound`, `MissingExtra`, `SpecError` (a modality that it does not take)."""
        if modality not in config.modalities:
            raise SpecError(f"family '{config.family}' embeds {', '.join(sorted(config.modalities))}, not {modality}.")
        self.config = config.resolve()
        self.modality = modality
        if modality not in self.config.takes:
            raise SpecError(f"this model embeds {', '.join(sorted(self.config.takes))}, not {modality}.")
        self._embedder = load_embedder(self.config, device, threads)
        self._budget = self.config.batch_cost(str(getattr(self._embedder, "device", "cpu")))

    @property
    def dimension(self) -> int:
        """Length of the vectors."""
        return self.config.dimension

    @property
    def modalities(self) -> frozenset[str]:
        """What it takes: its modality, or all of a joint model's."""
        return self.config.takes if self.config.joint else frozenset({self.modality})

    @property
    def measured(self) -> dict[str, float]:
        """What the model, where it was made smaller, says that costs; see the family."""
        return dict(getattr(self._embedder, "measured", {}))

    def embed(self, value: Any, role: Role = "document") -> np.ndarray:
        """Vector float32 (dim,) of one input; see the class. Raises `SpecError` for what cannot be embedded.

        `role` is "query" for what searches: models that were trained so put another prompt before it.
        """
        return self.embed_batch([value], role)[0]

    def embed_batch(self, values: Sequence[Any], role: Role = "document") -> np.ndarray:
        """Vectors float32 (n, dim) of inputs, in their order. Raises `SpecError`, saying which cannot be embedded."""
        vectors = np.zeros((len(values), self.dimension), dtype=np.float32)
        kinds = [self._kind_of(value) for value in values]
        for kind in dict.fromkeys(kinds):
            rows = np.array([row for row, other in enumerate(kinds) if other == kind])
            vectors[rows] = self._embed_kind([values[row] for row in rows], kind, role, rows)
        return vectors

    def similarity(self, a: Any, b: Any, metric: Metric = "cosine") -> float:
        """How alike two inputs, or their vectors (dim,), are: the cosine, -1 to 1, or minus the Euclidean distance."""
        return similarity_of(self._vector_of(a), self._vector_of(b), metric)

    def _vector_of(self, value: Any) -> np.ndarray:
        return value if isinstance(value, np.ndarray) and value.shape == (self.dimension,) else self.embed(value)

    def _kind_of(self, value: Any) -> str:
        kind = modality_of(value)
        if kind is None:
            kind = self.modality if len(self.modalities) == 1 else modality_of_file(value)
        if kind not in self.modalities:
            raise SpecError(
                f"this model embeds {', '.join(sorted(self.modalities))}; the input is {kind}.{HINTS.get(kind, '')}"
            )
        return kind

    def _embed_kind(self, values: Sequence[Any], kind: str, role: Role, rows: np.ndarray) -> np.ndarray:
        batch = decode(values, kind)
        for row, reason in zip(rows, batch["error"], strict=True):
            if reason is not None:
                raise SpecError(f"input {row} cannot be embedded: {reason}")
        try:
            prepared = self.config.prepare(batch, role)
        except RowError as failure:
            raise SpecError(f"an input cannot be embedded: {failure}") from failure
        vectors = np.zeros((len(values), self.dimension), dtype=np.float32)
        for chosen in form_batches(prepared["cost"], self._budget):
            vectors[chosen] = self._embedder.embed({name: column[chosen] for name, column in prepared.items()})
        return vectors

    def __repr__(self) -> str:
        model = getattr(self.config, "model", "")
        return (
            f"ModelEmbedder({self.config.family!r}, {model!r}, {sorted(self.modalities)}, dimension={self.dimension})"
        )


class MultimodalEmbedder:
    """One embedder a modality; inputs find theirs by what they are. Modalities of a joint model share it."""

    def __init__(self, embedders: Mapping[str, ModelEmbedder]) -> None:
        """`embedders` by modality."""
        self._embedders = dict(embedders)

    def embedder(self, modality: str) -> ModelEmbedder:
        """The embedder of a modality. Raises `SpecError` where there is none."""
        if modality not in self._embedders:
            raise SpecError(f"no embedder for {modality}; this one takes {', '.join(sorted(self._embedders))}.")
        return self._embedders[modality]

    def embed(self, value: Any, role: Role = "document") -> np.ndarray:
        """Vector float32 (dim of its modality,) of one input. Raises `SpecError`."""
        return self._of(value).embed(value, role)

    def embed_batch(self, values: Sequence[Any], role: Role = "document") -> list[np.ndarray]:
        """Vectors of inputs, in their order; of each modality embedded together. Raises `SpecError`."""
        vectors: list[np.ndarray] = [np.zeros(0, dtype=np.float32)] * len(values)
        chosen = [self._of(value) for value in values]
        for embedder in {id(one): one for one in chosen}.values():
            rows = [row for row, other in enumerate(chosen) if other is embedder]
            for row, vector in zip(rows, embedder.embed_batch([values[row] for row in rows], role), strict=True):
                vectors[row] = vector
        return vectors

    def similarity(self, a: Any, b: Any, metric: Metric = "cosine") -> float:
        """See `ModelEmbedder.similarity`. Raises `SpecError` for inputs whose vectors lie in different spaces."""
        one, other = self._of(a), self._of(b)
        if one is not other:
            raise SpecError(
                f"{one.modality} and {other.modality} are embedded by different models ({one.config.family}, "
                f"{other.config.family}): their vectors are in different spaces and cannot be compared.\n"
                "  Take one joint model for both, such as clip-vit-b-32 for text and images, or clap for text and audio."
            )
        return one.similarity(a, b, metric)

    def _of(self, value: Any) -> ModelEmbedder:
        return self.embedder(modality_of(value) or modality_of_file(value))

    def __repr__(self) -> str:
        return f"MultimodalEmbedder({self._embedders})"


HINTS = {"text": "\n  A str is always text: wrap a file's name in pathlib.Path."}


def create_text_embedder(framework: str = "minilm", model: str | None = None, **settings: Any) -> ModelEmbedder:
    """A text embedder: of a framework (`"sentence-transformers"`) with its `model`, or a preset (`"minilm"`).

    `settings` are the family's (`docs/models.md`), and `device` ("auto", "cpu", "cuda") and `threads`. Raises `UnknownName`,
    `ModelNotFound`, `MissingExtra`, `SpecError`.
    """
    return create_embedder("text", framework, model, **settings)


def create_image_embedder(framework: str = "clip", model: str | None = None, **settings: Any) -> ModelEmbedder:
    """An image embedder: of a framework (`"timm"`, `"torchvision"`) with its `model`, or a preset (`"clip"`, `"dinov2"`).

    See `create_text_embedder`.
    """
    return create_embedder("image", framework, model, **settings)


def create_audio_embedder(framework: str = "wav2vec2", model: str | None = None, **settings: Any) -> ModelEmbedder:
    """An audio embedder: of a framework (`"transformers"`) with its `model`, or a preset (`"wav2vec2"`, `"whisper"`).

    See `create_text_embedder`.
    """
    return create_embedder("audio", framework, model, **settings)


def create_multimodal_embedder(
    text_framework: str | None = None,
    image_framework: str | None = None,
    audio_framework: str | None = None,
    *,
    text_model: str | None = None,
    image_model: str | None = None,
    audio_model: str | None = None,
    device: str = "auto",
    threads: int | None = None,
) -> MultimodalEmbedder:
    """An embedder for each modality that is given a framework or preset. A joint model that two of them name is loaded once.

    See `create_text_embedder`.
    """
    asked = {
        "text": (text_framework, text_model),
        "image": (image_framework, image_model),
        "audio": (audio_framework, audio_model),
    }
    configs = {
        modality: find_config(modality, framework, model).resolve()
        for modality, (framework, model) in asked.items()
        if framework is not None
    }
    if not configs:
        raise SpecError("name a framework or a preset for at least one of text, image and audio.")
    embedders: dict[str, ModelEmbedder] = {}
    for modality, config in configs.items():
        shared = [one for one in embedders.values() if config.joint and one.config == config]
        embedders[modality] = shared[0] if shared else ModelEmbedder(config, modality, device, threads)
    return MultimodalEmbedder(embedders)


def create_embedder(
    modality: str,
    framework: str,
    model: str | None = None,
    *,
    device: str = "auto",
    threads: int | None = None,
    **settings: Any,
) -> ModelEmbedder:
    """See `create_text_embedder`."""
    return ModelEmbedder(find_config(modality, framework, model, **settings), modality, device, threads)


def find_config(modality: str, framework: str, model: str | None = None, **settings: Any) -> EmbedderConfig:
    """The config, not yet resolved, of a preset or of a framework's model. Raises `UnknownName`, `SpecError`."""
    from pydantic import ValidationError

    name = FRAMEWORKS[modality].get(framework, framework.replace("-", "_"))
    if model is None and framework in preset_names():
        preset = find_preset(framework)
        name, settings = preset.family, {**preset.settings, **settings}
    elif name not in family_names():
        raise unknown_name("framework or preset", framework, available_names(modality))
    elif model is not None:
        settings = {"model": model, **settings}
    try:
        return config_class(name)(**settings)
    except ValidationError as failure:
        problems = [f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in failure.errors()]
        raise SpecError(f"settings of family '{name}': {'; '.join(problems)}") from failure


def available_names(modality: str) -> list[str]:
    """Families, frameworks and presets of a modality."""
    families = [name for name in family_names() if modality in config_class(name).modalities]
    names = [name for name in preset_names() if find_preset(name).family in families]
    return sorted({*families, *names, *FRAMEWORKS[modality]})


def get_available_embedders() -> list[dict[str, Any]]:
    """Every model family, whether it can be used here, and how it is installed where not. Loads no model library.

    One dict a family: family, modalities, status ("ready" or "missing extra"), missing (modules), install (a pip line, or
    None), covers, presets.
    """
    found = []
    for name in family_names():
        config = config_class(name)
        missing = config.missing()
        found.append(
            {
                "family": name,
                "modalities": sorted(config.modalities),
                "status": "missing extra" if missing else "ready",
                "missing": missing,
                "install": f"pip install 'latentlake[{config.extra}]'" if missing else None,
                "covers": config.covers,
                "presets": [p for p in preset_names() if find_preset(p).family == name],
            }
        )
    return found


def modality_of(value: Any) -> str | None:
    """What an input is; None for a file, which has to be looked at. Raises `SpecError` for what cannot be embedded."""
    from PIL import Image

    if isinstance(value, str):
        return "text"
    if isinstance(value, Path):
        return None
    if isinstance(value, Image.Image):
        return "image"
    if isinstance(value, Waveform) or (isinstance(value, tuple) and len(value) == 2):
        return "audio"
    raise SpecError(
        f"an input cannot be of type {type(value).__name__}.\n"
        "  Give a str (text), a pathlib.Path (a file), a PIL image, or sound as (samples, rate)."
    )


def modality_of_file(path: Path) -> str:
    """Modality of a file, by its first bytes; what these do not tell is sound where ffmpeg can open it."""
    content = read_file(path)
    found = sniff(content)
    kind = found.partition("/")[0]
    if found == UNKNOWN and is_sound(content):
        return "audio"
    return kind if kind in ("image", "audio") else "audio" if kind == "video" else "text"


def read_file(path: Path) -> bytes:
    """Content of a file. Raises `SpecError`."""
    try:
        return path.expanduser().read_bytes()
    except OSError as failure:
        raise SpecError(f"cannot read file '{path}': {failure.strerror or failure}") from failure


def decode(values: Sequence[Any], modality: str) -> Batch:
    """A batch of inputs of one modality, decoded; what cannot be decoded has an `error`."""
    from PIL import Image

    contents = [
        read_file(value)
        if isinstance(value, Path)
        else encode_image(value)
        if isinstance(value, Image.Image)
        else value
        if isinstance(value, str)
        else b""
        for value in values
    ]
    sounds = [row for row, value in enumerate(values) if isinstance(value, (Waveform, tuple))]
    batch = make_batch([str(row) for row in range(len(values))], contents)
    if len(sounds) < len(values):
        batch = Chain(modality).run(batch, {})
    else:
        batch[modality] = object_array([None] * len(values))
    for row in sounds:
        batch["error"][row], batch["audio"][row] = None, waveform(values[row])
    return reject_empty(batch) if "text" in batch else batch


def similarity_of(a: np.ndarray, b: np.ndarray, metric: Metric) -> float:
    """Cosine of two vectors, 0 where one is zero, or minus their Euclidean distance. Raises `UnknownName`."""
    if metric == "euclidean":
        return -float(np.linalg.norm(a - b))
    if metric != "cosine":
        raise UnknownName(f"no metric '{metric}'. Available: cosine, euclidean")
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.clip(a @ b / lengths, -1, 1)) if lengths else 0.0
