"""A sentence-transformers model of a few kilobytes, and files that run code where they are trusted wrongly."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

OWN_MODULE = """
from pathlib import Path
from sentence_transformers.models import Normalize

Path({ran!r}).touch()

class Own(Normalize):
    def __init__(self):
        super().__init__()
        Path({ran!r}).touch()
"""
WORDS = ("compare", "two", "strings", "open", "a", "file")


def write_model(folder: Path) -> Path:
    """Write a Bert of one layer with random weights, 8 numbers wide, with a window of 16 tokens."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel

    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(("[PAD]", "[UNK]", *WORDS))}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=8, max_position_embeddings=16, **sizes)).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    tokens = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    write_json(folder / "tokenizer_config.json", tokens)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 16})
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 8, "pooling_mode_mean_tokens": True})
    write_modules(folder, "sentence_transformers.models.Transformer", "sentence_transformers.models.Pooling")
    return folder


def write_modules(folder: Path, *types: str) -> None:
    """Make a model of modules of these types, the first of which lies in the folder itself."""
    names = [kind.rsplit(".", 1)[-1] for kind in types]
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{name}" if i else "", "type": kind}
        for i, (name, kind) in enumerate(zip(names, types, strict=True))
    ]
    write_json(folder / "modules.json", modules)


def write_own_module(folder: Path, ran: Path) -> Path:
    """Add a module of the model's own, which makes the vectors unit vectors; its file touches `ran` when its code runs."""
    types = ("sentence_transformers.models.Transformer", "sentence_transformers.models.Pooling", "modeling_own.Own")
    write_modules(folder, *types)
    (folder / "modeling_own.py").write_text(OWN_MODULE.format(ran=str(ran)))
    return folder


def write_json(path: Path, value: Any) -> None:
    """Write a file of JSON, and its folder."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value))


def change_json(path: Path, **changes: Any) -> None:
    """Change keys of a file of JSON."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


class Payload:
    """What touches `target` when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return (Path.touch, (self.target,))


PROSE = (
    "a short one to learn from, and parse the options of a command line; say what is wrong with them",
    "run a function every few seconds: the quick brown fox jumps over the lazy dog, sentence number 12",
    "word words punctuation grüße 世界 composed",
)


def write_transformer(folder: Path, kind: str) -> Path:
    """Write a transformer of two blocks with random weights, 16 numbers wide, with a window of 64 tokens, and its tokenizer.

    `kind`: "bert", "roberta", "modernbert" and "t5" put marks around a text; "gpt2" and "llama" have neither these nor a
    token for padding. "bart" has no class for its encoder alone.
    """
    import torch
    import transformers

    tokens = {
        "bert": ("[CLS]", "[SEP]", "[PAD]"),
        "modernbert": ("[CLS]", "[SEP]", "[PAD]"),
        "roberta": ("<s>", "</s>", "<pad>"),
        "bart": ("<s>", "</s>", "<pad>"),
        "t5": (None, "</s>", "<pad>"),
    }.get(kind, (None, None, None))
    tokenizer = learn_tokenizer(*tokens)
    first, last, padding = (tokenizer.token_to_id(token) if token else None for token in tokens)
    known = {"cls_token": tokens[0], "sep_token": tokens[1], "eos_token": tokens[1], "pad_token": tokens[2]}
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=64, **{name: token for name, token in known.items() if token}
    ).save_pretrained(folder)

    ids = {
        "vocab_size": tokenizer.get_vocab_size(),
        "pad_token_id": padding,
        "bos_token_id": first,
        "eos_token_id": last,
    }
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, **ids}
    marks = {"cls_token_id": first, "sep_token_id": last}
    sides = ("encoder", "decoder")
    bart = {
        f"{side}_{name}": size
        for side in sides
        for name, size in {"layers": 2, "attention_heads": 2, "ffn_dim": 24}.items()
    }
    classes: dict[str, tuple[str, dict[str, Any]]] = {
        "bert": ("Bert", {**sizes, "max_position_embeddings": 64}),
        "roberta": ("Roberta", {**sizes, "max_position_embeddings": 64 + (padding or 0) + 1}),
        "modernbert": ("ModernBert", {**sizes, **marks, "max_position_embeddings": 64, "local_attention": 8}),
        "gpt2": ("GPT2", {**ids, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}),
        "llama": ("Llama", {**sizes, "max_position_embeddings": 64}),
        "t5": ("T5", {**ids, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}),
        "bart": ("Bart", {**ids, **bart, "d_model": 16, "max_position_embeddings": 64}),
    }
    name, options = classes[kind]
    torch.manual_seed(0)
    # Wide enough that rows differ by more than rounding.
    spread = {"t5": {}, "bart": {"init_std": 0.5}}.get(kind, {"initializer_range": 0.5})
    config = getattr(transformers, f"{name}Config")(**options, **spread)
    getattr(transformers, f"{name}Model")(config).save_pretrained(folder)
    return folder


def learn_tokenizer(first: str | None, last: str | None, padding: str | None) -> Any:
    """A byte-level BPE of a few hundred tokens, which puts `first` and `last` around a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    marks = [token for token in (first, padding, last) if token]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=marks, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(PROSE, trainer)
    if last:
        around = [(token, tokenizer.token_to_id(token)) for token in (first, last) if token]
        template = " ".join(token for token in (first, "$A", last) if token)
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=around)
    return tokenizer


def write_graph(folder: Path, output: str = "last_hidden_state", extra: str = "token_type_ids") -> Path:
    """Add the ONNX graph of a folder's transformer where published models have it, with an input more."""
    import torch
    from transformers import AutoModel

    class Body(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = AutoModel.from_pretrained(folder).eval()

        def forward(self, input_ids: Any, attention_mask: Any, more: Any) -> Any:
            return self.body(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=more)[0]

    (folder / "onnx").mkdir(exist_ok=True)
    ids, mask = torch.ones((2, 5), dtype=torch.int64), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    torch.onnx.export(
        Body().eval(),
        (ids, mask, torch.zeros_like(ids)),
        folder / "onnx" / "model.onnx",
        input_names=["input_ids", "attention_mask", extra],
        output_names=[output],
        dynamo=True,
        dynamic_shapes=(axes, axes, axes),
        verbose=False,
    )
    return folder


def write_word_vectors(path: Path, vectors: dict[str, Any], header: bool = True, binary: bool = False) -> Path:
    """Write word vectors as word2vec does (`header`, `binary`), or GloVe (neither), packed where the path ends in .gz."""
    dim = len(next(iter(vectors.values())))
    content = f"{len(vectors)} {dim}\n".encode() if header else b""
    for word, vector in vectors.items():
        values = vector.astype("<f4").tobytes() if binary else " ".join(map(str, vector.tolist())).encode()
        content += word.encode() + b" " + values + b"\n"
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_static(folder: Path, normalize: bool = False, **arrays: Any) -> Path:
    """Write a model2vec model of 8 numbers a token, with `arrays` (weights, token_mapping) beside its random vectors."""
    import numpy as np
    from model2vec import StaticModel

    tokenizer = learn_tokenizer(None, None, None)
    rows = int(arrays["token_mapping"].max()) + 1 if "token_mapping" in arrays else tokenizer.get_vocab_size()
    vectors = np.random.default_rng(0).standard_normal((rows, 8)).astype(np.float32)
    StaticModel(vectors, tokenizer, normalize=normalize, **arrays).save_pretrained(folder)
    return folder
