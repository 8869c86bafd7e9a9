"""Tiny models of images, and of images and text, with random weights, saved as transformers saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SIDE, PATCH = 32, 8
SIZES = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
VISION = {**SIZES, "image_size": SIDE, "patch_size": PATCH}
BEGIN, END, PADDING = 0, 1, 2  # tokens
VOCABULARY = 3 + 256


def write_tokenizer(folder: Path, window: int, begin: bool) -> None:
    """Bytes as tokens, with marks around a text; at its end alone unless `begin`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {name: number for number, name in enumerate(["<s>", "</s>", "<pad>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    splits = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if begin else "$A </s>", special_tokens=[("<s>", BEGIN), ("</s>", END)]
    )
    marks = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=window, **marks).save_pretrained(folder)


def write_model(folder: Path, kind: str, **chosen: Any) -> Path:
    """A model of a kind of transformers ("vit", "clip") with its usual image processor, at 32 pixels."""
    import torch
    import transformers
    from transformers import CONFIG_MAPPING, AutoModel

    configs: dict[str, dict[str, Any]] = {
        "vit": VISION,
        "deit": VISION,
        "beit": VISION,
        "dinov2": {**VISION, "mlp_ratio": 2},
        "dinov2_with_registers": {**VISION, "mlp_ratio": 2, "num_register_tokens": 3},
        "dinov3_vit": {**VISION, "num_register_tokens": 2},
        "swin": {
            "image_size": SIDE,
            "patch_size": 4,
            "embed_dim": 8,
            "depths": [1, 1],
            "num_heads": [1, 2],
            "window_size": 4,
        },
        "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
        "convnext": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
    }
    configs["clip"] = {
        "vision_config": VISION,
        "text_config": {
            **SIZES,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 77,
            "bos_token_id": BEGIN,
            "eos_token_id": END,
            "pad_token_id": PADDING,
        },
        "projection_dim": 20,
    }
    configs["siglip"] = {
        "vision_config": VISION,
        "text_config": {
            **SIZES,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 64,
            "bos_token_id": BEGIN,
            "eos_token_id": END,
            "pad_token_id": PADDING,
        },
    }
    side = {"height": SIDE, "width": SIDE}
    processors: dict[str, tuple[str, dict[str, Any]]] = {
        "beit": ("BeitImageProcessor", {"size": side, "do_center_crop": False}),
        "dinov3_vit": ("DINOv3ViTImageProcessor", {"size": side}),
        "convnext": ("ConvNextImageProcessor", {"size": {"shortest_edge": SIDE}}),
        "resnet": ("ConvNextImageProcessor", {"size": {"shortest_edge": SIDE}}),
        "clip": ("CLIPImageProcessor", {"size": {"shortest_edge": SIDE}, "crop_size": side}),
        "siglip": ("SiglipImageProcessor", {"size": side}),
    }
    name, framing = processors.get(kind, ("ViTImageProcessor", {"size": side}))
    torch.manual_seed(0)
    model = AutoModel.from_config(CONFIG_MAPPING[kind](**{**configs[kind], **chosen}))
    with torch.no_grad():
        for parameter in model.parameters():  # what begins as nought or one would hide a mistake
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    getattr(transformers, name)(**framing).save_pretrained(folder)
    if kind in ("clip", "siglip"):
        write_tokenizer(folder, 77 if kind == "clip" else 64, begin=kind == "clip")
    return folder


def write_open_clip(folder: Path, **chosen: Any) -> Path:
    """A CLIP of open_clip, saved as open_clip does, with its own tokenizer; `chosen` are parts of its configuration."""
    import json

    import open_clip
    import torch
    from safetensors.torch import save_file

    description = {
        "model_cfg": {
            "embed_dim": 20,
            "vision_cfg": {"image_size": SIDE, "layers": 2, "width": 64, "head_width": 32, "patch_size": PATCH},
            "text_cfg": {"context_length": 30, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
            **chosen.pop("model_cfg", {}),
        },
        "preprocess_cfg": {"size": SIDE, **chosen},
    }
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(description))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}")
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder
