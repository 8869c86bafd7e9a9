"""The family beside plain transformers: `ClapModel` with its feature extractor and its tokenizer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from libraries import library
from sound_maker import tone, write_clap, write_speech_model

from operators.batch import Batch, Waveform, make_batch, object_array
from operators.embedders.clap import Config
from operators.errors import SpecError, UnknownName

torch = library("torch")
transformers = library("transformers")
soxr = library("soxr")

RATE = 48_000
SOUNDS = [Waveform(tone(s, RATE, 300 * k + 200, k), RATE) for k, s in enumerate((0.5, 0.013, 2.0, 1.99, 1.2))]
TEXTS = ["a dog", "the sound of a cat, far away", "grüße 世界", "word " * 200]


def sounds_of(sounds: list[Waveform]) -> Batch:
    return {**make_batch([str(k) for k in range(len(sounds))], [b""] * len(sounds)), "audio": object_array(sounds)}


def texts_of(texts: list[str]) -> Batch:
    return {**make_batch([str(k) for k in range(len(texts))], texts), "text": object_array(texts)}


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "fusion"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clap(tmp_path_factory.mktemp("clap"), request.param)


def plain_vectors(folder: Path, sounds: list[np.ndarray]) -> np.ndarray:
    """What the library makes of each sound alone."""
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    model = transformers.ClapModel.from_pretrained(folder).eval()
    made = []
    for sound in sounds:
        inputs = extractor(sound, sampling_rate=RATE, return_tensors="pt")
        with torch.no_grad():
            made.append(model.get_audio_features(**inputs).pooler_output[0].numpy())
    return np.stack(made)


def test_vectors_of_sounds_are_those_of_transformers(folder: Path):
    config = Config(model=str(folder)).resolve()
    assert (config.dimension, config.rate, config.window_seconds, config.joint) == (16, RATE, 2.0, True)
    vectors = config.load("cpu", threads=1).embed(config.prepare(sounds_of(SOUNDS), "document"))
    expected = plain_vectors(folder, [sound.samples for sound in SOUNDS])
    assert np.abs(expected - expected[0]).max() > 0.01
    np.testing.assert_allclose(vectors, expected, atol=1e-4)


def test_vectors_of_texts_are_those_of_transformers(folder: Path):
    config = Config(model=str(folder)).resolve()
    assert config.max_tokens == 64
    prepared = config.prepare(texts_of(TEXTS), "query")
    vectors = config.load("cpu", threads=1).embed(prepared)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.ClapModel.from_pretrained(folder).eval()
    inputs = tokenizer(TEXTS, padding=True, truncation=True, max_length=64, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    with torch.no_grad():
        expected = model.get_text_features(**inputs).pooler_output.numpy()
    np.testing.assert_allclose(vectors, expected, atol=1e-4)
    assert prepared["truncated"].tolist() == [False, False, False, True]


def test_prompts_are_for_text_by_role(folder: Path):
    config = Config(model=str(folder), query_prompt="the sound of ", document_prompt="this is ").resolve()
    plain = Config(model=str(folder)).resolve()
    for role, prompt in (("query", "the sound of "), ("document", "this is ")):
        ours = config.prepare(texts_of(["a dog"]), role)["input_ids"][0]
        np.testing.assert_array_equal(ours, plain.prepare(texts_of([prompt + "a dog"]), role)["input_ids"][0])


def test_a_long_sound_is_the_mean_of_its_windows(folder: Path):
    config = Config(model=str(folder), overlap_seconds=0.5).resolve()
    embedder = config.load("cpu", threads=1)
    long = np.concatenate([tone(1.5, RATE, pitch) for pitch in (200, 900, 3_000)])
    prepared = config.prepare(sounds_of([Waveform(long, RATE), SOUNDS[0]]), "document")
    assert prepared["windows"].tolist() == [3, 1] and prepared["cost"].tolist() == [603, 201]
    vectors = embedder.embed(prepared)
    windows = [long[start : start + 96_000] for start in (0, 72_000, len(long) - 96_000)]
    mean = plain_vectors(folder, windows).mean(axis=0)
    np.testing.assert_allclose(vectors[0], mean / np.linalg.norm(mean), atol=1e-4)
    np.testing.assert_array_equal(embedder.embed(prepared), vectors)  # where the library would draw a part by lot


def test_sound_is_brought_to_the_rate_of_the_model(folder: Path):
    config = Config(model=str(folder)).resolve()
    recorded = tone(0.8, 16_000)
    vectors = config.load("cpu", threads=1).embed(config.prepare(sounds_of([Waveform(recorded, 16_000)]), "query"))
    expected = plain_vectors(folder, [soxr.resample(recorded, 16_000, RATE, quality="HQ")])
    np.testing.assert_allclose(vectors, expected, atol=1e-4)


def test_a_spectrogram_is_as_large_as_is_told(folder: Path):
    config = Config(model=str(folder)).resolve()
    prepared = config.prepare(sounds_of(SOUNDS[:1]), "document")
    assert prepared["values"][0].nbytes <= config.prepared_bytes()


def test_models_of_another_kind_are_refused(folder: Path, tmp_path: Path):
    other = write_speech_model(tmp_path / "m", "wav2vec2-group")
    with pytest.raises(UnknownName, match="no model type of clap 'wav2vec2'"):
        Config(model=str(other)).resolve()
    with pytest.raises(SpecError, match=r"window_seconds is 3, and model '.*' takes 2 seconds at most"):
        Config(model=str(folder), window_seconds=3.0).resolve()
