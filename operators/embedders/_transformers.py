"""Models that are a folder of the Hugging Face libraries, or a hub id: what pins them, what code they bring, their weights."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, ClassVar, Self

from pydantic import model_validator

from operators.embedders._torch import DTYPES, TorchConfig
from operators.errors import ModelNotFound, SpecError
from operators.model_code import check_code, code_named
from operators.model_files import NO_DOWNLOADS, check_pinned, downloads_allowed, find_model, revision_of_files, skipped

CONFIG_FILES = ("*.json", "*.txt", "*.model")
WEIGHT_FILES = ("*.safetensors", "*.bin")
ALL_FILES = (*CONFIG_FILES, *WEIGHT_FILES, "*.py")
PINNED = re.compile(r"[0-9a-f]{40}|[0-9a-f]{32}")  # a hub commit, or `revision_of_files`
WIDTHS = ("hidden_size", "n_embd", "d_model", "dim")  # names that architectures have for one thing
BLOCKS = ("encoder_layers", "num_hidden_layers", "n_layer", "n_layers", "num_layers")


class FolderConfig(TorchConfig):
    """Config of a model that is a folder or a hub id.

    `trust_remote_code` lets code run that the model brings, of a pinned revision.
    """

    not_in_fingerprint: ClassVar[frozenset[str]] = TorchConfig.not_in_fingerprint | {"model"}
    younger_fields: ClassVar[frozenset[str]] = TorchConfig.younger_fields | {"trust_remote_code"}

    model: str
    revision: str | None = None
    trust_remote_code: bool = False

    @model_validator(mode="after")
    def pinned_where_trusted(self) -> Self:
        """Code that is trusted is that of one revision."""
        if self.trust_remote_code and not PINNED.fullmatch(self.revision or ""):
            raise ValueError(
                "trust_remote_code needs a pinned `revision`: the commit of a hub model (40 hex digits) or the hash of a "
                "folder's files (32); `latentlake plan` without trust_remote_code says which it is"
            )
        return self

    def pin(self, also: Sequence[str] = ()) -> tuple[Path, str]:
        """Folder with the model's configuration, and its revision, which covers files that match `also`, too.

        Raises `ModelNotFound` if the files are not those pinned, `SpecError` where the model brings untrusted code or is
        an adapter.
        """
        folder, commit = find_model(self.model, self.revision, CONFIG_FILES)
        revision = commit or revision_of_folder(folder, also)
        check_code(self.model, folder, revision, self.trust_remote_code)
        if commit is None or self.trust_remote_code:  # else `revision` may be a branch, which stands for a commit
            check_pinned(f"the files of model '{self.model}'", revision, self.revision)
        if next(folder.rglob("adapter_config.json"), None):
            raise SpecError(
                f"model '{self.model}' is an adapter, whose base model its revision does not pin.\n"
                "  Merge the two (`merge_and_unload()` of peft), and give the merged model."
            )
        return folder, revision

    def find_weights(self, also: Sequence[str] = ()) -> tuple[Path, str | None]:
        """Folder with the model's weights and files that match `also`, and its hub commit (None for a local folder).

        Raises `ModelNotFound` if there are none. Code that is trusted is compared with the pinned revision once more,
        as another machine may have resolved it.
        """
        folder, commit = find_model(self.model, self.revision, (*ALL_FILES, *also))
        if not files_of(folder, WEIGHT_FILES):
            lacking = "has no weights (*.safetensors)." if commit is None or downloads_allowed() else NO_DOWNLOADS
            raise ModelNotFound(f"model '{self.model}' {lacking}")
        if self.trust_remote_code:
            self.resolve()
        return folder, commit


def read_model(loader: Any, folder: Path, config: FolderConfig, unused: Sequence[str] = ("pooler.",)) -> Any:
    """A model of the folder, loaded by `loader` (a class of transformers with `from_pretrained`) in the compute dtype.

    Raises `ModelNotFound` if weights are not tensors alone, or lack some of the model's, which would be random; but for
    names that begin with one of `unused`.
    """
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    with tensors_alone(config.model):
        model, loading = loader.from_pretrained(
            str(folder),
            dtype=getattr(torch, DTYPES[config.compute_dtype]),  # so that it is never larger than it has to be
            trust_remote_code=config.trust_remote_code,
            local_files_only=True,  # all that the revision covers is in the folder
            weights_only=True,
            output_loading_info=True,
        )
    if lacking := sorted(name for name in loading["missing_keys"] if not name.startswith(tuple(unused))):
        raise ModelNotFound(
            f"weights of model '{config.model}' lack {len(lacking)} of those of {type(model).__name__}: {lacking[0]} ...\n"
            "  They would be random. Give a model whose weights fit its config.json."
        )
    return model


@contextmanager
def tensors_alone(model: str) -> Iterator[None]:
    """Within, weights that do not load without running code are a `ModelNotFound`."""
    try:
        yield
    except UnpicklingError as failure:
        raise ModelNotFound(
            f"weights of model '{model}' do not load as tensors alone: damaged, or with objects that run code.\n"
            "  Where you trust them, convert them to safetensors: load the model and call its save_pretrained(FOLDER)."
        ) from failure


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty if there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def revision_of_folder(folder: Path, also: Sequence[str] = ()) -> str:
    """Revision of a local model: of its configuration, its weights and what matches `also`.

    Of its Python files, too, where its files name any.
    """
    patterns = ALL_FILES if any(code_named(folder)) else (*CONFIG_FILES, *WEIGHT_FILES)
    more = [path for pattern in also for path in folder.glob(pattern)]
    return revision_of_files({*files_of(folder, patterns), *more}, folder)


def files_of(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """Files below a model's folder that match a pattern and take part in the torch model."""
    found = [path for pattern in patterns for path in folder.rglob(pattern)]
    return [path for path in found if not skipped(path.relative_to(folder))]


def width_of(folder: Path) -> int:
    """Length of a transformer's hidden states. Raises `ModelNotFound` if its config.json does not say it."""
    return number_of(folder, WIDTHS, "the length of its vectors")


def blocks_of(folder: Path) -> int:
    """Number of a transformer's blocks, of an encoder-decoder's encoder. Raises `ModelNotFound`."""
    return number_of(folder, BLOCKS, "how many blocks it has")


def number_of(folder: Path, names: Sequence[str], what: str) -> int:
    """The first of `names` in a model's config.json, or in the part of it that is about text."""
    config = read_json(folder / "config.json")
    for part in (config, config.get("text_config") or {}):
        for name in names:
            if isinstance(part.get(name), int):
                return int(part[name])
    raise ModelNotFound(f"model folder '{folder}' does not say {what} (no config.json with {names[0]}).")
