"""Text to token ids, with a model's `tokenizer.json` alone: tasks that read load neither torch nor transformers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from operators.batch import Batch, RowError, object_array
from operators.embedders._pieces import PIECE, Tokens, in_groups_of_characters, token_pieces
from operators.embedders._spans import join_words, spans_before_lowering
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
        cased = self._cased(texts)
        found = token_spans(self._tokenizer(), cased)
        return [
            spans if low is text else spans_before_lowering(spans, text)
            for text, low, spans in zip(texts, cased, found, strict=True)
        ]

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

    `cutting` is the same tokenizer, which truncates. Raises `RowError` if a text has no token.
    """
    limit = (cutting.truncation or {})["max_length"]
    around = special_tokens(tokenizer) if any(len(text) > PIECE for text in texts) else None
    ids: list[np.ndarray] = []
    counts: list[int] = []
    for group in in_groups_of_characters(texts):
        if len(texts[group[0]]) > PIECE and around is not None:
            row, count = long_ids(tokenizer, texts[group[0]], limit, *around)
            ids.append(row)
            counts.append(count)
            continue
        found = [np.array(e.ids, dtype=np.int32) for e in tokenizer.encode_batch([texts[row] for row in group])]
        counts += [len(row) for row in found]
        too_long = [at for at, row in enumerate(found) if len(row) > limit]
        for at, encoding in zip(too_long, cutting.encode_batch([texts[group[at]] for at in too_long]), strict=True):
            found[at] = np.array(encoding.ids, dtype=np.int32)
        ids += found
    tokens = np.array(counts, dtype=np.int64)
    if not tokens.all():
        raise RowError("no token in it")
    return {
        "input_ids": object_array(ids),
        "tokens": tokens,
        "truncated": tokens > limit,
        "cost": np.array([len(i) for i in ids], dtype=np.int64),
    }


def content_ids(tokenizer: Tokenizer, texts: Sequence[str], limit: int | None) -> tuple[list[np.ndarray], np.ndarray]:
    """Ids of each text without special tokens, int32 arrays cut to `limit`, and how many it has before the cut, int64."""
    ids: list[np.ndarray] = []
    counts: list[int] = []
    for group in in_groups_of_characters(texts):
        if len(texts[group[0]]) > PIECE:
            found = [long_ids(tokenizer, texts[group[0]], limit)]
        else:
            encodings = tokenizer.encode_batch([texts[row] for row in group], add_special_tokens=False)
            found = [(np.array(e.ids[:limit], dtype=np.int32), len(e.ids)) for e in encodings]
        ids += [row for row, _ in found]
        counts += [count for _, count in found]
    return ids, np.array(counts, dtype=np.int64)


def long_ids(
    tokenizer: Tokenizer, text: str, limit: int | None, first: Sequence[int] = (), last: Sequence[int] = ()
) -> tuple[np.ndarray, int]:
    """Ids of a long text between the tokens `first` and `last`, int32 (n,), cut to `limit`, and how many before the cut."""
    room = None if limit is None else max(0, limit - len(first) - len(last))
    kept: list[np.ndarray] = []
    count = 0
    for piece in token_pieces(tokenizer, text):
        kept.append(piece.ids if room is None else piece.ids[: max(0, room - count)])
        count += len(piece)
    ids = np.concatenate([np.array(first, dtype=np.int32), *kept, np.array(last, dtype=np.int32)])
    return ids, count + len(first) + len(last)


def special_tokens(tokenizer: Tokenizer) -> tuple[list[int], list[int]] | None:
    """Ids that a tokenizer puts before a text and behind it; None if it does something else with one."""
    alone, marked = (tokenizer.encode(PROBE, add_special_tokens=marks).ids for marks in (False, True))
    for at in range(len(marked) - len(alone) + 1):
        if marked[at : at + len(alone)] == alone:
            return marked[:at], marked[at + len(alone) :]
    return None


def token_spans(tokenizer: Tokenizer, texts: Sequence[str]) -> list[np.ndarray]:
    """Token spans of each text without special tokens, int64 (n, 3): start, end, word. Whitespace alone has none."""
    spans: list[np.ndarray] = []
    texts = [text if text.strip() else "" for text in texts]
    for group in in_groups_of_characters(texts):
        if len(texts[group[0]]) > PIECE:
            spans.append(np.concatenate([piece.spans for piece in token_pieces(tokenizer, texts[group[0]])]))
        else:
            encodings = tokenizer.encode_batch([texts[row] for row in group], add_special_tokens=False)
            spans += [Tokens.of(encoding).spans for encoding in encodings]
    return [join_words(found) for found in spans]


def window_of(folder: Path) -> int | None:
    """Tokens that a transformer takes, the least of what its tokenizer and its positions allow; None if neither says."""
    config = read_json(folder / "config.json")
    positions = next((config[name] for name in POSITIONS if config.get(name)), None)
    if positions and config.get("model_type") in OFFSET_POSITIONS:
        positions -= (config.get("pad_token_id") or 0) + 1
    limits = [read_json(folder / "tokenizer_config.json").get("model_max_length"), positions]
    known = [int(limit) for limit in limits if limit and 0 < limit < 10**9]
    return min(known) if known else None


def narrowed(window: int | None, max_tokens: int | None, folder: Path) -> int:
    """The lesser of a model's window and what the job gives. Raises `ModelNotFound` if there is neither."""
    known = [limit for limit in (window, max_tokens) if limit is not None]
    if not known:
        raise ModelNotFound(f"model folder '{folder}' does not say its window; give `max_tokens`.")
    return min(known)
