"""Text to token ids, with a model's `tokenizer.json` alone: tasks that read load neither torch nor transformers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from operators.batch import Batch, RowError, object_array
from operators.embedders._transformers import CONFIG_FILES, FolderConfig, read_json
from operators.embedders.base import Role, short_hash
from operators.errors import ModelNotFound
from operators.model_files import find_model

if TYPE_CHECKING:
    from tokenizers import Tokenizer

POSITIONS = ("max_position_embeddings", "n_positions")
# Architectures whose positions are counted from behind the padding token's id: RoBERTa's and its descendants'.
OFFSET_POSITIONS = frozenset(
    {
        *(
            "camembert",
            "data2vec-text",
            "esm",
            "ibert",
            "longformer",
            "luke",
            "mpnet",
            "roberta",
            "roberta-prelayernorm",
        ),
        *("xlm-roberta", "xlm-roberta-xl", "xmod"),
    }
)
PROBE = "one two, three"


class TokensConfig(FolderConfig):
    """Config of a text model with a `tokenizer.json`.

    Prompts are put before the text. `max_tokens` narrows the model's window.
    """

    modalities: ClassVar[frozenset[str]] = frozenset({"text"})
    not_in_fingerprint: ClassVar[frozenset[str]] = FolderConfig.not_in_fingerprint | {"query_prompt"}

    document_prompt: str | None = None
    query_prompt: str | None = None
    max_tokens: int | None = Field(default=None, ge=3)

    @property
    def window(self) -> int | None:
        """The model's window, less its special tokens and the document prompt's."""
        tokenizer, room = self._tokenizer(), self.max_tokens or 0
        prompt = len(tokenizer.encode(self.document_prompt or "", add_special_tokens=False).ids)
        return max(1, room - tokenizer.num_special_tokens_to_add(is_pair=False) - prompt)

    def spans(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token spans of each text, int64 (n, 3): start, end, word."""
        return token_spans(self._tokenizer(), self._cased(texts))

    def prepare(self, batch: Batch, role: Role) -> Batch:
        """Token ids of each text (`input_ids`: int32 arrays), cut to the window; `tokens` counts them before the cut."""
        prompt = (self.document_prompt if role == "document" else self.query_prompt) or ""
        texts = self._cased([prompt + text for text in batch["text"]])
        assert self.max_tokens is not None, "resolve() first"
        return token_ids(self._tokenizer(), self._tokenizer(truncate=self.max_tokens), texts)

    def tokens_key(self) -> str:
        """A `preparation_key` for families of text alone: models of one folder that cut and prompt alike share token ids."""
        fields = {"revision", "document_prompt", "query_prompt", "max_tokens", "lowercase"}
        return f"tokens-{short_hash(self.model_dump(include=fields))}"

    def check_tokenizer(self, tokenizer: Any) -> None:
        """Raise `ModelNotFound` unless transformers' `tokenizer` of the same folder gives the tokens that `prepare` gives.

        transformers takes some of what it does (marks at the ends, say) from other files than tokenizer.json.
        """
        made = tokenizer(PROBE)
        ours, theirs = self._tokenizer().encode(PROBE).ids, list(made["input_ids"])
        if ours != theirs or any(made.get("token_type_ids", ())):
            raise ModelNotFound(
                f"tokenizer.json of model '{self.model}' makes {ours} of '{PROBE}', and transformers "
                f"{theirs}{' with token types' if ours == theirs else ''}.\n"
                "  Save it once with AutoTokenizer.from_pretrained(folder).save_pretrained(folder), or take another model."
            )

    def _tokenizer(self, truncate: int | None = None) -> Tokenizer:
        folder, _ = find_model(self.model, self.revision, CONFIG_FILES)
        try:
            return read_tokenizer(str(folder), truncate)
        except ImportError as failure:
            raise self.missing_extra() from failure

    def _cased(self, texts: Sequence[str]) -> list[str]:
        return list(texts)


@lru_cache(maxsize=16)
def read_tokenizer(folder: str, truncate: int | None) -> Tokenizer:
    """The tokenizer of a model's folder, without padding, cutting to `truncate` tokens where that is given."""
    from tokenizers import Tokenizer

    path = Path(folder) / "tokenizer.json"
    if not path.is_file():
        raise ModelNotFound(
            f"model folder '{folder}' has no tokenizer.json.\n"
            "  Save it once with AutoTokenizer.from_pretrained(folder).save_pretrained(folder)."
        )
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    if truncate is None:
        tokenizer.no_truncation()
    else:
        tokenizer.enable_truncation(truncate)
    return tokenizer


def token_ids(tokenizer: Tokenizer, cutting: Tokenizer, texts: Sequence[str]) -> Batch:
    """What `prepare` of a text family returns: `input_ids` (int32 arrays), `tokens`, `truncated`, `cost`.

    `cutting` is the same tokenizer, which truncates. Raises `RowError` where a text has no token.
    """
    ids = [np.array(e.ids, dtype=np.int32) for e in tokenizer.encode_batch(texts)]
    tokens = np.array([len(i) for i in ids], dtype=np.int64)
    if not tokens.all():
        raise RowError("no token in it")
    truncated = tokens > (cutting.truncation or {})["max_length"]
    too_long = np.flatnonzero(truncated).tolist()
    for row, encoding in zip(too_long, cutting.encode_batch([texts[row] for row in too_long]), strict=True):
        ids[row] = np.array(encoding.ids, dtype=np.int32)
    return {
        "input_ids": object_array(ids),
        "tokens": tokens,
        "truncated": truncated,
        "cost": np.array([len(i) for i in ids], dtype=np.int64),
    }


def token_spans(tokenizer: Tokenizer, texts: Sequence[str]) -> list[np.ndarray]:
    """Token spans of each text without special tokens, int64 (n, 3): start, end, word. Whitespace alone has none."""
    encodings = tokenizer.encode_batch([text if text.strip() else "" for text in texts], add_special_tokens=False)
    return [
        np.array(
            [(start, end, word or 0) for (start, end), word in zip(e.offsets, e.word_ids, strict=True)],
            dtype=np.int64,
        ).reshape(-1, 3)
        for e in encodings
    ]


def window_of(folder: Path) -> int | None:
    """Tokens that a transformer takes, the least of what its tokenizer and its positions allow; None where neither says."""
    config = read_json(folder / "config.json")
    positions = next((config[name] for name in POSITIONS if config.get(name)), None)
    if positions and config.get("model_type") in OFFSET_POSITIONS:
        positions -= (config.get("pad_token_id") or 0) + 1
    limits = [read_json(folder / "tokenizer_config.json").get("model_max_length"), positions]
    known = [int(limit) for limit in limits if limit and 0 < limit < 10**9]
    return min(known) if known else None


def narrowed(window: int | None, max_tokens: int | None, folder: Path) -> int:
    """The lesser of a model's window and what the job gives. Raises `ModelNotFound` where there is neither."""
    known = [limit for limit in (window, max_tokens) if limit is not None]
    if not known:
        raise ModelNotFound(f"model folder '{folder}' does not say its window; give `max_tokens`.")
    return min(known)
