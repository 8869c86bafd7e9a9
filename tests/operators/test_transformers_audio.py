"""The family beside plain transformers: `AutoFeatureExtractor` and `AutoModel`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from libraries import library
from model_maker import Payload, change_json
from sound_maker import SPEECH, tone, write_speech_model

from operators.batch import Batch, RowError, Waveform, make_batch, object_array
from operators.embedders.transformers_audio import Config, receptive_field
from operators.errors import ModelNotFound, SpecError, UnknownName

torch = library("torch")
transformers = library("transformers")
soxr = library("soxr")

RATE = 16_000
SOUNDS = [Waveform(tone(s, RATE, 200 * k + 300, k), RATE) for k, s in enumerate((0.5, 0.013, 2.9, 0.5, 1.3))]
POOLINGS = ("mean", "max", "first", "mean_std")
MASKED = {"wav2vec2-layer", "hubert-layer", "wavlm-layer"}


def batch_of(sounds: list[Waveform]) -> Batch:
    return {
        **make_batch([str(k) for k in range(len(sounds))], [b""] * len(sounds)),
        "audio": object_array(sounds),
    }


def embed(config: Config, sounds: list[Waveform], embedder: Any = None) -> np.ndarray:
    embedder = embedder or config.load("cpu", threads=1)
    return embedder.embed(config.prepare(batch_of(sounds), "document"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("speech")
    return {name: write_speech_model(root / name, name) for name in SPEECH}


def plain_states(folder: Path, sounds: list[np.ndarray], padding: bool = False) -> list[list[Any]]:
    """Hidden states of each sound, by layer, of its own frames; one after the other, or padded to one batch."""
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    whisper = model.config.model_type == "whisper"
    encoder = model.get_encoder() if whisper else model
    found = []
    for group in [sounds] if padding else [[sound] for sound in sounds]:
        more = {"return_attention_mask": True} if whisper else {"padding": True}
        inputs = extractor(group, sampling_rate=RATE, return_tensors="pt", **more)
        with torch.no_grad():
            output = encoder(**inputs, output_hidden_states=True)
        for index in range(len(group)):
            layers = [*output.hidden_states[:-1], output.last_hidden_state]
            if whisper:
                places = -(-int(inputs["attention_mask"][index].sum()) // 2)
            elif padding:
                mask = model._get_feature_vector_attention_mask(layers[-1].shape[1], inputs["attention_mask"])
                places = int(mask[index].sum())
            else:
                places = layers[-1].shape[1]
            found.append([layer[index, :places] for layer in layers])
    return found


def plain_pool(states: Any, pooling: str) -> np.ndarray:
    made = {
        "mean": lambda: states.mean(0),
        "max": lambda: states.max(0).values,
        "first": lambda: states[0],
        "mean_std": lambda: torch.cat([states.mean(0), states.std(0, correction=0)]),
    }
    return made[pooling]().numpy()


@pytest.mark.parametrize("name", SPEECH)
def test_vectors_are_those_of_transformers(name: str, folders: dict[str, Path]):
    states = plain_states(folders[name], [sound.samples for sound in SOUNDS])
    for pooling in POOLINGS:
        config = Config(model=str(folders[name]), pooling=pooling).resolve()
        assert config.dimension == (32 if pooling == "mean_std" else 16)
        expected = np.stack([plain_pool(layers[-1], pooling) for layers in states])
        assert np.abs(expected).max() > 0.1
        np.testing.assert_allclose(embed(config, SOUNDS), expected, atol=1e-4)


@pytest.mark.parametrize("name", sorted(MASKED))
def test_a_batch_padded_by_transformers_gives_the_same(name: str, folders: dict[str, Path]):
    states = plain_states(folders[name], [sound.samples for sound in SOUNDS], padding=True)
    expected = np.stack([plain_pool(layers[-1], "mean_std") for layers in states])
    config = Config(model=str(folders[name]), pooling="mean_std").resolve()
    np.testing.assert_allclose(embed(config, SOUNDS), expected, atol=1e-4)


@pytest.mark.parametrize("name", SPEECH)
def test_only_models_that_padding_leaves_alone_are_padded(name: str, folders: dict[str, Path]):
    """The others are those whose vectors transformers' own padding would change."""
    if name == "whisper":
        return
    embedder = Config(model=str(folders[name])).resolve().load("cpu", threads=1)
    assert embedder.masks == (name in MASKED)
    windows = {"frames": np.array([5, 9, 5]), "cost": np.array([5, 9, 5])}
    assert [group.tolist() for group in embedder.groups(windows)] == ([[0, 1, 2]] if embedder.masks else [[0, 2], [1]])


@pytest.mark.parametrize("name", ["wav2vec2-layer", "wav2vec2-group", "whisper"])
@pytest.mark.parametrize("layers", [(0,), (1,), (0, 2), (-2, -1)])
def test_layers_are_those_of_transformers(name: str, layers: tuple[int, ...], folders: dict[str, Path]):
    states = plain_states(folders[name], [sound.samples for sound in SOUNDS])
    ways = {"mean": lambda s: s.mean(0), "sum": lambda s: s.sum(0), "max": lambda s: s.amax(0)}
    for how in (*ways, "concat"):
        config = Config(model=str(folders[name]), layers=layers, aggregate=how, pooling="max").resolve()
        expected = []
        for row in states:
            chosen = [row[layer] for layer in layers]
            joined = torch.cat(chosen, dim=-1) if how == "concat" else ways[how](torch.stack(chosen))
            expected.append(plain_pool(joined, "max"))
        np.testing.assert_allclose(embed(config, SOUNDS), np.stack(expected), atol=1e-4)


@pytest.mark.parametrize("name", ["wav2vec2-group", "hubert-layer", "whisper"])
def test_a_long_sound_is_the_mean_of_its_windows(name: str, folders: dict[str, Path]):
    config = Config(model=str(folders[name]), window_seconds=0.5, overlap_seconds=0.1).resolve()
    long = tone(1.7, RATE)
    starts = [0, 6_400, 12_800, 19_200]  # and the last, moved back to end with the sound
    windows = [Waveform(long[start : start + 8_000], RATE) for start in starts]
    assert starts[-1] + 8_000 == len(long)
    expected = np.stack([plain_pool(s[-1], "mean") for s in plain_states(folders[name], [w.samples for w in windows])])
    prepared = config.prepare(batch_of([Waveform(long, RATE), SOUNDS[1]]), "document")
    assert prepared["windows"].tolist() == [4, 1]
    vectors = config.load("cpu", threads=1).embed(prepared)
    np.testing.assert_allclose(vectors[0], expected.mean(0), atol=1e-4)
    odd = Config(model=str(folders[name]), window_seconds=1.0).resolve()
    moved = [long[:16_000], long[-16_000:]]
    expected = np.stack([plain_pool(states[-1], "mean") for states in plain_states(folders[name], moved)])
    np.testing.assert_allclose(embed(odd, [Waveform(long, RATE)])[0], expected.mean(0), atol=1e-4)


def test_windows_of_a_long_sound_run_in_small_batches(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch):
    config = Config(model=str(folders["hubert-layer"]), window_seconds=0.5).resolve()
    embedder = config.load("cpu", threads=1)
    sizes: list[int] = []
    run = embedder.model.forward
    monkeypatch.setattr(
        embedder.model, "forward", lambda values, **more: (sizes.append(len(values)), run(values, **more))[1]
    )
    monkeypatch.setattr("operators.embedders.transformers_audio.SECONDS_A_BATCH", {"cpu": 2})
    embed(config, [Waveform(tone(5.0), RATE)], embedder)
    assert sizes == [4, 4, 2]


def test_sound_is_brought_to_the_rate_of_the_model(folders: dict[str, Path]):
    config = Config(model=str(folders["wav2vec2-layer"])).resolve()
    assert (config.rate, config.do_normalize, config.window_seconds) == (RATE, True, 30.0)
    recorded = tone(0.8, 44_100)
    states = plain_states(folders["wav2vec2-layer"], [soxr.resample(recorded, 44_100, RATE, quality="HQ")])
    vectors = embed(config, [Waveform(recorded, 44_100)])
    np.testing.assert_allclose(vectors[0], plain_pool(states[0][-1], "mean"), atol=1e-4)


def test_the_job_may_say_otherwise_than_the_models_files(folders: dict[str, Path]):
    for name in ("wav2vec2-group", "whisper"):
        vectors = [
            embed(Config(model=str(folders[name]), do_normalize=normalizes).resolve(), SOUNDS[:1])
            for normalizes in (None, False, True)
        ]
        np.testing.assert_array_equal(vectors[0], vectors[1])
        assert np.abs(vectors[1] - vectors[2]).max() > 1e-3
    slow = Config(model=str(folders["whisper"]), rate=8_000).resolve()
    assert slow.rate == 8_000
    extractor = transformers.WhisperFeatureExtractor(feature_size=8, chunk_length=3, sampling_rate=8_000)
    sound = tone(1.0, 8_000)
    made = extractor(sound, sampling_rate=8_000, return_tensors="np")["input_features"][0]
    prepared = slow.prepare(batch_of([Waveform(sound, 8_000)]), "document")
    kept = prepared["values"][0].reshape(8, -1)
    np.testing.assert_allclose(kept, made[:, : kept.shape[1]], atol=1e-5)


def test_normalised_spectrograms_are_those_of_whisper(folders: dict[str, Path]):
    config = Config(model=str(folders["whisper"]), do_normalize=True).resolve()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folders["whisper"])
    model = transformers.AutoModel.from_pretrained(folders["whisper"]).eval().get_encoder()
    inputs = extractor(SOUNDS[4].samples, sampling_rate=RATE, do_normalize=True, return_tensors="pt")
    with torch.no_grad():
        states = model(inputs["input_features"]).last_hidden_state[0, : 130 // 2]
    np.testing.assert_allclose(embed(config, SOUNDS[4:])[0], plain_pool(states, "mean"), atol=1e-4)


@pytest.mark.parametrize("seconds", [0.001, 0.5, 2.98, 2.99, 2.9925, 3.0])
def test_the_silence_that_whisper_pads_with_does_not_travel(seconds: float, folders: dict[str, Path]):
    config = Config(model=str(folders["whisper"])).resolve()
    sound = tone(seconds)
    prepared = config.prepare(batch_of([Waveform(sound, RATE)]), "document")
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folders["whisper"])
    whole = extractor(sound, sampling_rate=RATE, return_tensors="np")["input_features"][0]
    kept = prepared["values"][0].reshape(8, -1)
    assert kept.shape[1] <= min(300, 100 * seconds + 4)
    filled = np.concatenate([kept, np.repeat(kept[:, -1:], 300 - kept.shape[1], axis=1)], axis=1)
    np.testing.assert_array_equal(filled, whole)
    assert prepared["cost"].tolist() == [3 * RATE]


def test_a_sound_that_is_too_short_is_rejected(folders: dict[str, Path]):
    config = Config(model=str(folders["wav2vec2-layer"])).resolve()
    assert config.receptive_field == receptive_field((10, 4, 4), (5, 4, 4)) == 85
    assert receptive_field((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)) == 400  # wav2vec 2.0: 25 ms
    assert embed(config, [Waveform(tone(85 / RATE), RATE)]).shape == (1, 16)
    with pytest.raises(RowError, match=r"^0\.005 seconds are 84 samples at 16000 Hz; the model needs 85$"):
        config.prepare(batch_of([Waveform(tone(84 / RATE), RATE)]), "document")


def test_models_of_one_kind_of_preparation_share_it(folders: dict[str, Path]):
    def key(**fields: Any) -> str:
        return Config(model=str(folders["wav2vec2-layer"]), **fields).resolve().preparation_key()

    assert key() == key(pooling="max", layers=(0,), normalize=True, compute_dtype="bf16", truncate_dim=2)
    assert (
        len({key(), key(window_seconds=1.0), key(do_normalize=False), key(rate=8_000), key(overlap_seconds=1.0)}) == 5
    )


def test_windows_that_cannot_be(folders: dict[str, Path]):
    with pytest.raises(SpecError, match=r"window_seconds is 4, and model '.*whisper' takes 3 seconds at most"):
        Config(model=str(folders["whisper"]), window_seconds=4.0).resolve()
    with pytest.raises(SpecError, match=r"overlap_seconds is 30, and a window has 30 seconds"):
        Config(model=str(folders["hubert-group"]), overlap_seconds=30.0).resolve()


def test_layers_that_are_not_there(folders: dict[str, Path]):
    for name in ("hubert-group", "whisper"):
        with pytest.raises(SpecError, match=r"layers 0 \(embeddings\) to 2, or -3 to -1; not 3"):
            Config(model=str(folders[name]), layers=(3,)).resolve()
    with pytest.raises(SpecError, match=r"ends in an adapter, behind its layers: take `layers: \[-1\]`"):
        Config(model=str(folders["wav2vec2-adapter"]), layers=(1,)).resolve()


def test_models_of_another_kind_are_refused(folders: dict[str, Path], tmp_path: Path):
    transformers.BertConfig(vocab_size=8).save_pretrained(tmp_path)
    with pytest.raises(UnknownName, match=r"no model type of transformers_audio 'bert'[\s\S]*wav2vec2"):
        Config(model=str(tmp_path)).resolve()
    (tmp_path / "config.json").unlink()
    with pytest.raises(ModelNotFound, match=r"has no config\.json that names its model_type"):
        Config(model=str(tmp_path)).resolve()


def test_a_folder_that_is_not_whole(tmp_path: Path):
    folder = write_speech_model(tmp_path / "m", "hubert-group")
    config = Config(model=str(folder)).resolve()
    (folder / "model.safetensors").rename(tmp_path / "elsewhere")
    with pytest.raises(ModelNotFound, match=r"has no weights \(\*\.safetensors\)"):
        config.load("cpu")
    torch.save({"weight": Payload(tmp_path / "it ran")}, folder / "pytorch_model.bin")
    with pytest.raises(ModelNotFound, match="do not load as tensors alone"):
        config.load("cpu")
    assert not (tmp_path / "it ran").exists()
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ModelNotFound, match=r"has no preprocessor_config\.json[\s\S]*save_pretrained"):
        Config(model=str(folder)).resolve()


def test_random_weights_are_refused(tmp_path: Path):
    folder = write_speech_model(tmp_path / "m", "wavlm-layer")
    change_json(folder / "config.json", num_hidden_layers=3)
    with pytest.raises(ModelNotFound, match=r"lack .* of those of WavLMModel"):
        Config(model=str(folder)).resolve().load("cpu")


def test_a_model_saved_with_its_head_loads(tmp_path: Path, folders: dict[str, Path]):
    for name, kind in (("wav2vec2-layer", "Wav2Vec2ForCTC"), ("whisper", "WhisperForConditionalGeneration")):
        model = getattr(transformers, kind).from_pretrained(folders[name])
        model.save_pretrained(tmp_path / name)
        transformers.AutoFeatureExtractor.from_pretrained(folders[name]).save_pretrained(tmp_path / name)
        vectors = [embed(Config(model=str(root / name)).resolve(), SOUNDS) for root in (tmp_path, folders[name].parent)]
        np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)


def test_half_precision(folders: dict[str, Path]):
    for name in ("wav2vec2-layer", "wav2vec2-group", "whisper"):
        exact = embed(Config(model=str(folders[name])).resolve(), SOUNDS)
        rough = embed(Config(model=str(folders[name]), compute_dtype="bf16").resolve(), SOUNDS)
        assert rough.dtype == np.float32
        cosine = (exact * rough).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rough, axis=1)
        assert cosine.min() > 0.9 and np.abs(exact - rough).max() > 0


def test_preparation_of_samples_loads_no_torch(folders: dict[str, Path]):
    config = Config(model=str(folders["wav2vec2-layer"])).resolve()
    code = """
import json, sys
import numpy as np
from operators.batch import Waveform, make_batch, object_array
from operators.embedders.transformers_audio import Config
assert not {"torch", "transformers", "soxr"} & set(sys.modules)
config = Config(**json.loads(sys.argv[1]))
batch = {**make_batch(["a"], [b""]), "audio": object_array([Waveform(np.ones(9_000, np.float32), 44_100)])}
config.prepare(batch, "document")
assert "torch" not in sys.modules
"""
    arguments = [sys.executable, "-c", code, json.dumps(config.model_dump(mode="json"))]
    subprocess.run(arguments, check=True)
