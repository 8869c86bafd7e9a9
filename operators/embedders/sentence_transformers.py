"""Text models of the sentence-transformers library: https://sbert.net.

Preparation tokenises with the model's `tokenizer.json` alone, so that the tasks that read load neither torch nor
transformers; the actor pads each batch to its longest row and runs the model's own modules.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from operators.batch import Batch, object_array
from operators.embedders._torch import TorchConfig, TorchEmbedder
from operators.embedders.base import Role
from operators.errors import ModelNotFound, SpecError
from operators.model_code import check_code, code_named
from operators.model_files import NO_DOWNLOADS, check_pinned, downloads_allowed, find_model, revision_of_files, skipped

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CONFIG_FILES = ("*.json", "*.txt", "*.model")
BODY_CONFIGS = tuple(
    f"sentence_{body}_config.json"
    for body in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
DOCUMENT_PROMPTS = ("document", "passage", "corpus")  # names that `encode_document` looks for, in its order
WEIGHT_FILES = ("*.safetensors", "*.bin")
ALL_FILES = (*CONFIG_FILES, *WEIGHT_FILES, "*.py")
PINNED = re.compile(r"[0-9a-f]{40}|[0-9a-f]{32}")  # a hub commit, or `revision_of_files`


class Config(TorchConfig):
    """A sentence-transformers model: a folder or a hub id.

    Prompts are put before the text; where they are None the model's own (`config_sentence_transformers.json`) hold.
    `max_tokens` narrows the model's window. `trust_remote_code` lets code run that the model brings, of a pinned revision.
    What stands below it is filled in by `resolve`.
    """

    modalities: ClassVar[frozenset[str]] = frozenset({"text"})
    not_in_fingerprint: ClassVar[frozenset[str]] = TorchConfig.not_in_fingerprint | {"model", "query_prompt"}
    younger_fields: ClassVar[frozenset[str]] = TorchConfig.younger_fields | {"trust_remote_code"}
    requires: ClassVar[tuple[str, ...]] = ("sentence_transformers", "tokenizers", "torch")
    extra: ClassVar[str | None] = "sentence-transformers"
    covers: ClassVar[str] = (
        "MiniLM, MPNet, E5, LaBSE, Stella, Jina, ModernBERT, NV-Embed, Qwen3 and whatever sbert.net loads"
    )

    family: Literal["sentence_transformers"] = "sentence_transformers"
    model: str
    revision: str | None = None
    document_prompt: str | None = None
    query_prompt: str | None = None
    max_tokens: int | None = Field(default=None, ge=3)
    trust_remote_code: bool = False

    lowercase: bool | None = None

    @model_validator(mode="after")
    def pinned_where_trusted(self) -> Self:
        """Code that is trusted is that of one revision."""
        if self.trust_remote_code and not PINNED.fullmatch(self.revision or ""):
            raise ValueError(
                "trust_remote_code needs a pinned `revision`: the commit of a hub model (40 hex digits) or the hash of a "
                "folder's files (32); `latentlake plan` without trust_remote_code says which it is"
            )
        return self

    def resolve(self) -> Self:
        """Pin the revision and read dimension, window and prompts from the model's files.

        Raises `ModelNotFound` where the files are not those pinned, `SpecError` where the model brings untrusted code.
        """
        folder, commit = find_model(self.model, self.revision, CONFIG_FILES)
        revision = commit or revision_of_folder(folder)
        check_code(self.model, folder, revision, self.trust_remote_code)
        if commit is None or self.trust_remote_code:  # else `revision` may be a branch, which stands for a commit
            check_pinned(f"the files of model '{self.model}'", revision, self.revision)
        if next(folder.rglob("adapter_config.json"), None):
            raise SpecError(
                f"model '{self.model}' is an adapter, whose base model its revision does not pin.\n"
                "  Merge the two (`merge_and_unload()` of peft), and give the merged model."
            )
        body = next((found for name in BODY_CONFIGS if (found := read_json(folder / name))), {})
        prompts = read_json(folder / "config_sentence_transformers.json")
        named = {name: prompt for name, prompt in (prompts.get("prompts") or {}).items() if prompt is not None}
        default = named.get(prompts.get("default_prompt_name") or "", "")
        document = next((named[name] for name in DOCUMENT_PROMPTS if name in named), default)
        window = window_of(folder, body)
        found = {
            "revision": revision,
            "lowercase": bool(body.get("do_lower_case", False)),
            "max_tokens": window if self.max_tokens is None else min(self.max_tokens, window),
            "document_prompt": document if self.document_prompt is None else self.document_prompt,
            "query_prompt": named.get("query", default) if self.query_prompt is None else self.query_prompt,
        }
        if (found["document_prompt"] or found["query_prompt"]) and prompts_left_out(folder):
            raise SpecError(
                f"model '{self.model}' leaves its prompts out of pooling, which this family cannot do.\n"
                '  Set document_prompt and query_prompt to "", or take another model.'
            )
        return self.sized(dimension_of(folder), **found)

    @property
    def window(self) -> int | None:
        """The model's window, less its special tokens and the document prompt's."""
        tokenizer, room = self._tokenizer(), self.max_tokens or 0
        prompt = len(tokenizer.encode(self.document_prompt or "", add_special_tokens=False).ids)
        return max(1, room - tokenizer.num_special_tokens_to_add(is_pair=False) - prompt)

    def spans(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token spans of each text, int64 (n, 3): start, end, word."""
        encodings = self._tokenizer().encode_batch(self._cased(texts), add_special_tokens=False)
        return [
            np.array(
                [(start, end, word or 0) for (start, end), word in zip(e.offsets, e.word_ids, strict=True)],
                dtype=np.int64,
            ).reshape(-1, 3)
            for e in encodings
        ]

    def prepare(self, batch: Batch, role: Role) -> Batch:
        """Token ids of each text (`input_ids`: int32 arrays), cut to the window; `tokens` counts them before the cut."""
        prompt = (self.document_prompt if role == "document" else self.query_prompt) or ""
        texts = self._cased([prompt + text for text in batch["text"]])
        ids = [np.array(e.ids, dtype=np.int32) for e in self._tokenizer().encode_batch(texts)]
        tokens = np.array([len(i) for i in ids], dtype=np.int64)
        limit = self.max_tokens
        too_long = np.flatnonzero(tokens > limit) if limit else np.zeros(0, dtype=np.int64)
        if len(too_long):
            cut = self._tokenizer(truncate=limit).encode_batch([texts[row] for row in too_long])
            for row, encoding in zip(too_long, cut, strict=True):
                ids[row] = np.array(encoding.ids, dtype=np.int32)
        truncated = np.zeros(len(ids), dtype=bool)
        truncated[too_long] = True
        return {
            "input_ids": object_array(ids),
            "tokens": tokens,
            "truncated": truncated,
            "cost": np.array([len(i) for i in ids], dtype=np.int64),
        }

    def load(self, device: str, threads: int | None = None) -> SentenceTransformerEmbedder:
        """Load the weights onto `device`; `threads` bounds torch's CPU threads in this process.

        Raises `ModelNotFound` where there are no weights, or none that load without running code.
        """
        try:
            from sentence_transformers import SentenceTransformer
            from transformers.utils import logging
        except ImportError as failure:
            raise Config.missing_extra() from failure
        logging.disable_progress_bar()
        folder, commit = find_model(self.model, self.revision, ALL_FILES)
        if not files_of(folder, WEIGHT_FILES):
            lacking = "has no weights (*.safetensors)." if commit is None or downloads_allowed() else NO_DOWNLOADS
            raise ModelNotFound(f"model '{self.model}' {lacking}")
        if self.trust_remote_code:
            self.resolve()  # the code that runs here is that of the pinned revision, also where another machine resolved
        try:
            model = SentenceTransformer(
                str(folder),
                device="cpu",
                revision=None if commit is None else self.revision,
                trust_remote_code=self.trust_remote_code,
                local_files_only=True,  # all that the revision covers is in the folder
                model_kwargs={"weights_only": True},  # or the model's own files could switch it off
            )
        except UnpicklingError as failure:
            raise ModelNotFound(
                f"weights of model '{self.model}' do not load as tensors alone: damaged, or with objects that run code.\n"
                "  Where you trust them, convert them to safetensors: load the model and call its save_pretrained(FOLDER)."
            ) from failure
        return SentenceTransformerEmbedder(model, self, device, threads)

    def _tokenizer(self, truncate: int | None = None) -> Tokenizer:
        folder, _ = find_model(self.model, self.revision, CONFIG_FILES)
        return read_tokenizer(str(folder), truncate)

    def _cased(self, texts: Sequence[str]) -> list[str]:
        return [text.lower() for text in texts] if self.lowercase else list(texts)


class SentenceTransformerEmbedder(TorchEmbedder):
    """A loaded model; see `Config`."""

    config: Config

    def forward(self, prepared: Batch) -> Any:
        """Vectors of token ids, padded to the longest row."""
        tokenizer = self.model.tokenizer
        ids, mask = self.padded(prepared["input_ids"], tokenizer.pad_token_id or 0, tokenizer.padding_side == "left")
        return self.model({"input_ids": ids.long(), "attention_mask": mask})["sentence_embedding"]


@lru_cache(maxsize=16)
def read_tokenizer(folder: str, truncate: int | None) -> Tokenizer:
    """The tokenizer of a model's folder, without padding, cutting to `truncate` tokens where that is given."""
    try:
        from tokenizers import Tokenizer
    except ImportError as failure:
        raise Config.missing_extra() from failure
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


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty where there is no such file."""
    return json.loads(path.read_text()) if path.is_file() else {}


def revision_of_folder(folder: Path) -> str:
    """Revision of a local model: of its configuration and weights, and of its Python files where its files name any."""
    patterns = ALL_FILES if any(code_named(folder)) else (*CONFIG_FILES, *WEIGHT_FILES)
    return revision_of_files(files_of(folder, patterns), folder)


def files_of(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """Files below a model's folder that match a pattern and take part in the torch model."""
    found = [path for pattern in patterns for path in folder.rglob(pattern)]
    return [path for path in found if not skipped(path.relative_to(folder))]


def window_of(folder: Path, body: dict[str, Any]) -> int:
    """Tokens that the model takes: its sentence-transformers window, else the least of tokenizer's and positions'."""
    if body.get("max_seq_length"):
        return int(body["max_seq_length"])
    limits = [
        read_json(folder / "tokenizer_config.json").get("model_max_length"),
        read_json(folder / "config.json").get("max_position_embeddings"),
    ]
    known = [int(limit) for limit in limits if limit and 0 < limit < 10**9]
    if not known:
        raise ModelNotFound(f"model folder '{folder}' does not say its window; give `max_tokens`.")
    return min(known)


def prompts_left_out(folder: Path) -> bool:
    """Whether a pooling module of the model leaves the tokens of a prompt out (Instructor models do)."""
    configs = (read_json(path) for path in folder.glob("*_Pooling/config.json"))
    return any(config.get("include_prompt") is False for config in configs)


def dimension_of(folder: Path) -> int:
    """Length of the vectors, from the configuration of the last module that changes it."""
    modules = json.loads((folder / "modules.json").read_text()) if (folder / "modules.json").is_file() else []
    for module in reversed(modules):
        config = read_json(folder / module["path"] / "config.json")
        kind = module["type"].rsplit(".", 1)[-1]
        if kind == "Dense":
            return int(config["out_features"])
        if kind == "Pooling":
            width = int(config.get("embedding_dimension") or config["word_embedding_dimension"])
            modes = config.get("pooling_mode")
            if modes is None:
                return width * max(1, sum(bool(on) for name, on in config.items() if name.startswith("pooling_mode_")))
            return width * (1 if isinstance(modes, str) else len(modes))
    body = read_json(folder / "config.json")
    for name in ("hidden_size", "d_model", "dim"):
        if name in body:
            return int(body[name])
    raise ModelNotFound(
        f"model folder '{folder}' does not say the length of its vectors (no config.json with hidden_size)."
    )
