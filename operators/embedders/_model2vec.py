"""Folders of model2vec, and of sentence-transformers' `StaticEmbedding`: vectors of tokens, and their tokenizer.

https://github.com/MinishLab/model2vec. What `StaticModel.encode` does is here in two halves: tokens without the vectors, in
the tasks that read, and their mean where the vectors are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from operators.embedders._tokens import content_ids, read_tokenizer
from operators.embedders._transformers import read_json
from operators.errors import ModelNotFound

FILES = ("*.json", "*.safetensors")
LAYOUTS = (
    ("config.json", "model.safetensors", "embeddings"),
    ("config_sentence_transformers.json", "model.safetensors", "embedding.weight"),
    ("config_sentence_transformers.json", "0_StaticEmbedding/model.safetensors", "embedding.weight"),
)
MAX_LENGTH = 512  # where the configuration does not say; it may say null: no limit


@dataclass(frozen=True)
class StaticFolder:
    """Where the parts of a model lie. `name` is that of the vectors among the tensors."""

    config: Path
    tensors: Path
    name: str

    @property
    def max_length(self) -> int | None:
        """Tokens that a text is cut to."""
        limit: int | None = read_json(self.config).get("max_length", MAX_LENGTH)
        return limit

    @property
    def normalize(self) -> bool:
        """Whether the model scales its vectors to length 1."""
        return bool(read_json(self.config).get("normalize", False))

    def dim(self) -> int:
        """Length of the vectors, from the header of their file."""
        return int(self._open().get_slice(self.name).get_shape()[1])

    def read(self) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        """Vectors (rows, dim), the weights of tokens, and the rows of tokens where several share one; see model2vec."""
        file = self._open()
        others = [file.get_tensor(key) if key in file.keys() else None for key in ("weights", "mapping")]  # noqa: SIM118
        return file.get_tensor(self.name), *others

    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return read_tokenizer(str(self.tensors.parent), None)

    def token_ids(self, texts: Sequence[str], limit: int | None) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        """Known tokens of each text up to `limit` (int32 arrays), how many it has, and how many it keeps (both int64)."""
        unknown, median = self._vocabulary()
        cut = texts if limit is None else [text[: limit * median] for text in texts]
        ids, found = content_ids(self.tokenizer(), cut, limit)
        kept = found if limit is None else np.minimum(found, limit)
        whole = found if limit is None else content_ids(self.tokenizer(), texts, 0)[1]
        known = ids if unknown is None else [row[row != unknown] for row in ids]
        # A word that is cut between characters may make more tokens than it was.
        return known, np.maximum(kept, whole), kept

    @lru_cache(maxsize=4)  # noqa: B019 - of values that are few and small
    def _vocabulary(self) -> tuple[int | None, int]:
        """Id of the unknown token, and the median length of a token in characters."""
        tokenizer = self.tokenizer()
        model = json.loads(tokenizer.to_str())["model"]
        unknown = tokenizer.token_to_id(model["unk_token"]) if model.get("unk_token") else model.get("unk_id")
        return unknown, int(np.median([len(token) for token in tokenizer.get_vocab()]))

    def _open(self) -> Any:
        from safetensors import safe_open

        return safe_open(self.tensors, framework="numpy")


def find_static(folder: Path) -> StaticFolder:
    """The parts of a model's folder. Raises `ModelNotFound` if it is none."""
    for config, tensors, name in LAYOUTS:
        if (folder / config).is_file() and (folder / tensors).is_file():
            return StaticFolder(folder / config, folder / tensors, name)
    raise ModelNotFound(f"'{folder}' is no model2vec folder: config.json and model.safetensors are not both there.")
