"""sentence-transformers models of the usual modules, run without that library: its import alone takes 13 s of CPU.

Transformer, Pooling and Normalize are all that most models have. Whatever else a model's files name is left to the library.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from operators.embedders._pooling import pool_places
from operators.embedders._transformers import FolderConfig, read_json, read_model

# Architectures that the library loads by `AutoModel`, and calls with token ids and mask alone.
BODIES = frozenset(
    [
        "albert",
        "bert",
        "camembert",
        "deberta-v2",
        "distilbert",
        "electra",
        "modernbert",
        "mpnet",
        "roberta",
        "xlm-roberta",
    ]
)
BODY_KEYS = frozenset({"max_seq_length", "do_lower_case"})
POOLINGS = {"mean": "mean_tokens", "cls": "cls_token", "max": "max_tokens"}  # ours, and the older name of the library's


@dataclass(frozen=True)
class Usual:
    """What the modules behind the transformer do: pool in one way, then perhaps scale to length 1."""

    pooling: str
    normalize: bool


def usual_modules(folder: Path) -> Usual | None:
    """The modules of a model's folder; None where they are not the usual ones."""
    path = folder / "modules.json"
    modules = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    kinds = [module["type"].rsplit(".", 1)[-1] for module in modules]
    ours = all(module["type"].startswith("sentence_transformers.") for module in modules)
    if not ours or kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]):
        return None
    bodies = [read_json(path) for path in folder.glob("sentence_*_config.json")]
    if modules[0]["path"] or len(bodies) != 1 or set(bodies[0]) - BODY_KEYS:
        return None
    if read_json(folder / "config.json").get("model_type") not in BODIES:
        return None
    pooling = pooling_of(read_json(folder / modules[1]["path"] / "config.json"))
    return None if pooling is None else Usual(pooling, len(kinds) == 3)


def pooling_of(config: dict[str, Any]) -> str | None:
    """The one way in which a Pooling module pools; None for one of its other ways, or several."""
    if not config.get("include_prompt", True):
        return None
    named = config.get("pooling_mode")
    if named is not None:
        modes = [named] if isinstance(named, str) else list(named)
    else:
        on = [name.removeprefix("pooling_mode_") for name, value in config.items() if value is True]
        older = {name: ours for ours, name in POOLINGS.items()}
        modes = [older.get(name, name) for name in on if name != "include_prompt"]
    return modes[0] if len(modes) == 1 and modes[0] in POOLINGS else None


def load_usual(folder: Path, usual: Usual, config: FolderConfig) -> Any:
    """A torch module that is called as the library's model is: token ids and mask to `sentence_embedding`; with its tokenizer.

    Raises `ModelNotFound` where weights are missing, or are not tensors alone.
    """
    import torch
    from transformers import AutoModel, AutoTokenizer

    class UsualModel(torch.nn.Module):
        """Transformer, pooling, and scaling."""

        def __init__(self) -> None:
            super().__init__()
            self.body = read_model(AutoModel, folder, config)
            self.tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)

        def forward(self, features: dict[str, Any]) -> dict[str, Any]:
            """See `load_usual`."""
            states = self.body(**features).last_hidden_state
            vectors = pool_places(states, features["attention_mask"], usual.pooling)
            if usual.normalize:
                vectors = torch.nn.functional.normalize(vectors, p=2, dim=1)
            return {"sentence_embedding": vectors}

    return UsualModel()
