"""BERT (https://arxiv.org/abs/1810.04805) in torch alone.

transformers' own imports 1,700 modules that it does not need, which take twice the time of torch itself. Whatever a folder
asks for beyond the plain encoder is left to transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from operators.embedders._transformers import read_json

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "model.safetensors"
# What a config.json may say of these; transformers takes the same where it is silent.
PLAIN: dict[str, Any] = {
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "chunk_size_feed_forward": 0,
    "pruned_heads": {},
    "quantization_config": None,
    "auto_map": None,
}
# What transformers takes where a config.json is silent.
SIZES: dict[str, Any] = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
}


def load_bert(folder: Path) -> Any | None:
    """A torch module from `input_ids` and `attention_mask`, int64 (n, length), to hidden states float32 (n, length, width).

    None where the folder holds something else than a plain BERT with all its weights in one file of tensors: transformers is
    then to load it, or to say what is wrong with it.
    """
    options = read_json(folder / "config.json")
    if options.get("model_type") != "bert" or not (folder / WEIGHTS).is_file():
        return None
    if any(options.get(name, value) != value for name, value in PLAIN.items()):
        return None
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    model = encoder({**SIZES, **options})
    wanted = model.state_dict()
    try:
        found = {name.removeprefix("bert."): tensor for name, tensor in load_file(folder / WEIGHTS).items()}
        model.load_state_dict({name: found[name].float() for name in wanted}, assign=True)
    except (SafetensorError, KeyError, RuntimeError):  # damaged, lacking, or of other shapes
        return None
    return model


def encoder(sizes: dict[str, Any]) -> Any:
    """The module of `load_bert`, whose parts have the names that the files give them."""
    import torch
    from torch import nn
    from torch.nn.functional import gelu, scaled_dot_product_attention

    width, inner, heads = sizes["hidden_size"], sizes["intermediate_size"], sizes["num_attention_heads"]

    class Linear(nn.Linear):
        """One that the weights will fill."""

        def reset_parameters(self) -> None:
            """Not with random numbers; torch's meta device, which has none, imports sympy and the compiler."""

    class Embedding(nn.Embedding):
        """One that the weights will fill."""

        def reset_parameters(self) -> None:
            """Nor this."""

    def norm() -> nn.LayerNorm:
        return nn.LayerNorm(width, eps=sizes["layer_norm_eps"])

    class Layer(nn.Module):
        """Attention, then two dense layers, each added to what came in."""

        def __init__(self) -> None:
            super().__init__()
            attention = nn.ModuleDict({name: Linear(width, width) for name in ("query", "key", "value")})
            attended = nn.ModuleDict({"dense": Linear(width, width), "LayerNorm": norm()})
            self.attention = nn.ModuleDict({"self": attention, "output": attended})
            self.intermediate = nn.ModuleDict({"dense": Linear(width, inner)})
            self.output = nn.ModuleDict({"dense": Linear(inner, width), "LayerNorm": norm()})

        def forward(self, states: Tensor, mask: Tensor | None) -> Tensor:
            """`states` are (n, length, width)."""
            attention, after = self.attention["self"], self.attention["output"]
            split = (*states.shape[:2], heads, width // heads)
            query, key, value = (
                attention[name](states).view(split).transpose(1, 2) for name in ("query", "key", "value")
            )
            found = scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)
            states = after["LayerNorm"](after["dense"](found.reshape(states.shape)) + states)
            wide = gelu(self.intermediate["dense"](states))
            return self.output["LayerNorm"](self.output["dense"](wide) + states)

    class Bert(nn.Module):
        """See `load_bert`."""

        def __init__(self) -> None:
            super().__init__()
            places, kinds = sizes["max_position_embeddings"], sizes["type_vocab_size"]
            self.embeddings = nn.ModuleDict(
                {
                    "word_embeddings": Embedding(sizes["vocab_size"], width),
                    "position_embeddings": Embedding(places, width),
                    "token_type_embeddings": Embedding(kinds, width),
                    "LayerNorm": norm(),
                }
            )
            layers = nn.ModuleList(Layer() for _ in range(sizes["num_hidden_layers"]))
            self.encoder = nn.ModuleDict({"layer": layers})

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            """See `load_bert`."""
            parts = self.embeddings
            states = parts["word_embeddings"](input_ids) + parts["token_type_embeddings"].weight[0]
            states = parts["LayerNorm"](states + parts["position_embeddings"].weight[: input_ids.shape[1]])
            whole = not torch.compiler.is_compiling() and bool(attention_mask.all())  # without a mask it is faster
            mask = None if whole else attention_mask[:, None, None, :].bool()
            for layer in self.encoder["layer"]:
                states = layer(states, mask)
            return states

    return Bert()
