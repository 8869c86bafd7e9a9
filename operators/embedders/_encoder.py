"""What a JSON file says of an exported encoder: how a row becomes its inputs, and its output a vector.

Preparing is done by the functions of the other families, so that a picture, a text or a sound is treated alike in all.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from operators.batch import Batch, Waveform, object_array
from operators.embedders._pixels import RESIZE, Channels, Interpolation, ResizeMode
from operators.embedders._sound import windows_batch
from operators.errors import SpecError
from operators.preprocess.audio import resampled, window_places
from operators.preprocess.image import crop_to_square

Inputs = dict[str, np.ndarray]
FileName = Annotated[str, Field(pattern=r"^\w[\w.-]*\.(onnx|pt2)$")]


class Encoder(BaseModel):
    """What encoders of every modality say.

    `file` lies beside the JSON. `output` is the name of the output to take (None: the first), float (n, dim), or with
    `pooling`, which takes the mean of the places or the first one, (n, places, dim). `batch` is the number of rows
    where the graph was exported for just that. `normalize` scales the vectors to length 1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: FileName = "model.onnx"
    output: str | None = None
    dim: int = Field(ge=1)
    pooling: Literal["none", "mean", "cls"] = "none"
    batch: int | None = Field(default=None, ge=1)
    normalize: bool = False

    @property
    def names(self) -> list[str]:
        """Names of the graph's inputs, in the order in which a program of torch.export takes them."""
        given = (getattr(self, name, None) for name in ("input", "mask", "types"))
        return [name for name in given if name is not None]

    def blank(self) -> Batch:
        """A prepared row of nothing, to try the graph with."""
        raise NotImplementedError

    def inputs(self, prepared: Batch) -> Inputs:
        """Inputs of the graph, by name, of prepared rows; of sound one for each window."""
        raise NotImplementedError

    def pool(self, output: np.ndarray, prepared: Batch) -> np.ndarray:
        """One vector for each row of the inputs, float32 (n, dim). Raises `SpecError` for other outputs."""
        expected = 2 if self.pooling == "none" else 3
        if output.ndim != expected or output.shape[-1] != self.dim:
            shape = f"(n, {self.dim})" if expected == 2 else f"(n, places, {self.dim})"
            raise SpecError(
                f"'{self.file}' gives an output of shape {output.shape}, and its JSON says {shape}.\n"
                "  Correct `output`, `dim` or `pooling` there."
            )
        if self.pooling == "mean":
            counts = self.counts(output, prepared)[..., None]
            output = (output * counts).sum(axis=1) / counts.sum(axis=1)
        elif self.pooling == "cls":
            output = output[:, 0]
        return np.asarray(output, dtype=np.float32)

    def counts(self, output: np.ndarray, prepared: Batch) -> np.ndarray:
        """1 for each place of an output that counts in a mean, float32 (n, places)."""
        return np.ones(output.shape[:2], dtype=np.float32)


class ImageEncoder(Encoder):
    """Takes pixels, float32: 0 to 1, less `mean`, by `std`. How pictures are framed: see `PixelsConfig`."""

    modality: Literal["image"] = "image"
    input: str = "pixels"
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    resize: int = Field(ge=1)
    crop: int = Field(ge=1)
    resize_mode: ResizeMode = "shortest"
    interpolation: Interpolation = "bilinear"
    fill: tuple[int, int, int] = (0, 0, 0)
    mean: Channels = (0.0, 0.0, 0.0)
    std: Channels = (1.0, 1.0, 1.0)

    def prepare(self, batch: Batch) -> Batch:
        """`pixels`, uint8 (n, crop, crop, 3). An image costs its pixels."""
        resized = (RESIZE[self.resize_mode](image, self.resize, self.interpolation) for image in batch["image"])
        images = [np.asarray(crop_to_square(image, self.crop, self.fill)) for image in resized]
        pixels = np.stack(images) if images else np.zeros((0, self.crop, self.crop, 3), dtype=np.uint8)
        return {"pixels": pixels, "cost": np.full(len(images), self.size, dtype=np.int64)}

    def blank(self) -> Batch:
        """A black picture."""
        return {"pixels": np.zeros((1, self.crop, self.crop, 3), dtype=np.uint8), "cost": np.array([self.size])}

    def inputs(self, prepared: Batch) -> Inputs:
        """The picture's input."""
        mean, std = (np.array(levels, dtype=np.float32) for levels in (self.mean, self.std))
        values = (prepared["pixels"].astype(np.float32) / 255 - mean) / std
        return {self.input: np.ascontiguousarray(values.transpose(0, 3, 1, 2) if self.layout == "NCHW" else values)}

    @property
    def size(self) -> int:
        """Pixels of a picture."""
        return self.crop**2


class TextEncoder(Encoder):
    """Takes token ids, int64, of the `tokenizer.json` beside it, padded on the right with `pad_id` to the longest row.

    `mask` names the input that is 1 where a token is, `types` one of zeros; None: the graph has no such input. The mean
    is over the tokens.
    """

    modality: Literal["text"] = "text"
    input: str = "input_ids"
    mask: str | None = "attention_mask"
    types: str | None = None
    max_tokens: int = Field(ge=3)
    length: int | None = Field(default=None, ge=3)
    pad_id: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def window_fits(self) -> Self:
        """A graph that was exported for one length takes no more tokens."""
        if self.length is not None and self.max_tokens > self.length:
            raise ValueError(f"max_tokens is {self.max_tokens}, and the graph takes rows of {self.length} tokens")
        return self

    def blank(self) -> Batch:
        """Three tokens."""
        return {"input_ids": object_array([np.zeros(3, dtype=np.int32)]), "cost": np.array([3])}

    def inputs(self, prepared: Batch) -> Inputs:
        """Ids, and what else is named, (n, longest), or (n, length) where the graph was exported for just that."""
        rows = prepared["input_ids"]
        ids = np.full((len(rows), self.length or max(len(row) for row in rows)), self.pad_id, dtype=np.int64)
        mask = np.zeros_like(ids)
        for at, row in enumerate(rows):
            ids[at, : len(row)] = row
            mask[at, : len(row)] = 1
        found = {self.input: ids, self.mask: mask, self.types: np.zeros_like(ids)}
        return {name: values for name, values in found.items() if name is not None}

    def counts(self, output: np.ndarray, prepared: Batch) -> np.ndarray:
        """1 where a token is."""
        lengths = np.array([len(row) for row in prepared["input_ids"]])
        return (np.arange(output.shape[1]) < lengths[:, None]).astype(np.float32)


class AudioEncoder(Encoder):
    """Takes samples, float32 (n, samples), at `rate`, in windows of `seconds`; the vector is the mean of the windows'.

    Each window begins `overlap_seconds` before the last one ended, and the last one is moved back so that it is as long
    as the others; a sound that is shorter than one is filled up with silence.
    """

    modality: Literal["audio"] = "audio"
    input: str = "samples"
    rate: int = Field(ge=1000)
    seconds: float = Field(gt=0, le=600)
    overlap_seconds: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def windows_go_on(self) -> Self:
        """Each window brings something new."""
        if self.overlap_seconds >= self.seconds:
            raise ValueError(f"overlap_seconds is {self.overlap_seconds:g}, and a window has {self.seconds:g} seconds")
        return self

    def prepare(self, batch: Batch) -> Batch:
        """`values`, each row's windows one after the other, and `windows`, their number. A row costs its samples."""
        sounds = [self.cut(sound) for sound in batch["audio"]]
        costs = [self.size] * len(sounds)
        return windows_batch([sound.reshape(-1) for sound in sounds], [len(sound) for sound in sounds], costs)

    def cut(self, sound: Waveform) -> np.ndarray:
        """Windows of a sound, float32 (windows, samples)."""
        sound = resampled(sound, self.rate)
        places = window_places(sound, self.seconds, self.overlap_seconds)
        windows = np.zeros((len(places), self.size), dtype=np.float32)
        for window, (start, end) in zip(windows, places, strict=True):
            window[: end - start] = sound.samples[start:end]
        return windows

    def blank(self) -> Batch:
        """A window of silence."""
        return windows_batch([np.zeros(self.size, dtype=np.float32)], [1], [self.size])

    def inputs(self, prepared: Batch) -> Inputs:
        """Samples of all windows."""
        return {self.input: np.concatenate(list(prepared["values"])).reshape(-1, self.size)}

    @property
    def size(self) -> int:
        """Samples of a window."""
        return max(1, round(self.seconds * self.rate))


AnyEncoder = Annotated[ImageEncoder | TextEncoder | AudioEncoder, Field(discriminator="modality")]
