"""A sentence-transformers model of a few kilobytes, and files that run code where they are trusted wrongly."""

from __future__ import annotations

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
