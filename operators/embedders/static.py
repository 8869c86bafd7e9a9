"""Vectors of words, averaged: word2vec, GloVe and fastText files, and model2vec folders. No network runs, and no GPU helps.

https://arxiv.org/abs/1301.3781, https://nlp.stanford.edu/projects/glove, https://fasttext.cc,
https://github.com/MinishLab/model2vec.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import ClassVar, Literal, Self

import numpy as np
from pydantic import Field, field_validator, model_validator

from operators.batch import Batch, RowError, object_array
from operators.embedders._model2vec import FILES, StaticFolder, find_static
from operators.embedders._spans import spans_of
from operators.embedders._tokens import token_spans
from operators.embedders._transformers import revision_of_folder
from operators.embedders._vectors import WordVectors, layout_of, open_vectors, read_idf, zipf_weights
from operators.embedders.base import EmbedderConfig, Role, RunsOn
from operators.errors import ModelNotFound, SpecError
from operators.model_files import check_pinned, find_model, local_path, sha256_of

WORDS_A_BATCH = 65_536


class Config(EmbedderConfig):
    """A file of word vectors, or a model2vec folder or hub id. A text is the mean of its words that the model knows.

    Of a file: words are what `token_pattern` matches, in lower case where `lowercase` says so (for GloVe's, whose words
    are); `weighting` counts each word once ("mean"), by its inverse document frequency ("tfidf"; `idf` names a file of
    lines `word<TAB>number`, and a word it does not have weighs as the rarest), or by its rank in the file ("zipf": SIF
    weights; the commonest words have to stand first). A model2vec folder brings its own tokenizer and weights.
    `max_tokens` cuts a text. A text without a known word is rejected. What stands below is filled in by `resolve`.
    """

    modalities: ClassVar[frozenset[str]] = frozenset({"text"})
    runs_on: ClassVar[frozenset[RunsOn]] = frozenset({"cpu"})
    not_in_fingerprint: ClassVar[frozenset[str]] = frozenset({"model", "idf"})
    requires: ClassVar[tuple[str, ...]] = ("safetensors", "tokenizers")
    extra: ClassVar[str | None] = "static"
    covers: ClassVar[str] = "word2vec, GloVe and fastText files (.vec, .txt, .bin, .gz), model2vec (potion)"

    family: Literal["static"] = "static"
    model: str
    format: Literal["text", "binary", "model2vec"] | None = None
    weighting: Literal["mean", "tfidf", "zipf"] = "mean"
    idf: str | None = None
    lowercase: bool = False
    token_pattern: str = r"\w+"
    max_tokens: int | None = Field(default=None, ge=1)
    revision: str | None = None

    idf_revision: str | None = None

    @field_validator("token_pattern")
    @classmethod
    def a_regular_expression(cls, pattern: str) -> str:
        """Python's, see `re`."""
        try:
            re.compile(pattern)
        except re.error as failure:
            raise ValueError(f"token_pattern is no regular expression: {failure}") from failure
        return pattern

    @model_validator(mode="after")
    def idf_where_it_counts(self) -> Self:
        """A file of document frequencies goes with tfidf, and with nothing else."""
        if (self.weighting == "tfidf") != (self.idf is not None):
            raise ValueError(
                "weighting tfidf needs `idf`, a file of lines `word<TAB>number`; no other weighting takes it"
            )
        return self

    def resolve(self) -> Self:
        """Pin the files, and read the word vectors, so that a broken file is known before a run.

        Raises `ModelNotFound` where a file is not there, not the one pinned, or broken.
        """
        path = local_path(self.model)
        named_as_file = not path.is_dir() and path.suffix in (".txt", ".vec", ".bin", ".gz")
        if self.format == "model2vec" or (self.format is None and not path.is_file() and not named_as_file):
            return self._resolve_folder()
        if not path.is_file():
            raise ModelNotFound(f"no file of word vectors '{self.model}'. Give an existing file or a model2vec folder.")
        revision = sha256_of(path)
        check_pinned(f"the content of '{self.model}'", revision, self.revision)
        layout, dim = layout_of(path)
        layout = self.format or layout
        open_vectors(path, revision, layout, dim)
        return self.sized(dim, revision=revision, format=layout, idf_revision=self._resolve_idf())

    def _resolve_idf(self) -> str | None:
        if self.idf is None:
            return None
        path = local_path(self.idf)
        if not path.is_file():
            raise ModelNotFound(f"no file of document frequencies '{self.idf}'. Write one, of lines word<TAB>number.")
        read_idf(path)
        found = sha256_of(path)
        check_pinned(f"the content of '{self.idf}'", found, self.idf_revision)
        return found

    def _resolve_folder(self) -> Self:
        if self.weighting != "mean" or self.lowercase or self.token_pattern != r"\w+":
            raise SpecError(
                f"model '{self.model}' is a model2vec folder, with a tokenizer and weights of its own.\n"
                "  Leave weighting, lowercase and token_pattern out."
            )
        folder, commit = find_model(self.model, self.revision, FILES)
        revision = commit or revision_of_folder(folder)
        if commit is None:
            check_pinned(f"the files of model '{self.model}'", revision, self.revision)
        static = find_static(folder)
        try:
            dim = static.dim()
        except ImportError as failure:
            raise self.missing_extra() from failure
        limits = [limit for limit in (static.max_length, self.max_tokens) if limit is not None]
        return self.sized(
            dim,
            revision=revision,
            format="model2vec",
            max_tokens=min(limits) if limits else None,
            normalize=self.normalize or static.normalize,
        )

    @property
    def window(self) -> int | None:
        """`max_tokens`."""
        return self.max_tokens

    def spans(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Spans of the words, int64 (n, 3): start, end, word; of a model2vec folder those of its tokens."""
        if self.format == "model2vec":
            return token_spans(self._folder().tokenizer(), texts)
        return [spans_of((m.start(), m.end(), k) for k, m in enumerate(self._matches(text))) for text in texts]

    def prepare(self, batch: Batch, role: Role) -> Batch:
        """Rows of the known words in the vectors (`input_ids`: int32 arrays); `known` counts them, int64, after the cut.

        `tokens` counts words, known or not, before the cut. Raises `RowError` where no word is known.
        """
        texts = list(batch["text"])
        if self.format == "model2vec":
            ids, tokens, kept = self._folder().token_ids(texts, self.max_tokens)
        else:
            ids, tokens, kept = self._split_words(texts)
        known = np.array([len(row) for row in ids], dtype=np.int64)
        if len(known) and not known.all():
            count = int(tokens[known == 0][0])
            raise RowError(f"none of its {count} words is known to the model" if count else "no word in it")
        return {
            "input_ids": object_array(ids),
            "known": known,
            "tokens": tokens,
            "truncated": tokens > kept,
            "cost": kept,
        }

    def batch_cost(self, device: str) -> int:
        """Words of a batch."""
        return WORDS_A_BATCH

    def load(self, device: str, threads: int | None = None) -> StaticEmbedder:
        """Open the vectors; `device` and `threads` do not matter. Raises `ModelNotFound`."""
        if self.format == "model2vec":
            return StaticEmbedder(self, *self._folder().read())
        words = self._words()
        weights = None if self.weighting == "mean" else zipf_weights(len(words.vectors))
        if self.idf is not None:
            idf = read_idf(local_path(self.idf))
            weights = np.full(len(words.vectors), max(idf.values()), dtype=np.float32)
            rows, values = words.rows_of(list(idf)), np.array(list(idf.values()), dtype=np.float32)
            weights[rows[rows >= 0]] = values[rows >= 0]
        return StaticEmbedder(self, words.vectors, weights)

    def _matches(self, text: str) -> Iterator[re.Match[str]]:
        return (match for match in re.finditer(self.token_pattern, text) if match.group())

    def _words(self) -> WordVectors:
        assert self.revision is not None and self.format in ("text", "binary"), "resolve() first"
        return open_vectors(local_path(self.model), self.revision, self.format, self.dim or 0)

    def _split_words(self, texts: Sequence[str]) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        vectors, ids, counts = self._words(), [], []
        for text in texts:
            words = (match.group().lower() if self.lowercase else match.group() for match in self._matches(text))
            count, found = 0, [np.zeros(0, dtype=np.int32)]
            while some := list(islice(words, WORDS_A_BATCH)):
                rows = vectors.rows_of(some if self.max_tokens is None else some[: max(0, self.max_tokens - count)])
                found.append(rows[rows >= 0])
                count += len(some)
            counts.append(count)
            ids.append(np.concatenate(found))
        tokens = np.array(counts, dtype=np.int64)
        return ids, tokens, tokens if self.max_tokens is None else np.minimum(tokens, self.max_tokens)

    def _folder(self) -> StaticFolder:
        return find_static(find_model(self.model, self.revision, FILES)[0])


class StaticEmbedder:
    """Vectors, and the weights of their words; see `Config`."""

    def __init__(
        self, config: Config, vectors: np.ndarray, weights: np.ndarray | None = None, mapping: np.ndarray | None = None
    ) -> None:
        self.config = config
        self.vectors = vectors
        self.weights = weights
        self.mapping = mapping  # of a token to its row, where several share one

    def embed(self, prepared: Batch) -> np.ndarray:
        """Vectors float32 (n, dim): weighted means of the rows that are named."""
        means = np.zeros((len(prepared["cost"]), self.vectors.shape[1]), dtype=np.float32)
        for at, ids in enumerate(prepared["input_ids"]):
            chosen = self.vectors[ids if self.mapping is None else self.mapping[ids]].astype(np.float32)
            if self.weights is None:
                means[at] = chosen.mean(axis=0)
            else:
                weights = self.weights[ids].astype(np.float32)
                # model2vec scales its vectors and counts each once; by the sum of the weights, words alone keep their length.
                means[at] = weights @ chosen / (len(ids) if self.config.format == "model2vec" else weights.sum())
        return self.config.finish(means)
