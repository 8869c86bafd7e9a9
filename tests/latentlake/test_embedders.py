"""Embedding without a job: one interface over the families, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import latentlake
from latentlake.embedders import MultimodalEmbedder, find_config
from operators.embedders import config_class, family_names
from operators.errors import SpecError, UnknownName
from operators.presets import find_preset, preset_names

RED, BLUE = Image.new("RGB", (40, 30), (200, 10, 10)), Image.new("RGB", (40, 30), (10, 10, 200))


@pytest.fixture(scope="module")
def texts(minilm: str) -> latentlake.ModelEmbedder:
    return latentlake.create_text_embedder("sentence-transformers", minilm, device="cpu", threads=1)


def test_text_equals_the_library(texts: latentlake.ModelEmbedder, minilm: str):
    from sentence_transformers import SentenceTransformer

    values = ["a cat sat on the mat", "stocks fell", "a cat sat on the mat " * 40]
    expected = SentenceTransformer(minilm, device="cpu").encode(values)
    vectors = texts.embed_batch(values)
    assert (vectors.dtype, texts.dimension, texts.modalities) == (np.float32, 384, {"text"})
    np.testing.assert_allclose(vectors, expected, atol=1e-4)
    np.testing.assert_allclose(texts.embed(values[1]), expected[1], atol=1e-4)
    assert texts.embed_batch([]).shape == (0, 384)


def test_similarity(texts: latentlake.ModelEmbedder):
    alike, apart = texts.similarity("a cat sat", "a kitten sat"), texts.similarity("a cat sat", "bond yields")
    assert 1 > alike > apart > -1
    assert texts.similarity("a cat", texts.embed("a cat")) == pytest.approx(1, abs=1e-5)
    a, b = texts.embed_batch(["a cat", "a dog"])
    assert texts.similarity(a, b) == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    assert texts.similarity(a, b, metric="euclidean") == pytest.approx(-np.linalg.norm(a - b))
    assert texts.similarity(np.zeros(384, np.float32), a) == 0
    with pytest.raises(UnknownName, match=r"no metric 'manhattan'. Available: cosine, euclidean"):
        texts.similarity(a, b, metric="manhattan")  # type: ignore[arg-type]


def test_roles_differ_by_their_prompts(minilm: str):
    prompted = latentlake.create_text_embedder(
        "sentence-transformers", minilm, device="cpu", threads=1, query_prompt="query: ", document_prompt=""
    )
    plain = prompted.embed("query: cats")
    np.testing.assert_allclose(prompted.embed("cats", role="query"), plain, atol=1e-5)
    assert np.abs(prompted.embed("cats") - plain).max() > 1e-3


def test_files_are_read(texts: latentlake.ModelEmbedder, tmp_path: Path):
    (tmp_path / "a.txt").write_text("a cat sat")
    np.testing.assert_array_equal(texts.embed(tmp_path / "a.txt"), texts.embed("a cat sat"))
    RED.save(tmp_path / "red.png")
    images = latentlake.create_image_embedder("hashing", dim=32)
    np.testing.assert_array_equal(images.embed(tmp_path / "red.png"), images.embed(RED))
    with pytest.raises(SpecError, match=r"cannot read file .*nowhere.txt"):
        texts.embed(tmp_path / "nowhere.txt")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (RED, "this model embeds text; the input is image"),
        (3, "an input cannot be of type int"),
        ("", "input 0 cannot be embedded: .*empty"),
    ],
)
def test_what_a_text_embedder_refuses(texts: latentlake.ModelEmbedder, value: Any, message: str):
    with pytest.raises(SpecError, match=message):
        texts.embed(value)


def test_the_input_that_is_refused_is_named(texts: latentlake.ModelEmbedder, tmp_path: Path):
    (tmp_path / "bad.txt").write_bytes(b"\x00\x01\x02\xff" * 40)
    with pytest.raises(SpecError, match=r"input 1 cannot be embedded: decode: not text"):
        texts.embed_batch(["fine", tmp_path / "bad.txt"])


def test_a_path_is_meant_where_a_name_is_given(tmp_path: Path):
    with pytest.raises(SpecError, match=r"wrap a file's name in pathlib.Path"):
        latentlake.create_image_embedder("hashing").embed("picture.png")


@pytest.mark.parametrize(
    ("framework", "settings", "message"),
    [
        ("minilmm", {}, "no framework or preset 'minilmm'. Did you mean 'minilm'"),
        ("sentence-transformers", {}, "model: Field required"),
        ("hashing", {"dims": 3}, "dims: Extra inputs are not permitted"),
    ],
)
def test_what_cannot_be_created(framework: str, settings: dict[str, Any], message: str):
    with pytest.raises(SpecError, match=message):
        latentlake.create_text_embedder(framework, **settings)


def test_a_family_of_another_modality():
    with pytest.raises(SpecError, match=r"'sentence_transformers' embeds text, not image"):
        latentlake.create_image_embedder("minilm")


def test_modalities_of_different_models_do_not_compare(minilm: str, tmp_path: Path):
    both = latentlake.create_multimodal_embedder("hashing", "hashing", device="cpu")
    RED.save(tmp_path / "red.png")
    assert both.similarity(RED, tmp_path / "red.png") == pytest.approx(1)
    assert both.similarity("a cat", "a cat") == pytest.approx(1)
    with pytest.raises(SpecError, match=r"text and image are embedded by different models .* different spaces"):
        both.similarity("a red square", RED)
    with pytest.raises(SpecError, match=r"no embedder for audio; this one takes image, text"):
        both.embed((np.zeros(16_000), 16_000))
    vectors = both.embed_batch(["a", RED, "b"])
    np.testing.assert_array_equal(vectors[1], both.embed(RED))
    np.testing.assert_array_equal(vectors[2], both.embed("b"))
    with pytest.raises(SpecError, match=r"at least one of text, image and audio"):
        latentlake.create_multimodal_embedder()


def test_sound_is_a_file_or_samples_with_their_rate(tmp_path: Path):
    soundfile = pytest.importorskip("soundfile")
    from sound_maker import tone, write_speech_model

    model = write_speech_model(tmp_path / "model", "wav2vec2-layer")
    sounds = latentlake.create_audio_embedder("transformers", str(model), device="cpu", threads=1)
    samples = tone(0.5, rate=8_000)
    soundfile.write(tmp_path / "tone.wav", samples, 8_000, subtype="FLOAT")
    of_samples = sounds.embed((samples, 8_000))
    np.testing.assert_allclose(sounds.embed(tmp_path / "tone.wav"), of_samples, atol=1e-5)
    np.testing.assert_allclose(sounds.embed_batch([tmp_path / "tone.wav", (samples, 8_000)])[1], of_samples, atol=1e-5)
    for wrong, message in (
        ((np.zeros((2, 9)), 8_000), "finite numbers of shape"),
        ((np.array([np.nan]), 8_000), "finite numbers of shape"),
        ((np.zeros(0), 8_000), "an input cannot be embedded: no samples"),
        (samples, "cannot be of type ndarray"),
    ):
        with pytest.raises(SpecError, match=message):
            sounds.embed(wrong)


def test_a_joint_model_compares_text_and_images(tmp_path: Path):
    pytest.importorskip("open_clip")
    from image_models import write_open_clip

    model = str(write_open_clip(tmp_path / "clip"))
    both = latentlake.create_multimodal_embedder(
        "open_clip", "open_clip", text_model=model, image_model=model, device="cpu", threads=1
    )
    assert isinstance(both, MultimodalEmbedder) and both.embedder("text") is both.embedder("image")
    expected = both.embed("a red square") @ both.embed(RED)
    lengths = np.linalg.norm(both.embed("a red square")) * np.linalg.norm(both.embed(RED))
    assert both.similarity("a red square", RED) == pytest.approx(expected / lengths, abs=1e-5)


# presets and families


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_a_valid_config_of_its_family(name: str):
    preset = find_preset(name)
    config = config_class(preset.family)(**preset.settings)
    modality = sorted(config.modalities)[0]
    assert find_config(modality, name) == config
    assert getattr(config, "revision", None) is None  # none is invented
    assert all(source.startswith("https://") for source in preset.sources.values())


def test_available_embedders():
    found = {one["family"]: one for one in latentlake.get_available_embedders()}
    assert set(found) == set(family_names())
    assert found["sentence_transformers"]["status"] == "ready" and "minilm" in found["sentence_transformers"]["presets"]
    for one in found.values():
        assert one["covers"] and one["modalities"]


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(config_class("sentence_transformers"), "requires", ("no_such_module",))
    found = {one["family"]: one for one in latentlake.get_available_embedders()}["sentence_transformers"]
    assert (found["status"], found["missing"]) == ("missing extra", ["no_such_module"])
    assert found["install"] == "pip install 'latentlake[sentence-transformers]'"


def test_listing_families_loads_none_of_them():
    code = (
        "import sys, latentlake; latentlake.get_available_embedders(); "
        "print(sorted({'torch', 'transformers', 'timm', 'open_clip', 'ray', 'soundfile', 'onnxruntime'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
