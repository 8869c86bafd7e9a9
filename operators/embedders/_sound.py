"""What the families of sound have in common: bring it to the model's rate, cut it into windows, average their vectors."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from operators.batch import Batch, RowError, Waveform, object_array, take_rows
from operators.batching import form_batches
from operators.embedders._torch import TorchEmbedder
from operators.embedders._transformers import CONFIG_FILES, FolderConfig
from operators.errors import ModelNotFound, SpecError
from operators.model_files import find_model
from operators.preprocess.audio import resampled, window_places


class SoundConfig(FolderConfig):
    """Config of a model of sound.

    Sound is brought to `rate` (None: the model's own) and cut into windows of `window_seconds`, of which each begins
    `overlap_seconds` before the last one ended; the last one is moved back so that it is as long as the others. The
    vector is the mean of the windows'. For a row a window, see the operator `window_audio`.
    """

    rate: int | None = Field(default=None, ge=1_000)
    window_seconds: float | None = Field(default=None, gt=0, le=600)
    overlap_seconds: float = Field(default=0.0, ge=0)

    @property
    def hertz(self) -> int:
        """`rate`, once resolved."""
        assert self.rate is not None, "resolve() first"
        return self.rate

    def check_windows(self, seconds: float, longest: float | None = None) -> float:
        """`window_seconds`, by default `seconds`. Raises `SpecError` if it is over `longest`, or no more than the overlap."""
        window = self.window_seconds or seconds
        if longest is not None and window > longest:
            raise SpecError(
                f"window_seconds is {window:g}, and model '{self.model}' takes {longest:g} seconds at most."
            )
        if self.overlap_seconds >= window:
            raise SpecError(f"overlap_seconds is {self.overlap_seconds:g}, and a window has {window:g} seconds.")
        return window

    def windows(self, sound: Waveform) -> np.ndarray:
        """Windows of a sound at the model's rate, float32 (windows, samples). Raises `RowError` if it has no sample."""
        assert self.window_seconds is not None, "resolve() first"
        if not len(sound.samples):
            raise RowError("no samples")
        sound = resampled(sound, self.hertz)
        places = window_places(sound, self.window_seconds, self.overlap_seconds)
        return np.stack([sound.samples[start:end] for start, end in places])

    def window_samples(self) -> int:
        """Samples of a whole window."""
        assert self.window_seconds is not None, "resolve() first"
        return round(self.window_seconds * self.hertz)

    def extractor(self) -> Any:
        """The model's feature extractor, of transformers, at the config's rate."""
        folder, _ = find_model(self.model, self.revision, CONFIG_FILES)
        return read_extractor(str(folder), self.revision, self.extractor_class(folder), self.rate)

    def extractor_class(self, folder: Path) -> str:
        """Name of the class of transformers that prepares sound for the model in `folder`."""
        raise NotImplementedError


class SoundEmbedder(TorchEmbedder):
    """A model of sound. Prepared rows hold in `values` their windows, one after the other, and in `windows` how many they are."""

    config: SoundConfig

    def forward(self, prepared: Batch) -> Any:
        """Means of the vectors of each row's windows."""
        import torch

        windows = split_windows(prepared)
        vectors: list[Any] = [None] * len(windows["cost"])
        for rows in self.batches(windows):
            for row, vector in zip(rows.tolist(), self.window_vectors(take_rows(windows, rows)), strict=True):
                vectors[row] = vector
        parts = torch.stack(vectors).float().split(prepared["windows"].tolist())
        return torch.stack([part.mean(0) for part in parts])

    def batches(self, windows: Batch) -> Iterator[np.ndarray]:
        """Indices of the windows that run together: a long row has more of them than a batch may."""
        budget = self.config.batch_cost(self.device.type)
        for group in self.groups(windows):
            yield from (group[rows] for rows in form_batches(windows["cost"][group], budget))

    def groups(self, windows: Batch) -> list[np.ndarray]:
        """Indices of the windows that may run together without changing one another's vectors."""
        return [np.arange(len(windows["cost"]))]

    def window_vectors(self, windows: Batch) -> Any:
        """Vectors of windows, as a torch tensor (n, dim)."""
        raise NotImplementedError


def split_windows(prepared: Batch) -> Batch:
    """Prepared rows as their windows, each with its part of `values` and of `cost`; the other columns are repeated."""
    counts = prepared["windows"]
    pieces = [
        piece for values, count in zip(prepared["values"], counts, strict=True) for piece in np.split(values, count)
    ]
    windows = take_rows(prepared, np.repeat(np.arange(len(counts)), counts))
    return {**windows, "values": object_array(pieces), "cost": windows["cost"] // windows["windows"]}


def windows_batch(values: list[np.ndarray], counts: list[int], costs: list[int]) -> Batch:
    """Prepared rows: of each its windows' `values` (flat, float32), their number, and what one of them costs."""
    windows = np.array(counts, dtype=np.int64)
    return {"values": object_array(values), "windows": windows, "cost": windows * np.array(costs, dtype=np.int64)}


@lru_cache(maxsize=8)
def read_extractor(folder: str, revision: str | None, name: str, rate: int | None) -> Any:
    """The feature extractor of a model's folder: an instance of transformers' class `name`, at `rate` (None: the model's).

    `revision` is that of the folder's files, so that what is kept is not another one's. Dither, which adds noise, is off. Raises `ModelNotFound` if the folder has none, `ImportError`.
    """
    import transformers

    kind = getattr(transformers, name)
    try:
        fields, _ = kind.get_feature_extractor_dict(folder, local_files_only=True)
        return kind(**{**fields, "dither": 0.0, **({} if rate is None else {"sampling_rate": rate})})
    except OSError as failure:
        raise ModelNotFound(
            f"model folder '{folder}' has no preprocessor_config.json, which says how sound is prepared.\n"
            "  Save the model's feature extractor there: AutoFeatureExtractor.from_pretrained(ID).save_pretrained(FOLDER)."
        ) from failure
