"""Sounds as files in every format that is decoded, and models of sound of a few kilobytes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np


def tone(seconds: float = 1.0, rate: int = 16_000, pitch: float = 440, seed: int = 0) -> np.ndarray:
    """A tone in a little noise, float32 (n,)."""
    count = round(seconds * rate)
    noise = np.random.default_rng(seed).standard_normal(count)
    return (0.3 * np.sin(2 * np.pi * pitch * np.arange(count) / rate) + 0.01 * noise).astype(np.float32)


def sndfile_bytes(
    samples: np.ndarray, rate: int = 16_000, form: str = "WAV", subtype: str | None = None, **options: object
) -> bytes:
    """A file that libsndfile writes of samples (n,) or (n, channels)."""
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=form, subtype=subtype, **options)
    return file.getvalue()


def ffmpeg_bytes(samples: np.ndarray, rate: int, container: str, codec: str, layout: str = "mono") -> bytes:
    """A file that ffmpeg writes of samples (n,) or (channels, n); "pipe:…" is a container that cannot be gone back in."""
    import av

    class Pipe(io.BytesIO):
        seek = None  # type: ignore[assignment]

    name = container.removeprefix("pipe:")
    file = Pipe() if name != container else io.BytesIO()
    with av.open(file, "w", format=name) as out:
        stream = out.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.atleast_2d(samples), format="fltp", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        for packet in (*stream.encode(frame), *stream.encode(None)):
            out.mux(packet)
    return file.getvalue()


# Speech models of a few kilobytes: a name, the model type, and what makes it another model than the type's smallest.
SPEECH = {
    "wav2vec2-group": ("wav2vec2", {"feat_extract_norm": "group"}),
    "wav2vec2-layer": ("wav2vec2", {"feat_extract_norm": "layer", "do_stable_layer_norm": True}),
    "wav2vec2-adapter": ("wav2vec2", {"feat_extract_norm": "layer", "add_adapter": True, "output_hidden_size": 16}),
    "hubert-group": ("hubert", {"feat_extract_norm": "group"}),
    "hubert-layer": ("hubert", {"feat_extract_norm": "layer", "do_stable_layer_norm": True}),
    "hubert-batch": ("hubert", {"feat_extract_norm": "layer", "conv_pos_batch_norm": True}),
    "wavlm-group": ("wavlm", {"feat_extract_norm": "group"}),
    "wavlm-layer": ("wavlm", {"feat_extract_norm": "layer", "do_stable_layer_norm": True}),
    "data2vec": ("data2vec-audio", {}),
    "whisper": ("whisper", {}),
}


def write_speech_model(folder: Path, name: str) -> Path:
    """Write a model of `SPEECH` with random weights, two blocks of 16 numbers, and its feature extractor, at 16 kHz."""
    import torch
    import transformers

    kind, more = SPEECH[name]
    torch.manual_seed(0)
    if kind == "whisper":
        body = transformers.WhisperConfig(
            vocab_size=16,
            d_model=16,
            encoder_layers=2,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=32,
            decoder_ffn_dim=16,
            num_mel_bins=8,
            max_source_positions=150,
            max_target_positions=8,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
            suppress_tokens=None,
            begin_suppress_tokens=None,
        )
        transformers.WhisperModel(body).save_pretrained(folder)
        transformers.WhisperFeatureExtractor(feature_size=8, chunk_length=3).save_pretrained(folder)
        return folder
    body = transformers.AutoConfig.for_model(
        kind,
        vocab_size=16,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(8, 8, 8),
        conv_kernel=(10, 4, 4),
        conv_stride=(5, 4, 4),
        num_feat_extract_layers=3,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
        conv_pos_kernel_size=3,
        num_adapter_layers=1,
        **more,
    )
    model = transformers.AutoModel.from_config(body)
    for values in model.buffers():  # what batch normalisation has seen in training
        if values.is_floating_point():
            values.copy_(torch.rand_like(values) + 0.5)
    model.save_pretrained(folder)
    masks = more.get("feat_extract_norm") != "group"
    transformers.Wav2Vec2FeatureExtractor(do_normalize=masks, return_attention_mask=masks).save_pretrained(folder)
    return folder


def write_clap(folder: Path, fusion: bool = False) -> Path:
    """Write a CLAP with random weights, with vectors of 16 numbers: sounds of 2 seconds at 48 kHz, texts of 64 tokens."""
    import torch
    import transformers
    from model_maker import learn_tokenizer

    tokenizer = learn_tokenizer("<s>", "</s>", "<pad>")
    marks = {"cls_token": "<s>", "sep_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **marks).save_pretrained(
        folder
    )
    transformers.ClapFeatureExtractor(
        feature_size=16, max_length_s=2, truncation="fusion" if fusion else "rand_trunc"
    ).save_pretrained(folder)
    text = {
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 66,
        "initializer_factor": 10.0,
    }
    sound = {
        "num_mel_bins": 16,
        "spec_size": 64,
        "window_size": 4,
        "patch_embeds_hidden_size": 8,
        "hidden_size": 16,
        "depths": [1, 1],
        "num_attention_heads": [2, 2],
        "mlp_ratio": 2.0,
        "enable_fusion": fusion,
        "fusion_type": "aff_2d" if fusion else None,
        "aff_block_r": 2,
        "initializer_factor": 10.0,
    }
    torch.manual_seed(0)
    config = transformers.ClapConfig(text_config=text, audio_config=sound, projection_dim=16, initializer_factor=10.0)
    model = transformers.ClapModel(config)
    for name, values in model.named_buffers():  # what batch normalisation has seen in training
        if "running" in name:
            values.copy_(torch.rand_like(values) + 0.5)
    model.save_pretrained(folder)
    return folder
