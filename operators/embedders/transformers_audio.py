"""Sound through the speech models of transformers, pooled here: https://huggingface.co/docs/transformers.

wav2vec2, HuBERT, WavLM and data2vec-audio take samples; of Whisper the encoder runs, on log-mel spectrograms. Windows of
unequal length share a batch only where padding leaves their vectors as they are: a model that normalises its first layer
over the whole input, or convolves without its mask, sees the padding, and runs on windows of one length at a time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np

from operators.batch import Batch, RowError
from operators.decode.audio import LIBRARIES
from operators.embedders._pooling import LayeredConfig, aggregate_layers, pool_places
from operators.embedders._sound import SoundConfig, SoundEmbedder, read_extractor, windows_batch
from operators.embedders._transformers import read_json, read_model
from operators.embedders.base import Role, short_hash
from operators.errors import ModelNotFound, SpecError, unknown_name

EXTRACTORS = {
    "wav2vec2": "Wav2Vec2FeatureExtractor",
    "hubert": "Wav2Vec2FeatureExtractor",
    "wavlm": "Wav2Vec2FeatureExtractor",
    "data2vec-audio": "Wav2Vec2FeatureExtractor",
    "whisper": "WhisperFeatureExtractor",
}
WINDOW_SECONDS = 30.0  # of models that take any length: attention's memory grows with its square
SECONDS_A_BATCH = {"cpu": 60, "cuda": 480}
UNUSED = ("masked_spec_embed",)  # weights that only training needs
# What of the config `prepare` depends on, beside the model's files.
PREPARES = {"family", "revision", "rate", "do_normalize", "window_seconds", "overlap_seconds", "receptive_field"}


class Config(SoundConfig, LayeredConfig):
    """A speech model: a folder or a hub id.

    `pooling` over the frames that are sound: "mean", "max", "first", "mean_std" (twice as long). `do_normalize` scales each
    window to mean 0 and variance 1; None: as the model's own files say. A sound shorter than `receptive_field`, which is
    what one frame of the model sees, is rejected; Whisper pads any.
    """

    modalities: ClassVar[frozenset[str]] = frozenset({"audio"})
    not_in_fingerprint: ClassVar[frozenset[str]] = (
        SoundConfig.not_in_fingerprint | LayeredConfig.not_in_fingerprint | {"receptive_field"}
    )
    requires: ClassVar[tuple[str, ...]] = ("transformers", "torch", *LIBRARIES)
    extra: ClassVar[str | None] = "transformers-audio"
    covers: ClassVar[str] = "wav2vec 2.0, XLS-R, HuBERT, WavLM, data2vec-audio and Whisper's encoder"

    family: Literal["transformers_audio"] = "transformers_audio"
    pooling: Literal["mean", "max", "first", "mean_std"] = "mean"
    do_normalize: bool | None = None

    receptive_field: int | None = None  # samples

    def resolve(self) -> Self:
        """Pin the revision and read rate, window, normalisation and dimension from the model's files.

        Raises `ModelNotFound`, and `SpecError` for another kind of model and for a layer that the model does not have.
        """
        try:
            from transformers import AutoConfig
        except ImportError as failure:
            raise self.missing_extra() from failure
        folder, revision = self.pin()
        extractor = read_extractor(str(folder), revision, self.extractor_class(folder), self.rate)
        body = AutoConfig.from_pretrained(str(folder), local_files_only=True)
        whisper = body.model_type == "whisper"
        adapter = bool(getattr(body, "add_adapter", False))
        if adapter and self.needs_hidden_states:
            raise SpecError(
                f"model '{self.model}' ends in an adapter, behind its layers: take `layers: [-1]` of it alone."
            )
        self.check_layers(body.encoder_layers if whisper else body.num_hidden_layers)
        width = body.d_model if whisper else body.output_hidden_size if adapter else body.hidden_size
        normalizes = bool(getattr(extractor, "do_normalize", False)) if self.do_normalize is None else self.do_normalize
        found = {
            "revision": revision,
            "rate": int(extractor.sampling_rate),
            "do_normalize": normalizes,
            "window_seconds": self.check_windows(
                float(extractor.chunk_length) if whisper else WINDOW_SECONDS,
                float(extractor.chunk_length) if whisper else None,
            ),
            "receptive_field": 1 if whisper else receptive_field(body.conv_kernel, body.conv_stride),
        }
        return self.sized(width * self.width_factor * (2 if self.pooling == "mean_std" else 1), **found)

    def extractor_class(self, folder: Path) -> str:
        """By the model's type. Raises `SpecError` for one that this family does not run."""
        kind = read_json(folder / "config.json").get("model_type")
        if kind is None:
            raise ModelNotFound(f"model folder '{folder}' has no config.json that names its model_type.")
        if kind not in EXTRACTORS:
            raise unknown_name("model type of transformers_audio", kind, EXTRACTORS)
        return EXTRACTORS[kind]

    def prepare(self, batch: Batch, role: Role) -> Batch:
        """Windows of each sound, as the model's feature extractor prepares them.

        `values` (flat, float32): samples, or log-mel spectrograms (mels, frames) without the silence that they are padded
        with, but for one frame of it; `windows`: how many; `frames`: samples, or spectrogram frames, of sound in each. A
        window costs its samples.
        """
        extractor = self.extractor()
        values, counts, costs, frames = [], [], [], []
        for sound in batch["audio"]:
            windows = self.windows(sound)
            count, length = windows.shape
            if self.receptive_field and length < self.receptive_field:
                raise RowError(
                    f"{sound.seconds:.3f} seconds are {length} samples at {self.rate} Hz; the model needs {self.receptive_field}"
                )
            if "input_features" in extractor.model_input_names:
                made = [spectrogram(extractor, window, bool(self.do_normalize)) for window in windows]
                costs.append(extractor.n_samples)
                frames.append(-(-length // extractor.hop_length))
            else:
                made = [normalized(extractor, window) if self.do_normalize else window for window in windows]
                costs.append(length)
                frames.append(length)
            values.append(np.concatenate([part.reshape(-1) for part in made]))
            counts.append(count)
        return {**windows_batch(values, counts, costs), "frames": np.array(frames, dtype=np.int64)}

    def preparation_key(self) -> str:
        """One model prepares alike whatever is pooled, of whichever layers."""
        return short_hash(self.model_dump(mode="json", include=PREPARES))

    def prepared_bytes(self) -> int:
        """One window of samples, which is more than its spectrogram."""
        return 4 * self.window_samples()

    def batch_cost(self, device: str) -> int:
        """Samples of a batch."""
        return SECONDS_A_BATCH["cuda" if device.startswith("cuda") else "cpu"] * self.hertz

    def load(self, device: str, threads: int | None = None) -> SoundEmbedder:
        """Load the weights onto `device`; `threads` bounds torch's CPU threads in this process.

        Raises `ModelNotFound` if there are no weights, some are missing, or none load without running code.
        """
        try:
            import torch  # noqa: F401
            from transformers import AutoModel
        except ImportError as failure:
            raise self.missing_extra() from failure
        folder, _ = self.find_weights()
        model = read_model(AutoModel, folder, self, UNUSED)
        if model.config.model_type == "whisper":
            return WhisperEmbedder(model.get_encoder(), self, device, threads)
        return WaveformEmbedder(model, self, device, threads)


class SpeechEmbedder(SoundEmbedder):
    """Pools the hidden states of a speech model; see `Config`."""

    config: Config

    def pooled(self, output: Any, lengths: Any) -> Any:
        """Vectors of a model's output, of whose inputs `lengths` (int64 tensor) frames are sound."""
        import torch

        states = output.last_hidden_state
        if self.config.needs_hidden_states:
            # The last of them is what comes before a final normalisation, in some models.
            layers = (*output.hidden_states[:-1], states)
            states = aggregate_layers(layers, self.config.layers, self.config.aggregate)
        places = torch.arange(states.shape[1], device=states.device)
        frames = self.model._get_feat_extract_output_lengths(lengths)
        return pool_places(states, (places < frames[:, None]).long(), self.config.pooling)


class WaveformEmbedder(SpeechEmbedder):
    """A loaded model that takes samples."""

    def __init__(self, model: Any, config: Config, device: str, threads: int | None = None) -> None:
        super().__init__(model, config, device, threads)
        body = model.config
        self.masks = (
            # Not data2vec-audio, which has no such setting: its positions are convolved five times, and masked once.
            getattr(body, "feat_extract_norm", None) == "layer"
            and not getattr(body, "conv_pos_batch_norm", False)
            and not getattr(body, "add_adapter", False)
        )

    def groups(self, windows: Batch) -> list[np.ndarray]:
        """All windows where the model masks what is padded, else those of each length."""
        if self.masks:
            return super().groups(windows)
        return [np.flatnonzero(windows["frames"] == length) for length in np.unique(windows["frames"])]

    def window_vectors(self, windows: Batch) -> Any:
        """Vectors of windows of samples."""
        samples, mask = self.padded(windows["values"], 0.0)
        output = self.model(
            samples.to(self.dtype),
            attention_mask=mask if self.masks else None,
            output_hidden_states=self.config.needs_hidden_states,
        )
        return self.pooled(output, mask.sum(1))


class WhisperEmbedder(SpeechEmbedder):
    """A loaded encoder of Whisper."""

    def window_vectors(self, windows: Batch) -> Any:
        """Vectors of log-mel spectrograms, filled up with the silence that they end in."""
        body = self.model.config
        whole = body.max_source_positions * self.model.conv1.stride[0] * self.model.conv2.stride[0]
        spectrograms = np.empty((len(windows["cost"]), body.num_mel_bins, whole), dtype=np.float32)
        for index, values in enumerate(windows["values"]):
            kept = values.reshape(body.num_mel_bins, -1)
            spectrograms[index, :, : kept.shape[1]] = kept
            spectrograms[index, :, kept.shape[1] :] = kept[:, -1:]
        output = self.model(
            self.tensor(spectrograms).to(self.dtype), output_hidden_states=self.config.needs_hidden_states
        )
        return self.pooled(output, self.tensor(windows["frames"]))


def normalized(extractor: Any, window: np.ndarray) -> np.ndarray:
    """A window of samples with mean 0 and variance 1, float32."""
    (made,) = extractor.zero_mean_unit_var_norm([window], None)
    return np.asarray(made, dtype=np.float32)


def spectrogram(extractor: Any, window: np.ndarray, normalizes: bool) -> np.ndarray:
    """Whisper's log-mel spectrogram of a window, float32 (mels, frames), cut behind the first frame of silence after it."""
    made = extractor(window, sampling_rate=extractor.sampling_rate, do_normalize=normalizes, return_tensors="np")
    features = np.asarray(made["input_features"][0], dtype=np.float32)
    silent = -(-(len(window) + extractor.n_fft // 2) // extractor.hop_length)
    return features[:, : silent + 1]


def receptive_field(kernels: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """How many samples one frame of a stack of convolutions sees: the fewest that it takes."""
    field = 1
    for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
        field = (field - 1) * stride + kernel
    return field
