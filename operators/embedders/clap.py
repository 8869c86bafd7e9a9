"""CLAP: sound and text in one space (https://arxiv.org/abs/2211.06687), with the models of transformers.

Nothing is drawn at random, as it is in the library's feature extractor: of a sound longer than the model takes, windows are
embedded and averaged, where the library picks a part (`rand_trunc`) or three (`fusion`); and in a model with fusion every
window passes through it, as a sound does that the library is given alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np

from operators.batch import Batch
from operators.decode.audio import LIBRARIES
from operators.embedders._sound import SoundConfig, SoundEmbedder, read_extractor, windows_batch
from operators.embedders._tokens import TokensConfig, narrowed
from operators.embedders._transformers import read_json, read_model
from operators.embedders.base import Role
from operators.errors import unknown_name

BATCH_COST = {"cpu": 8 * 1_001, "cuda": 64 * 1_001}  # a window of 10 seconds has 1,001 frames


class Config(SoundConfig, TokensConfig):
    """A CLAP model with its feature extractor and its `tokenizer.json`: a folder or a hub id.

    The prompts and `max_tokens` are for text. Vectors have length 1.
    """

    modalities: ClassVar[frozenset[str]] = frozenset({"audio", "text"})
    not_in_fingerprint: ClassVar[frozenset[str]] = SoundConfig.not_in_fingerprint | TokensConfig.not_in_fingerprint
    requires: ClassVar[tuple[str, ...]] = ("transformers", "tokenizers", "torch", *LIBRARIES)
    extra: ClassVar[str | None] = "transformers-audio"
    covers: ClassVar[str] = "LAION's CLAP, with and without fusion: a text finds sounds"

    family: Literal["clap"] = "clap"

    @property
    def joint(self) -> bool:
        """A text finds sounds."""
        return True

    def resolve(self) -> Self:
        """Pin the revision and read rate, windows and dimension from the model's files.

        Raises `ModelNotFound`, and `SpecError` for another kind of model, and for windows longer than the model takes.
        """
        try:
            from transformers import AutoConfig
        except ImportError as failure:
            raise self.missing_extra() from failure
        folder, revision = self.pin()
        kind = read_json(folder / "config.json").get("model_type")
        if kind != "clap":
            raise unknown_name("model type of clap", str(kind), ["clap"])
        body = AutoConfig.from_pretrained(str(folder), local_files_only=True)
        extractor = read_extractor(str(folder), revision, self.extractor_class(folder), self.rate)
        text = body.text_config
        positions = text.max_position_embeddings - (text.pad_token_id or 0) - 1
        stated = read_json(folder / "tokenizer_config.json").get("model_max_length") or positions
        found = {
            "revision": revision,
            "rate": int(extractor.sampling_rate),
            "window_seconds": self.check_windows(float(extractor.max_length_s), float(extractor.max_length_s)),
            "max_tokens": narrowed(int(min(stated, positions)), self.max_tokens, folder),
            "document_prompt": self.document_prompt or "",
            "query_prompt": self.query_prompt or "",
        }
        return self.sized(body.projection_dim, **found)

    def extractor_class(self, folder: Path) -> str:
        """One for all."""
        return "ClapFeatureExtractor"

    def prepare(self, batch: Batch, role: Role) -> Batch:
        """Token ids of texts; of sounds the windows' log-mel spectrograms (frames, mels), flat, in `values`.

        A sound costs its frames, of which each of its `windows`, filled up by repeating it, has as many.
        """
        if "text" in batch:
            return TokensConfig.prepare(self, batch, role)
        extractor = self.extractor()
        values, counts, costs = [], [], []
        for sound in batch["audio"]:
            windows = self.windows(sound)
            made = [extractor(window, sampling_rate=self.rate)["input_features"][0][0] for window in windows]
            values.append(np.concatenate(made, dtype=np.float32).reshape(-1))
            counts.append(len(made))
            costs.append(len(made[0]))
        return windows_batch(values, counts, costs)

    def prepared_bytes(self) -> int:
        """A window's spectrogram: 64 numbers for each of its 100 frames a second."""
        return 4 * 64 * 1_001

    def batch_cost(self, device: str) -> int:
        """Frames, or tokens, of a batch."""
        return BATCH_COST["cuda" if device.startswith("cuda") else "cpu"]

    def load(self, device: str, threads: int | None = None) -> ClapEmbedder:
        """Load the weights onto `device`; `threads` bounds torch's CPU threads in this process.

        Raises `ModelNotFound` if there are no weights, some are missing, or none load without running code.
        """
        try:
            import torch  # noqa: F401
            from transformers import AutoTokenizer, ClapModel
        except ImportError as failure:
            raise self.missing_extra() from failure
        folder, _ = self.find_weights()
        model = read_model(ClapModel, folder, self, unused=())
        if (folder / "tokenizer.json").is_file():
            self.check_tokenizer(AutoTokenizer.from_pretrained(str(folder), local_files_only=True))
        return ClapEmbedder(model, self, device, threads)


class ClapEmbedder(SoundEmbedder):
    """A loaded model; see `Config`."""

    config: Config

    def forward(self, prepared: Batch) -> Any:
        """Vectors of token ids, or means of the vectors of each sound's windows; of length 1."""
        import torch

        if "values" in prepared:
            return torch.nn.functional.normalize(super().forward(prepared), dim=-1)
        ids, mask = self.padded(prepared["input_ids"], self.model.config.text_config.pad_token_id)
        return self.model.get_text_features(input_ids=ids.long(), attention_mask=mask).pooler_output

    def window_vectors(self, windows: Batch) -> Any:
        """Vectors of spectrograms."""
        import torch

        body = self.model.config.audio_config
        mels = self.tensor(np.stack([values.reshape(1, -1, body.num_mel_bins) for values in windows["values"]]))
        longer = torch.full((len(mels), 1), body.enable_fusion, device=mels.device)
        if body.enable_fusion:  # the whole, and three parts of it
            mels = mels.repeat(1, 4, 1, 1)
        return self.model.get_audio_features(input_features=mels.to(self.dtype), is_longer=longer).pooler_output
