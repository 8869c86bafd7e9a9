"""The user's own encoder: an ONNX graph or a program of `torch.export`, with a JSON of its preprocessing beside it.

The way in for models that no library knows. A folder holds `encoder.json` (see `operators.embedders._encoder`), the
graph and, for text, `tokenizer.json`. ONNX holds no code and is run by onnxruntime. A `.pt2` is unpickled by
`torch.export.load`, so that it may run whatever code its author wished ("Never load data from an untrusted source",
https://docs.pytorch.org/docs/stable/export.html): it is refused unless `trust_remote_code` says so, of a pinned
revision.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from pydantic import TypeAdapter, ValidationError, model_validator

from operators.batch import Batch
from operators.embedders._encoder import AnyEncoder, AudioEncoder, Encoder, ImageEncoder, TextEncoder
from operators.embedders._onnx import open_onnxruntime
from operators.embedders._tokens import read_tokenizer, token_ids, token_spans
from operators.embedders._torch import check_device
from operators.embedders._transformers import PINNED
from operators.embedders.base import EmbedderConfig, Role
from operators.errors import ModelNotFound, SpecError
from operators.model_files import check_pinned, find_model, revision_of_files

JSON_FILE = "encoder.json"
CONFIG_FILES = ("*.json",)
ALL_FILES = ("*.json", "*.onnx", "*.onnx?data", "*.data", "*.bin", "*.pt2")
ROWS_A_BATCH = {"cpu": 16, "cuda": 256}
Run = Callable[[dict[str, np.ndarray]], np.ndarray]


class Config(EmbedderConfig):
    """A folder, or a hub id, with an encoder of one modality.

    Prompts are put before a text. `trust_remote_code` lets a `.pt2` be loaded, of a pinned revision.
    """

    modalities: ClassVar[frozenset[str]] = frozenset({"text", "image", "audio"})
    not_in_fingerprint: ClassVar[frozenset[str]] = frozenset({"model", "query_prompt"})
    requires: ClassVar[tuple[str, ...]] = ("onnxruntime", "tokenizers")
    extra: ClassVar[str | None] = "exported"
    covers: ClassVar[str] = "your own encoder of text, images or sound, as ONNX or torch.export, with its preprocessing"

    family: Literal["exported"] = "exported"
    model: str
    revision: str | None = None
    document_prompt: str = ""
    query_prompt: str = ""
    trust_remote_code: bool = False

    encoder: AnyEncoder | None = None  # filled in by `resolve`

    @model_validator(mode="after")
    def pinned_where_trusted(self) -> Self:
        """Code that is trusted is that of one revision."""
        if self.trust_remote_code and not PINNED.fullmatch(self.revision or ""):
            raise ValueError(
                "trust_remote_code needs a pinned `revision`; without trust_remote_code, the error says which"
            )
        return self

    def resolve(self) -> Self:
        """Pin the files and read the JSON.

        Raises `ModelNotFound` if the files are not there, or not those pinned, `SpecError` where the JSON is wrong
        or the graph could run untrusted code.
        """
        folder, commit = find_model(self.model, self.revision, CONFIG_FILES)
        revision = commit or revision_of_files(files_below(folder), folder)
        if commit is None or self.trust_remote_code:  # else `revision` may be a branch, which stands for a commit
            check_pinned(f"the files of model '{self.model}'", revision, self.revision)
        encoder = read_encoder(folder, self.model)
        if self.encoder not in (None, encoder):
            raise SpecError(f"`encoder` is not what {JSON_FILE} of model '{self.model}' says. Leave it out of the job.")
        if encoder.file.endswith(".pt2") and not self.trust_remote_code:
            raise SpecError(
                f"'{encoder.file}' of model '{self.model}' is a torch.export program, which can run code as it loads.\n"
                f"  Export to ONNX instead; or, to trust it, set `trust_remote_code: true` and `revision: {revision}`."
            )
        return self.sized(
            encoder.dim, revision=revision, encoder=encoder, normalize=self.normalize or encoder.normalize
        )

    @property
    def resolved_encoder(self) -> TextEncoder | ImageEncoder | AudioEncoder:
        """What the JSON says; known once resolved."""
        assert self.encoder is not None, "resolve() first"
        return self.encoder

    @property
    def takes(self) -> frozenset[str]:
        """The encoder's modality."""
        return frozenset({self.resolved_encoder.modality})

    @property
    def window(self) -> int | None:
        """Of a text encoder: tokens that it takes, less its special tokens and the document prompt's."""
        if not isinstance(self.encoder, TextEncoder):
            return None
        tokenizer = self._tokenizer()
        prompt = len(tokenizer.encode(self.document_prompt, add_special_tokens=False).ids)
        return max(1, self.encoder.max_tokens - tokenizer.num_special_tokens_to_add(is_pair=False) - prompt)

    def spans(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token spans of each text, int64 (n, 3): start, end, word."""
        return token_spans(self._tokenizer(), texts)

    def prepare(self, batch: Batch, role: Role) -> Batch:
        """Token ids, uint8 pixels or samples, as the encoder's JSON says; see `operators.embedders._encoder`."""
        encoder = self.resolved_encoder
        if encoder.modality not in batch:
            raise SpecError(f"model '{self.model}' embeds {encoder.modality}, which the job's modality is not.")
        if not isinstance(encoder, TextEncoder):
            return encoder.prepare(batch)
        prompt = self.document_prompt if role == "document" else self.query_prompt
        texts = [prompt + text for text in batch["text"]]
        return token_ids(self._tokenizer(), self._tokenizer(truncate=encoder.max_tokens), texts)

    def prepared_bytes(self) -> int:
        """One picture, one window of sound, or a few hundred token ids."""
        encoder = self.resolved_encoder
        if isinstance(encoder, TextEncoder):
            return super().prepared_bytes()
        return encoder.size * (3 if isinstance(encoder, ImageEncoder) else 4)

    def batch_cost(self, device: str) -> int:
        """Tokens, pixels or samples of a batch."""
        encoder = self.resolved_encoder
        if isinstance(encoder, TextEncoder):
            return super().batch_cost(device)
        return ROWS_A_BATCH["cuda" if device.startswith("cuda") else "cpu"] * encoder.size

    def load(self, device: str, threads: int | None = None) -> ExportedEmbedder:
        """Load the graph onto `device`; `threads` bounds the threads of what runs it.

        Tries it on a blank row. Raises `ModelNotFound` if it is not there, `SpecError` where inputs and outputs are
        not those of the JSON.
        """
        encoder = self.resolved_encoder
        folder, _ = find_model(self.model, self.revision, ALL_FILES)
        path = folder / encoder.file
        if not path.is_file():
            raise ModelNotFound(f"model '{self.model}' has no file '{encoder.file}', which its {JSON_FILE} names.")
        if self.trust_remote_code:
            self.resolve()  # another machine may have resolved it: what is loaded here is of the pinned revision
        try:
            run = (open_program if path.suffix == ".pt2" else open_graph)(path, encoder, device, threads)
        except ImportError as failure:
            raise self.missing_extra() from failure
        embedder = ExportedEmbedder(run, self, device)
        embedder.embed(encoder.blank())
        return embedder

    def _tokenizer(self, truncate: int | None = None) -> Any:
        folder, _ = find_model(self.model, self.revision, CONFIG_FILES)
        try:
            return read_tokenizer(str(folder), truncate)
        except ImportError as failure:
            raise self.missing_extra() from failure


class ExportedEmbedder:
    """A loaded graph; see `Config`."""

    def __init__(self, run: Run, config: Config, device: str) -> None:
        self.run = run
        self.config = config
        self.rows = max(1, config.batch_cost(device) // getattr(config.encoder, "size", 1))

    def embed(self, prepared: Batch) -> np.ndarray:
        """Vectors float32 (n, dim) of prepared rows."""
        encoder = self.config.resolved_encoder
        if not len(prepared["cost"]):
            return np.zeros((0, self.config.dimension), dtype=np.float32)
        vectors = encoder.pool(self.output(encoder.inputs(prepared)), prepared)
        if "windows" in prepared:
            starts = np.cumsum(prepared["windows"]) - prepared["windows"]
            vectors = np.add.reduceat(vectors, starts, axis=0) / prepared["windows"][:, None]
        return self.config.finish(vectors)

    def output(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """The graph's output for all rows, in parts: a long sound has more windows than a batch or the graph takes."""
        fixed = self.config.resolved_encoder.batch
        count, outputs = len(next(iter(inputs.values()))), []
        for start in range(0, count, fixed or self.rows):
            part = {name: values[start : start + (fixed or self.rows)] for name, values in inputs.items()}
            rows = len(next(iter(part.values())))
            if fixed and rows < fixed:
                part = {name: np.concatenate([v, np.repeat(v[-1:], fixed - rows, axis=0)]) for name, v in part.items()}
            outputs.append(self.run(part)[:rows])
        return np.concatenate(outputs)


def open_graph(path: Path, encoder: Encoder, device: str, threads: int | None) -> Run:
    """How to run an ONNX graph. Raises `SpecError` if it has other inputs or outputs than the encoder says."""
    run, inputs, outputs = open_onnxruntime(path, device, threads)
    if sorted(inputs) != sorted(encoder.names):
        raise wrong_inputs(path, inputs, encoder)
    output = encoder.output or outputs[0]
    if output not in outputs:
        raise SpecError(
            f"'{path.name}' has no output '{output}'. Correct `output` in {JSON_FILE}: {', '.join(outputs)}."
        )
    return lambda values: np.asarray(run(values, output))


def open_program(path: Path, encoder: Encoder, device: str, threads: int | None) -> Run:
    """How to run a program of torch.export, whose inputs are told by name or else by order. Unpickles it.

    Raises `SpecError` if it has more or fewer inputs than the encoder says.
    """
    import torch
    from torch.export.passes import move_to_device_pass
    from torch.utils._pytree import tree_unflatten

    if threads:
        torch.set_num_threads(threads)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    check_device(device)
    program = move_to_device_pass(torch.export.load(path), device)
    module, inputs = program.module(), list(program.graph_signature.user_inputs)
    if len(inputs) != len(encoder.names):
        raise wrong_inputs(path, inputs, encoder)
    names = inputs if sorted(inputs) == sorted(encoder.names) else encoder.names

    def run(values: dict[str, np.ndarray]) -> np.ndarray:
        tensors = [torch.from_numpy(values[name]).to(device) for name in names]
        args, named = tree_unflatten(tensors, program.call_spec.in_spec)
        with torch.inference_mode():
            found = module(*args, **named)
        return np.asarray(choose_output(found, encoder).float().cpu().numpy())

    return run


def wrong_inputs(path: Path, inputs: Sequence[str], encoder: Encoder) -> SpecError:
    """The error for a graph that takes other inputs than its JSON gives."""
    return SpecError(
        f"'{path.name}' takes {', '.join(inputs)}, and its {JSON_FILE} gives {', '.join(encoder.names)}.\n"
        f"  Correct the names of the inputs in {JSON_FILE}; null leaves one out."
    )


def choose_output(found: Any, encoder: Encoder) -> Any:
    """The tensor that `encoder.output` names, or the first, of what a program gives. Raises `SpecError`."""
    named = found if isinstance(found, dict) else {}
    if encoder.output is None:
        several = list(named.values()) if named else found
        return several[0] if isinstance(several, list | tuple) else several
    if encoder.output not in named:
        known = ", ".join(named) or "none has a name; leave it out for the first"
        raise SpecError(f"'{encoder.file}' has no output '{encoder.output}'. Correct `output` in {JSON_FILE}: {known}.")
    return named[encoder.output]


def read_encoder(folder: Path, model: str) -> TextEncoder | ImageEncoder | AudioEncoder:
    """What the folder's JSON says. Raises `ModelNotFound` if there is none, `SpecError` with every mistake in it."""
    path = folder / JSON_FILE
    if not path.is_file():
        raise ModelNotFound(
            f"model folder '{folder}' has no {JSON_FILE}, which says how inputs are made.\n"
            '  Write one, such as {"modality": "image", "file": "model.onnx", "dim": 512, "resize": 256, "crop": 224}.'
        )
    try:
        found: TextEncoder | ImageEncoder | AudioEncoder = TypeAdapter(AnyEncoder).validate_json(path.read_bytes())
    except ValidationError as failure:
        mistakes = [f"{'.'.join(str(part) for part in e['loc']) or 'file'}: {e['msg']}" for e in failure.errors()]
        raise SpecError("\n  ".join([f"{JSON_FILE} of model '{model}' is wrong.", *mistakes])) from failure
    return found


def files_below(folder: Path) -> list[Path]:
    """Every file of a model's folder but hidden ones: a graph may keep its tensors in files of any name."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
