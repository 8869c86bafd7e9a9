from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from operators.batch import Batch, Waveform, make_batch, object_array
from operators.errors import SpecError
from operators.preprocess import find_operator
from operators.preprocess.audio import (
    limit_duration,
    normalize_loudness,
    resample,
    trim_silence,
    window_audio,
)

pytest.importorskip("soxr")
pyloudnorm = pytest.importorskip("pyloudnorm")

OPERATORS = {
    "resample": {"rate": 16_000},
    "trim_silence": {},
    "normalize_loudness": {},
    "limit_duration": {"max_seconds": 0.2, "action": "cut"},
    "window_audio": {"seconds": 0.2},
}


def tone(seconds: float, rate: int = 8_000, pitch: float = 440, level: float = 0.5) -> Waveform:
    times = np.arange(round(seconds * rate)) / rate
    return Waveform((level * np.sin(2 * np.pi * pitch * times)).astype(np.float32), rate)


def silence(seconds: float, rate: int = 8_000) -> np.ndarray:
    return np.zeros(round(seconds * rate), dtype=np.float32)


def sound_batch(*sounds: Waveform) -> Batch:
    names = [str(k) for k in range(len(sounds))]
    return {**make_batch(names, [b""] * len(names)), "audio": object_array(sounds)}


@pytest.mark.parametrize(("name", "params"), OPERATORS.items(), ids=list(OPERATORS))
def test_every_operator_keeps_its_rows_apart_and_its_types(name: str, params: dict[str, object]):
    found = find_operator(name)
    units = [position.unit for position in found.positions]
    assert found.modalities == ("audio",) and found.at_query == (not units)
    assert units == (["time_ms", "time_ms"] if name == "window_audio" else [])
    sounds = [tone(0.5), tone(0.1, 44_100), tone(1.3, 22_050, 99)]
    together = found.apply(sound_batch(*sounds), **params)
    assert all(error is None for error in together["error"])
    assert all(sound.samples.dtype == np.float32 and sound.samples.ndim == 1 for sound in together["audio"])
    if name != "resample":
        assert [s.rate for s in together["audio"][[0, -1]]] == [8_000, 22_050]
    alone = [sound for one in sounds for sound in found.apply(sound_batch(one), **params)["audio"]]
    for ours, expected in zip(together["audio"], alone, strict=True):
        np.testing.assert_array_equal(ours.samples, expected.samples)


@pytest.mark.parametrize(("name", "params"), OPERATORS.items(), ids=list(OPERATORS))
def test_rejected_rows_pass_and_the_input_survives(name: str, params: dict[str, object]):
    batch = sound_batch(tone(0.5), tone(0.5))
    before = batch["audio"][1].samples.copy()
    batch["error"][0], batch["audio"][0] = "decode: empty", None
    out = find_operator(name).apply(batch, **params)
    assert out["audio"][0] is None and out["error"][0] == "decode: empty" and out["error"][1] is None
    np.testing.assert_array_equal(batch["audio"][1].samples, before)
    assert list(find_operator(name).apply(sound_batch(), **params)["id"]) == []


# resample


@pytest.mark.parametrize(("source", "target"), [(8_000, 16_000), (44_100, 16_000), (96_000, 48_000), (16_000, 22_050)])
def test_a_tone_is_the_same_tone_at_another_rate(source: int, target: int):
    (out,) = resample(sound_batch(tone(1.0, source)), rate=target)["audio"]
    assert (out.rate, len(out.samples)) == (target, target)
    middle = slice(target // 10, -target // 10)
    np.testing.assert_allclose(out.samples[middle], tone(1.0, target).samples[middle], atol=1e-3)


def test_what_a_lower_rate_cannot_hold_is_filtered_out():
    (out,) = resample(sound_batch(tone(1.0, 48_000, 12_000)), rate=16_000)["audio"]
    assert np.abs(out.samples[800:-800]).max() < 1e-3


def test_resampling_says_what_it_cannot_do(monkeypatch: pytest.MonkeyPatch):
    same = tone(0.1, 16_000)
    assert resample(sound_batch(same), rate=16_000)["audio"][0] is same
    monkeypatch.setattr("operators.preprocess.audio.MAX_SAMPLES", 1_000)
    out = resample(sound_batch(Waveform(np.ones(1, np.float32), 48_000), tone(0.1)), rate=16_000)
    assert list(out["error"]) == [
        "resample: 1 samples would become none, at 16000 Hz",
        "resample: 800 samples would become more than 1000, at 16000 Hz: limit_duration before it keeps long sounds out, or cuts them",
    ]


# trim_silence


def test_silence_around_a_sound_is_cut_and_between_is_kept():
    inner = np.concatenate([tone(0.3).samples, silence(0.2), tone(0.3).samples])
    padded = Waveform(np.concatenate([silence(0.5), inner, silence(0.7)]), 8_000)
    (out,) = trim_silence(sound_batch(padded))["audio"]
    np.testing.assert_array_equal(out.samples, inner)
    (out,) = trim_silence(sound_batch(padded), margin_s=0.1)["audio"]
    np.testing.assert_array_equal(out.samples, np.concatenate([silence(0.1), inner, silence(0.1)]))
    (out,) = trim_silence(sound_batch(padded), margin_s=9.0)["audio"]
    np.testing.assert_array_equal(out.samples, padded.samples)


def test_the_threshold_counts_from_the_loudest_stretch():
    rng = np.random.default_rng(0)
    noise = (1e-3 * rng.standard_normal(4_000)).astype(np.float32)  # about 50 dB below the tone
    for level in (1.0, 0.01):
        sound = Waveform(np.concatenate([noise, tone(0.5).samples, noise]) * np.float32(level), 8_000)
        assert len(trim_silence(sound_batch(sound), threshold_db=-40)["audio"][0].samples) == 4_000
        assert len(trim_silence(sound_batch(sound), threshold_db=-70)["audio"][0].samples) == 12_000


def test_nothing_but_silence_is_filtered():
    out = trim_silence(sound_batch(Waveform(silence(1), 8_000), Waveform(np.ones(1, np.float32), 8_000)))
    assert list(out["filtered"]) == ["trim_silence: nothing but silence", None]
    assert len(out["audio"][1].samples) == 1


# normalize_loudness


@pytest.mark.parametrize("seconds", [0.4, 1.0, 5.0])
def test_the_loudness_is_what_was_asked_for(seconds: float):
    sounds = [tone(seconds, 16_000, level=level) for level in (0.003, 0.1, 0.9)]
    for target in (-14.0, -23.0, -40.0):
        for out in normalize_loudness(sound_batch(*sounds), target_lufs=target)["audio"]:
            assert pyloudnorm.Meter(16_000).integrated_loudness(out.samples) == pytest.approx(target, abs=0.01)


def test_short_sounds_are_measured_as_a_whole():
    short = [tone(seconds, 16_000, level=0.01) for seconds in (0.3, 0.05, 0.001)]
    out = normalize_loudness(sound_batch(*short), target_lufs=-20.0)["audio"]
    for sound, before in zip(out, short, strict=True):
        meter = pyloudnorm.Meter(16_000, block_size=sound.seconds)
        assert meter.integrated_loudness(sound.samples.astype(np.float64)) == pytest.approx(-20, abs=0.01)
        gain = sound.samples[1:] / before.samples[1:]
        np.testing.assert_allclose(gain, gain[0], rtol=1e-5)


def test_silence_has_no_loudness_and_stays():
    sounds = [Waveform(silence(1), 8_000), tone(1, level=1e-6), Waveform(silence(0.01), 8_000)]
    out = normalize_loudness(sound_batch(*sounds))
    assert [sound is before for sound, before in zip(out["audio"], sounds, strict=True)] == [True] * 3


def test_peaks_are_not_clipped():
    (out,) = normalize_loudness(sound_batch(tone(1, 16_000)), target_lufs=0.0)["audio"]
    assert np.abs(out.samples).max() > 1


# limit_duration


def test_sounds_of_the_wrong_length_are_filtered_or_cut():
    batch = sound_batch(tone(0.2), tone(1.0), tone(3.0))
    out = limit_duration(batch, min_seconds=0.5, max_seconds=2.0)
    assert list(out["filtered"]) == [
        "limit_duration: 0.20 seconds, shorter than 0.5",
        None,
        "limit_duration: 3.00 seconds, longer than 2",
    ]
    out = limit_duration(batch, max_seconds=2.0, action="cut")
    assert [len(sound.samples) for sound in out["audio"]] == [1_600, 8_000, 16_000]
    np.testing.assert_array_equal(out["audio"][2].samples, batch["audio"][2].samples[:16_000])
    assert list(limit_duration(batch)["filtered"]) == [None] * 3


# window_audio


def test_windows_cover_the_sound_and_say_where_they_lie():
    rng = np.random.default_rng(0)
    sound = Waveform(rng.standard_normal(8_000 * 5 + 1_234).astype(np.float32), 8_000)
    out = window_audio(sound_batch(tone(0.5), sound), seconds=2.0, overlap_seconds=0.5)
    assert list(out["id"]) == ["0#0", "1#0", "1#1", "1#2", "1#3"] and list(out["object_id"]) == ["0", *"1111"]
    assert [out[name].dtype for name in ("chunk", "start", "end")] == [np.int64] * 3
    assert out["chunk"].tolist() == [0, 0, 1, 2, 3]
    assert out["start"].tolist() == [0, 0, 1500, 3000, 3154]
    assert out["end"].tolist() == [500, 2000, 3500, 5000, 5154]
    for window, start in zip(out["audio"][1:], (0, 12_000, 24_000, 25_234), strict=True):
        np.testing.assert_array_equal(window.samples, sound.samples[start : start + 16_000])


@pytest.mark.parametrize(("samples", "windows"), [(1, 1), (800, 1), (801, 2), (1_600, 2), (1_601, 3)])
def test_the_last_window_is_as_long_as_the_others(samples: int, windows: int):
    sound = Waveform(np.arange(samples, dtype=np.float32), 8_000)
    out = window_audio(sound_batch(sound), seconds=0.1)["audio"]
    assert len(out) == windows and {len(w.samples) for w in out} == {min(samples, 800)}
    assert set(np.concatenate([w.samples for w in out]).tolist()) == set(range(samples))


def test_windows_that_cannot_be():
    with pytest.raises(SpecError, match=r"overlap_seconds is 1, and a window has 1 seconds"):
        window_audio(sound_batch(tone(1)), seconds=1.0, overlap_seconds=1.0)
    out = window_audio(sound_batch(tone(3)), seconds=1.0)
    with pytest.raises(SpecError, match="the rows are parts of objects already"):
        window_audio(out, seconds=1.0)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("resample", {"rate": 10}),
        ("resample", {}),
        ("trim_silence", {"threshold_db": 3}),
        ("trim_silence", {"margin_s": -1}),
        ("normalize_loudness", {"target_lufs": 1}),
        ("limit_duration", {"max_seconds": 0}),
        ("limit_duration", {"action": "drop"}),
        ("window_audio", {"seconds": 0}),
        ("window_audio", {"seconds": float("inf")}),
    ],
)
def test_bad_parameters_are_refused(name: str, params: dict[str, object]):
    with pytest.raises(ValidationError):
        find_operator(name).params.model_validate(params)
