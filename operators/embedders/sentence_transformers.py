"""Text models of the sentence-transformers library: https://sbert.net.

Preparation tokenises with the model's `tokenizer.json` alone, so that the tasks that read load neither torch nor
transformers; the actor pads each batch to its longest row and runs the model's own modules. sentence-transformers' own
onnx and openvino backends need optimum, which does not go with transformers 5: the graph is made and run here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import model_validator

from operators.batch import Batch, object_array
from operators.embedders._onnx import (
    OWN_GRAPH,
    SENTENCES,
    check_installed,
    cosine_loss,
    find_graph,
    open_graph,
    versions,
    write_json,
)
from operators.embedders._sentence_modules import load_usual, usual_modules
from operators.embedders._tokens import TokensConfig, narrowed, window_of
from operators.embedders._torch import DTYPES, TorchEmbedder
from operators.embedders._transformers import read_json, tensors_alone, width_of
from operators.embedders.base import short_hash
from operators.errors import SpecError

BODY_CONFIGS = tuple(
    f"sentence_{body}_config.json"
    for body in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
DOCUMENT_PROMPTS = ("document", "passage", "corpus")  # names that `encode_document` looks for, in its order


class Config(TokensConfig):
    """A sentence-transformers model: a folder or a hub id.

    Prompts are put before the text; where they are None the model's own (`config_sentence_transformers.json`) hold.
    `max_tokens` narrows the model's window. `backend` runs the transformer: torch, or onnxruntime or openvino on the
    model's own `onnx/model.onnx` or, where it has none, one that is exported once; the modules behind it stay torch's.
    `precision: int8` quantises that graph; how far its vectors are from fp32 is measured (`embedder.measured`).
    """

    younger_fields: ClassVar[frozenset[str]] = TokensConfig.younger_fields | {"backend", "precision"}
    requires: ClassVar[tuple[str, ...]] = ("sentence_transformers", "tokenizers", "torch")
    extra: ClassVar[str | None] = "sentence-transformers"
    covers: ClassVar[str] = (
        "MiniLM, MPNet, E5, LaBSE, Stella, Jina, ModernBERT, NV-Embed, Qwen3 and whatever sbert.net loads"
    )

    family: Literal["sentence_transformers"] = "sentence_transformers"
    backend: Literal["torch", "onnx", "openvino"] = "torch"
    precision: Literal["fp32", "int8"] = "fp32"

    lowercase: bool | None = None  # filled in by `resolve`

    @model_validator(mode="after")
    def graphs_have_their_precision(self) -> Self:
        """`compute_dtype` and `compile` are torch's, `precision` is the other backends'."""
        if self.backend == "torch" and self.precision != "fp32":
            raise ValueError("precision int8 needs `backend: onnx` or `backend: openvino`")
        if self.backend != "torch" and (self.compute_dtype != "fp32" or self.compile):
            raise ValueError(f"compute_dtype and compile are for `backend: torch`; {self.backend} has `precision`")
        return self

    @property
    def graphs(self) -> tuple[str, ...]:
        """Patterns of files that the backend reads beside the torch model's."""
        return () if self.backend == "torch" else OWN_GRAPH

    def resolve(self) -> Self:
        """Pin the revision and read dimension, window and prompts from the model's files.

        Raises `ModelNotFound` where the files are not those pinned, `SpecError` where the model brings untrusted code,
        `MissingExtra` where the backend is not installed.
        """
        if self.backend != "torch":
            check_installed(self.backend)
        folder, revision = self.pin(self.graphs)
        body = next((found for name in BODY_CONFIGS if (found := read_json(folder / name))), {})
        prompts = read_json(folder / "config_sentence_transformers.json")
        named = {name: prompt for name, prompt in (prompts.get("prompts") or {}).items() if prompt is not None}
        default = named.get(prompts.get("default_prompt_name") or "", "")
        document = next((named[name] for name in DOCUMENT_PROMPTS if name in named), default)
        found = {
            "revision": revision,
            "lowercase": bool(body.get("do_lower_case", False)),
            "max_tokens": narrowed(body.get("max_seq_length") or window_of(folder), self.max_tokens, folder),
            "document_prompt": document if self.document_prompt is None else self.document_prompt,
            "query_prompt": named.get("query", default) if self.query_prompt is None else self.query_prompt,
        }
        if (found["document_prompt"] or found["query_prompt"]) and prompts_left_out(folder):
            raise SpecError(
                f"model '{self.model}' leaves its prompts out of pooling, which this family cannot do.\n"
                '  Set document_prompt and query_prompt to "", or take another model.'
            )
        return self.sized(dimension_of(folder), **found)

    def preparation_key(self) -> str:
        """Models of one folder that cut and prompt alike share their token ids."""
        return self.tokens_key()

    def load(self, device: str, threads: int | None = None) -> SentenceTransformerEmbedder:
        """Load the weights onto `device`; `threads` bounds the backend's CPU threads in this process.

        Raises `ModelNotFound` where there are no weights, or none that load without running code.
        """
        folder, commit = self.find_weights(self.graphs)
        if self.backend != "torch":
            self.resolve()  # what is made of the files is kept under the revision that they are to have
        try:
            model = self._load_model(folder, commit)
        except ImportError as failure:
            raise self.missing_extra() from failure
        self.check_tokenizer(model.tokenizer)
        if self.backend == "torch":
            return SentenceTransformerEmbedder(model, self, device, threads)
        return self._with_graph(model, folder, device, threads)

    def _load_model(self, folder: Path, commit: str | None) -> Any:
        """The model on the CPU: as its usual modules, or as the library loads it."""
        usual = usual_modules(folder) if self.backend == "torch" and self.compute_dtype == "fp32" else None
        if usual is not None and not self.trust_remote_code:
            return load_usual(folder, usual, self)
        import torch
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        logging.disable_progress_bar()
        with tensors_alone(self.model):
            return SentenceTransformer(
                str(folder),
                device="cpu",
                revision=None if commit is None else self.revision,
                trust_remote_code=self.trust_remote_code,
                local_files_only=True,  # all that the revision covers is in the folder
                # `weights_only`, or the model's own files could switch it off; `dtype`, or they would choose it
                model_kwargs={"weights_only": True, "dtype": getattr(torch, DTYPES[self.compute_dtype])},
            )

    def _with_graph(self, model: Any, folder: Path, device: str, threads: int | None) -> SentenceTransformerEmbedder:
        """The model with its transformer run by the backend. For int8 its loss is measured once, and kept by the graph."""
        text = getattr(model[0], "modality_config", {}).get("text", {})
        if (text.get("method"), text.get("method_output_name")) != ("forward", "last_hidden_state"):
            raise SpecError(f"model '{self.model}' gives no hidden states of a text.\n  Use `backend: torch`.")
        body = model[0].model
        assert self.revision is not None, "resolve() first"
        graph = find_graph(body, folder, self.revision, self.precision)
        kept = graph.with_name(f"loss-{short_hash([self.fingerprint_fields(), *versions(self.backend)])}.json")
        wanted = self.precision == "int8" and not kept.is_file()
        sentences = self.prepare({"text": object_array(SENTENCES)}, "document")
        exact = SentenceTransformerEmbedder(model, self, "cpu", threads).embed(sentences) if wanted else None
        del model[0].model
        model[0].model = open_graph(graph, self.backend, device, threads, body.config, self.precision == "int8")
        # What is left of the model in torch is small, and stays on the CPU.
        embedder = SentenceTransformerEmbedder(model, self, "cpu", threads)
        if exact is not None:
            write_json(kept, cosine_loss(exact, embedder.embed(sentences)))
        embedder.measured = read_json(kept)
        return embedder

    def _cased(self, texts: Sequence[str]) -> list[str]:
        return [text.lower() for text in texts] if self.lowercase else list(texts)


class SentenceTransformerEmbedder(TorchEmbedder):
    """A loaded model; see `Config`.

    `measured` holds `int8_cosine_loss_mean` and `int8_cosine_loss_max` for a quantised model: cosine distances of its
    vectors from those in fp32, over `SENTENCES`.
    """

    config: Config
    measured: dict[str, float]

    def __init__(self, model: Any, config: Config, device: str, threads: int | None = None) -> None:
        super().__init__(model, config, device, threads)
        self.measured = {}

    def forward(self, prepared: Batch) -> Any:
        """Vectors of token ids, padded to the longest row."""
        tokenizer = self.model.tokenizer
        ids, mask = self.padded(prepared["input_ids"], tokenizer.pad_token_id or 0, tokenizer.padding_side == "left")
        return self.model({"input_ids": ids.long(), "attention_mask": mask})["sentence_embedding"]


def prompts_left_out(folder: Path) -> bool:
    """Whether a pooling module of the model leaves the tokens of a prompt out (Instructor models do)."""
    configs = (read_json(path) for path in folder.glob("*_Pooling/config.json"))
    return any(config.get("include_prompt") is False for config in configs)


def dimension_of(folder: Path) -> int:
    """Length of the vectors, from the configuration of the last module that changes it."""
    modules = (
        json.loads((folder / "modules.json").read_text(encoding="utf-8")) if (folder / "modules.json").is_file() else []
    )
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
    return width_of(folder)
