"""From what a reader asks with to a vector: the model that made the column embeds the query, as a query."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np

from latentlake.provenance import Provenance, check_query
from latentlake.query_log import QueryLog
from latentlake.stored import stored_length, to_stored
from latentlake.trust import Trust
from operators.batch import Batch, RowError, Waveform, make_batch, take_rows
from operators.batching import form_batches
from operators.chain import Chain, reject_empty
from operators.embedders.base import Embedder, EmbedderConfig, Role
from operators.errors import FingerprintMismatch, MissingExtra, ModelNotFound, SpecError, UnknownName
from operators.loading import load_embedder
from operators.model_files import downloads_if, models_from
from operators.preprocess import find_operator

logger = logging.getLogger(__name__)

Kind = Literal["text", "image", "audio", "file", "vector", "row"]

TAKES = {
    "text": "text: a str, or a file of text as a Path",
    "image": "images: a Path, or a PIL image",
    "audio": "sound: a Path, or (samples, rate)",
}
MODALITIES = ("text", "image", "audio")  # that a query shows by itself; a file is of its column's
# What Pillow writes without loss, by format; other modes are made RGBA first.
LOSSLESS = {"PNG": {"1", "L", "LA", "P", "RGB", "RGBA"}, "TIFF": {"I", "I;16", "I;16B", "F", "CMYK"}}


def kind_of(query: Any) -> Kind:
    """What a query is. Raises `SpecError` for what cannot be one."""
    from PIL import Image

    if isinstance(query, str):
        return "text"
    if isinstance(query, Path):
        return "file"
    if isinstance(query, Image.Image):
        return "image"
    if isinstance(query, Waveform) or (isinstance(query, tuple) and len(query) == 2 and np.ndim(query[0]) == 1):
        return "audio"
    if isinstance(query, (np.ndarray, list, tuple)):
        return "vector"
    raise SpecError(
        f"a query cannot be of type {type(query).__name__}.\n"
        "  Give a str (text), a pathlib.Path (a file), a PIL image, sound as (samples, rate), a vector, or `id=` of a row."
    )


def examples_of(query: Any) -> list[Any]:
    """The queries that a query is made of: the entries of a list of texts, files, pictures, sounds or arrays; else itself, or none."""
    if query is None:
        return []
    kinds = (str, Path, np.ndarray, tuple, Waveform)
    several = isinstance(query, list) and len(query) > 0
    return list(query) if several and all(isinstance(q, kinds) or hasattr(q, "getbands") for q in query) else [query]


def fits(kind: Kind, query: Any, stored: Provenance) -> bool:
    """Whether a query may be meant for a column."""
    if kind == "vector":
        return np.shape(query) in shapes_of(stored)
    return kind in ("file", "row") or kind in taken(stored)


def taken(stored: Provenance) -> frozenset[str]:
    """Modalities that a column is searched with: its objects', and those that meet them in its model's space."""
    return stored.config.takes if stored.config.joint else frozenset({stored.modality})


def choose_column(kind: Kind, query: Any, columns: Mapping[str, Provenance], column: str | None, table: str) -> str:
    """`column`, or without one the only vector column, or the only one that fits. Raises `SpecError`, listing them."""
    if column is not None:
        return column
    if not columns:
        raise SpecError(f"table '{table}' has no vector column to search.")
    fitting = list(columns) if len(columns) == 1 else [n for n, stored in columns.items() if fits(kind, query, stored)]
    if len(fitting) == 1:
        return fitting[0]
    known = ", ".join(f"{n} ({stored.modality}, {stored.dimension} numbers)" for n, stored in columns.items())
    count = "none of them fits" if not fitting else f"{len(fitting)} of them fit"
    raise SpecError(
        f"table '{table}' has {len(columns)} vector columns and {count} the query; name one with `column=`: {known}"
    )


def check_fits(kind: Kind, column: str, stored: Provenance) -> None:
    """Raise `SpecError`, saying what the column takes, where a query of `kind` is of another modality."""
    if kind in MODALITIES and kind not in taken(stored):
        takes = " or ".join(TAKES.get(modality, f"{modality}: a Path") for modality in sorted(taken(stored)))
        hint = "\n  A str is always text: wrap a file's name in pathlib.Path." if kind == "text" else ""
        raise SpecError(f"column '{column}' takes {takes}, or a vector; this query is {kind}.{hint}")


def check_vector(vector: Any, column: str, stored: Provenance) -> np.ndarray:
    """The vector as the column is searched with: float32 (dim,), or bits uint8 (dim / 8,).

    A column of bits takes them, or numbers, which are made bits as its own were. Raises `SpecError` where neither fits.
    """
    try:
        array = np.asarray(vector, dtype=np.float32)
    except (TypeError, ValueError) as failure:
        raise SpecError(f"a query vector holds numbers only: {failure}") from failure
    if array.shape not in shapes_of(stored):
        known = " or ".join(str(shape) for shape in shapes_of(stored))
        raise SpecError(f"column '{column}' takes vectors of shape {known}; this one is {array.shape}.")
    if not np.isfinite(array).all():
        raise SpecError("the query's vector has entries that are not finite (NaN or infinite).")
    if stored.metric == "cosine" and not array.any():
        raise SpecError(
            f"the query's vector is all zeros; column '{column}' compares directions (cosine), and it has none."
        )
    if stored.dtype != "binary":
        return array
    return array.astype(np.uint8) if array.shape != (stored.dimension,) else to_stored(array, stored.dtype)


def shapes_of(stored: Provenance) -> list[tuple[int]]:
    """Shapes of the vectors that a column can be searched with."""
    return [(length,) for length in dict.fromkeys([stored.dimension, stored_length(stored.dtype, stored.dimension)])]


def content_of(query: Any, kind: Kind) -> str | bytes:
    """A query as the content of an object, for the column's chain to decode. Raises `SpecError`."""
    try:
        if kind == "file":
            return Path(query).expanduser().read_bytes()
        if kind == "audio":
            return encode_sound(query)
        return encode_image(query) if kind == "image" else str(query)
    except OSError as failure:
        name = f"file '{query}'" if kind == "file" else "image"
        raise SpecError(f"cannot read the query's {name}: {failure.strerror or failure}") from failure


def encode_image(image: Any) -> bytes:
    """File of a PIL image, upright, which decodes to the same pixels as the file that the image was read from."""
    from operators.decode.image import turn_upright

    upright = image.copy()
    turn_upright(upright)
    found = next((name for name, modes in LOSSLESS.items() if upright.mode in modes), None)
    file = io.BytesIO()
    (upright if found else upright.convert("RGBA")).save(file, found or "PNG")
    return file.getvalue()


def encode_sound(sound: Any) -> bytes:
    """WAV file of a `Waveform`, or of (samples, rate), which decodes to the same samples. Raises `SpecError`, `MissingExtra`."""
    try:
        import soundfile
    except ImportError as failure:
        raise MissingExtra("sound needs an extra: pip install 'latentlake[audio]'") from failure
    wave, file = waveform(sound), io.BytesIO()
    soundfile.write(file, wave.samples, wave.rate, format="WAV", subtype="FLOAT")
    return file.getvalue()


def waveform(value: Any) -> Waveform:
    """Sound as a `Waveform`. Raises `SpecError` unless its samples are finite numbers (n,), and its rate is above 0."""
    if not isinstance(value, Waveform):
        samples, rate = value
        value = Waveform(np.asarray(samples, dtype=np.float32), int(rate))
    if value.samples.ndim != 1 or not np.isfinite(value.samples).all() or value.rate <= 0:
        raise SpecError("sound is (samples, rate): finite numbers of shape (n,), mono, and samples a second.")
    return value


class QueryModels:
    """The models that queries need, loaded once each and kept by the fingerprint of their column.

    `paths` is the reader's word on where a local model lies: by revision, column or stored path; `trust` on what a table
    may bring about. See `connect`.
    """

    def __init__(
        self, paths: Mapping[str, str | Path], trust: Trust | None = None, log: QueryLog | None = None
    ) -> None:
        """`log` is where the reader keeps queries, if at all."""
        self._paths = {name: str(path) for name, path in paths.items()}
        self._trust = trust or Trust()
        self.log = log
        self._loaded: dict[str, tuple[EmbedderConfig, Embedder]] = {}
        self._rerankers: dict[str, Any] = {}
        self._lock = Lock()

    def embed(
        self, table: str, column: str, stored: Provenance, content: str | bytes, modality: str | None = None
    ) -> np.ndarray:
        """Vector of a query, float32 (dim,). One of another `modality` than the column's objects is decoded, and no more.

        Raises `FingerprintMismatch`, `ModelNotFound`, `SpecError` (not decodable, or a model that the reader does not trust).
        """
        return self.embed_many(table, column, stored, [content], modality)[0]

    def embed_many(
        self,
        table: str,
        column: str,
        stored: Provenance,
        contents: Sequence[str | bytes],
        modality: str | None = None,
        role: Role = "query",
    ) -> np.ndarray:
        """Vectors of queries of one modality, float32 (n, dim), in their order; see `embed`. Batches are a job's: of similar cost.

        `role` chooses the model's prompt alone. An error names the first query that cannot be embedded, counted from 0.
        """
        with self._allowed():
            return self._embed(table, column, stored, contents, modality or stored.modality, role)

    def _embed(
        self, table: str, column: str, stored: Provenance, contents: Sequence[str | bytes], modality: str, role: Role
    ) -> np.ndarray:
        config, embedder = self._model(table, column, stored)
        chain = query_chain(column, stored) if modality == stored.modality else Chain(modality)
        batch = chain.run(make_batch([f"query {n}" for n in range(len(contents))], contents), {}, role="query")
        batch = reject_empty(batch) if "text" in batch else batch
        names = ["the query"] if len(contents) == 1 else batch["id"].tolist()
        for name, error, filtered in zip(names, batch["error"], batch["filtered"], strict=True):
            if (reason := error or filtered) is not None:
                raise SpecError(f"{name} does not pass the preprocessing of column '{column}': {reason}")
        prepared = prepare_queries(config, column, batch, names, role)
        for row in np.flatnonzero(prepared.get("truncated", [])).tolist():
            tokens = prepared["tokens"][row]
            logger.warning("%s has %d tokens, more than column '%s' takes; it was cut", names[row], tokens, column)
        vectors = np.zeros((len(contents), config.dimension), dtype=np.float32)
        budget = config.batch_cost(str(getattr(embedder, "device", "cpu")))
        for rows in form_batches(prepared["cost"], budget):
            vectors[rows] = embedder.embed(take_rows(prepared, rows))
        return vectors

    def reranker(self, model: Any) -> Any:
        """A cross-encoder: one that is loaded already, or the one in a folder (or of a hub id), loaded once. See `load_reranker`."""
        if hasattr(model, "predict"):
            return model
        with self._lock:
            if str(model) not in self._rerankers:
                from latentlake.searching.reranking import load_reranker

                self._rerankers[str(model)] = load_reranker(model, self._trust)
            return self._rerankers[str(model)]

    def load(self, table: str, column: str, stored: Provenance) -> None:
        """Load the model of a column, unless it is loaded. Raises what `embed` raises of models."""
        with self._allowed():
            self._model(table, column, stored)

    @contextmanager
    def _allowed(self) -> Iterator[None]:
        """Within, models come from where the reader lets them come from."""
        places = {*self._trust.allow_models, *self._paths.values()}
        with downloads_if(self._trust.allow_downloads), models_from(places):
            yield

    def _model(self, table: str, column: str, stored: Provenance) -> tuple[EmbedderConfig, Embedder]:
        with self._lock:
            if stored.fingerprint not in self._loaded:
                self._loaded[stored.fingerprint] = self._load(table, column, stored)
            return self._loaded[stored.fingerprint]

    def _load(self, table: str, column: str, stored: Provenance) -> tuple[EmbedderConfig, Embedder]:
        """The model of a column from where it lies now, checked to be trusted, and to be the one that made the column."""
        self._trust.check(column, stored.config)
        remedy = f"Name the place of the column's own model on this machine: connect(uri, models={{'{column}': PATH}})."
        try:
            config = relocate(stored.config, column, self._paths).resolve()
            check_query(column, table, stored, config)
            return config, load_embedder(config, "auto")
        except (ModelNotFound, FingerprintMismatch) as failure:
            raise type(failure)(f"{failure}\n  {remedy}") from failure


def embed_alike(
    models: QueryModels, table: str, column: str, stored: Provenance, queries: Sequence[Any], role: Role
) -> np.ndarray:
    """Vectors of texts, files (`Path`) or images, all of one kind, float32 (n, dim). Raises `SpecError`; see `embed_many`."""
    kinds = {kind_of(query) for query in queries}
    if len(kinds) > 1 or kinds - {"text", "file", "image"}:
        raise SpecError(f"embed texts, files or images, all of one kind; these are {', '.join(sorted(kinds))}.")
    for kind in kinds:
        check_fits(kind, column, stored)
        modality = kind if kind in ("text", "image") else None
        return models.embed_many(table, column, stored, [content_of(query, kind) for query in queries], modality, role)
    return np.zeros((0, stored.dimension), dtype=np.float32)


def prepare_queries(config: EmbedderConfig, column: str, batch: Batch, names: Sequence[str], role: Role) -> Batch:
    """What the model takes of decoded queries. Raises `SpecError` with the name of the one that it cannot take."""
    try:
        return config.prepare(batch, role)
    except RowError as failure:
        if len(names) == 1:
            raise SpecError(f"the model of column '{column}' cannot take {names[0]}: {failure}") from failure
        for row, name in enumerate(names):
            prepare_queries(config, column, take_rows(batch, np.array([row])), [name], role)
        raise


def query_chain(column: str, stored: Provenance) -> Chain:
    """What a query goes through: of the column's operators those that queries do not skip, as far as they are known here."""
    steps = []
    for step in Chain.from_json(stored.chain).steps:
        try:
            if find_operator(step.op).at_query:
                steps.append(step)
        except UnknownName:
            logger.warning("operator '%s' of column '%s' is not known here: the query goes without it", step.op, column)
    return Chain(stored.modality, tuple(steps))


def relocate(config: EmbedderConfig, column: str, paths: Mapping[str, str]) -> EmbedderConfig:
    """The config with its model's path replaced by the reader's, where `paths` has one by revision, column or path."""
    if config.models != (config,):
        return config.with_models([relocate(model, column, paths) for model in config.models])
    field = location_field(config)
    if field is None:
        return config
    keys = (str(getattr(config, "revision", None)), column, str(getattr(config, field)))
    path = next((paths[key] for key in keys if key in paths), None)
    return config if path is None else config.model_copy(update={field: path})


def location_field(config: EmbedderConfig) -> str | None:
    """Name of the field that says where the model lies; a path takes no part in the fingerprint."""
    names = [name for name in ("weights", "model") if getattr(config, name, None) is not None]
    return next((name for name in names if name in config.not_in_fingerprint), None)
