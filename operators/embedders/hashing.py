"""Feature hashing: deterministic vectors without a model, for tests, smoke runs and measuring a pipeline.

Text: scikit-learn's `HashingVectorizer` over words (https://scikit-learn.org/stable/modules/feature_extraction.html).
Images: a 16 x 16 RGB thumbnail, folded into `dim` numbers with signs from a fixed seed. Sound: so its spectrum up to 8 kHz.
Similar inputs do get similar vectors, but no quality is claimed. `delay_ms` sleeps for each row, to stand for a slow model.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field

from operators.batch import Batch, Waveform, object_array
from operators.embedders._spans import spans_of
from operators.embedders.base import EmbedderConfig, Role

THUMBNAIL = 16
BANDS, BAND_HZ = 128, 62.5
WORD, BETWEEN_WORDS = re.compile(r"\w+"), re.compile(r"\W+")


class Config(EmbedderConfig):
    """`dim` numbers a vector. `max_words` is the window: further words are cut, and the row says so."""

    modalities: ClassVar[frozenset[str]] = frozenset({"text", "image", "audio"})
    not_in_fingerprint: ClassVar[frozenset[str]] = frozenset({"delay_ms"})
    covers: ClassVar[str] = (
        "no model: hashed words, thumbnails and spectra, for smoke runs and for measuring a pipeline"
    )

    family: Literal["hashing"] = "hashing"
    dim: int = Field(default=256, ge=2, le=4096)
    max_words: int | None = Field(default=None, ge=1)
    delay_ms: float = Field(default=0.0, ge=0)

    def resolve(self) -> Self:
        """Nothing to look up."""
        return self.sized(self.dim)

    @property
    def window(self) -> int | None:
        """`max_words`."""
        return self.max_words

    def prepare(self, batch: Batch, role: Role) -> Batch:
        """Words as text, cut to the window; images as uint8 thumbnails (16, 16, 3); sound as spectra, float32 (128,)."""
        if "text" in batch:
            words = [BETWEEN_WORDS.sub(" ", text).strip(" ") for text in batch["text"]]
            limit = self.max_words
            counts = np.array([w.count(" ") + bool(w) for w in words], dtype=np.int64)
            return {
                "words": object_array([w if limit is None else " ".join(w.split(" ", limit)[:limit]) for w in words]),
                "tokens": counts,
                "truncated": counts > limit if limit else np.zeros(len(words), dtype=bool),
                "cost": np.maximum(counts if limit is None else np.minimum(counts, limit), 1),
            }
        if "audio" in batch:
            spectra = np.array([spectrum_of(sound) for sound in batch["audio"]], dtype=np.float32).reshape(-1, BANDS)
            return {"spectra": spectra, "cost": np.ones(len(spectra), dtype=np.int64)}
        thumbnails = [np.asarray(image.resize((THUMBNAIL, THUMBNAIL))) for image in batch["image"]]
        pixels = np.stack(thumbnails) if thumbnails else np.zeros((0, THUMBNAIL, THUMBNAIL, 3), dtype=np.uint8)
        return {"pixels": pixels, "cost": np.ones(len(pixels), dtype=np.int64)}

    def spans(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Spans of the words; every word is one token."""
        return [spans_of((m.start(), m.end(), k) for k, m in enumerate(WORD.finditer(text))) for text in texts]

    def load(self, device: str, threads: int | None = None) -> HashingEmbedder:
        """Nothing to load; `device` and `threads` do not matter."""
        return HashingEmbedder(self)


class HashingEmbedder:
    """Hashes prepared rows; see `Config`."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._vectorizer: Any = None
        self._signs = np.random.default_rng(0).choice([-1.0, 1.0], size=THUMBNAIL * THUMBNAIL * 3)

    def embed(self, prepared: Batch) -> np.ndarray:
        """Vectors float32 (n, dim)."""
        time.sleep(len(prepared["cost"]) * self.config.delay_ms / 1000)
        if "words" in prepared:
            return self.config.finish(self._embed_text(prepared["words"]))
        if "spectra" in prepared:
            return self.config.finish(self._fold(prepared["spectra"]))
        return self.config.finish(self._fold(prepared["pixels"].reshape(-1, len(self._signs)) / 255.0))

    def _embed_text(self, words: np.ndarray) -> np.ndarray:
        if self._vectorizer is None:
            from sklearn.feature_extraction.text import HashingVectorizer

            self._vectorizer = HashingVectorizer(
                n_features=self.config.dim, norm=None, alternate_sign=False, token_pattern=r"(?u)\w+"
            )
        return np.asarray(self._vectorizer.transform(words).toarray()) if len(words) else np.zeros((0, self.config.dim))

    def _fold(self, values: np.ndarray) -> np.ndarray:
        """Values from 0 to 1, (n, any), as (n, dim)."""
        flat = (values - 0.5) * self._signs[: values.shape[1]]
        folds = -(-flat.shape[1] // self.config.dim)
        padding = folds * self.config.dim - flat.shape[1]
        return np.pad(flat, ((0, 0), (0, padding))).reshape(len(flat), folds, self.config.dim).sum(axis=1)


def spectrum_of(sound: Waveform) -> np.ndarray:
    """Share of a sound's energy in each band of 62.5 Hz, on a logarithmic scale from 0 to 1; (128,)."""
    energy = np.abs(np.fft.rfft(sound.samples)) ** 2
    band = (np.fft.rfftfreq(len(sound.samples), 1 / sound.rate) / BAND_HZ).astype(np.int64)
    bands = np.bincount(band, energy, minlength=BANDS)[:BANDS]
    return np.log1p(1000 * bands / (bands.sum() or 1)) / np.log1p(1000)
