from __future__ import annotations

import random
import struct
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sound_maker import ffmpeg_bytes, sndfile_bytes, tone

from operators.batch import Waveform, make_batch
from operators.decode import find_decoder
from operators.decode.audio import decode, decoded_bytes
from operators.errors import MissingExtra

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("av")

RATE = 16_000
SOUND = tone()


def decode_one(content: object) -> tuple[Waveform | None, str | None]:
    batch = decode(make_batch(["a"], [content]))
    sound, error = batch["audio"][0], batch["error"][0]
    assert (sound is None) != (error is None)
    if sound is not None:
        assert type(sound) is Waveform and sound.samples.dtype == np.float32 and sound.samples.ndim == 1
        assert len(sound.samples) and np.isfinite(sound.samples).all()
    return sound, error


def decoded(content: bytes) -> Waveform:
    sound, error = decode_one(content)
    assert error is None
    assert sound is not None
    return sound


@cache
def file_of(name: str) -> bytes:
    """One second of `SOUND` in a format."""
    library, form, codec = name.split("/")
    if library == "sndfile":
        return sndfile_bytes(SOUND, RATE, form, codec)
    rate = 48_000 if codec == "libopus" else RATE
    return ffmpeg_bytes(tone(1.0, rate), rate, form, codec)


def test_is_the_modality_audio():
    module = find_decoder("audio")
    assert (module.COLUMN, module.VERSION) == ("audio", 1)


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("sndfile/WAV/PCM_16", 2**-15),
        ("sndfile/WAV/PCM_24", 2**-23),
        ("sndfile/WAV/PCM_U8", 2**-7),
        ("sndfile/WAV/PCM_32", 2**-24),
        ("sndfile/WAV/FLOAT", 0),
        ("sndfile/WAV/DOUBLE", 0),
        ("sndfile/RF64/PCM_16", 2**-15),
        ("sndfile/WAVEX/PCM_16", 2**-15),
        ("sndfile/AIFF/PCM_16", 2**-15),
        ("sndfile/AIFF/PCM_S8", 2**-7),
        ("sndfile/FLAC/PCM_16", 2**-15),
        ("sndfile/FLAC/PCM_24", 2**-23),
        ("ffmpeg/flac/flac", 2**-15),
        ("ffmpeg/pipe:flac/flac", 2**-15),  # does not tell its length
        ("ffmpeg/pipe:wav/pcm_s16le", 2**-15),
        ("ffmpeg/mov/pcm_s16le", 2**-15),
        ("ffmpeg/matroska/flac", 2**-15),
    ],
)
def test_lossless_formats(name: str, step: float):
    sound = decoded(file_of(name))
    assert (sound.rate, len(sound.samples)) == (RATE, RATE)
    np.testing.assert_allclose(sound.samples, SOUND, atol=step, rtol=0)


@pytest.mark.parametrize(
    "name",
    [
        "sndfile/WAV/ULAW",
        "sndfile/WAV/IMA_ADPCM",
        "sndfile/OGG/VORBIS",
        "sndfile/OGG/OPUS",
        "sndfile/MP3/MPEG_LAYER_III",
        "ffmpeg/mp3/libmp3lame",
        "ffmpeg/ogg/libopus",
        "ffmpeg/ipod/aac",
        "ffmpeg/mp4/aac",
        "ffmpeg/pipe:adts/aac",
        "ffmpeg/wav/adpcm_ms",
        "ffmpeg/wav/aac",  # a codec that libsndfile does not know there
        "ffmpeg/webm/libopus",
        "ffmpeg/matroska/aac",
    ],
)
def test_lossy_formats(name: str):
    sound = decoded(file_of(name))
    plain = tone(1.0, sound.rate)
    assert len(plain) <= len(sound.samples) <= len(plain) + 0.15 * sound.rate
    # Bare AAC starts with what its encoder had to put before the sound.
    lags = [np.corrcoef(sound.samples[lag : lag + 14_000], plain[:14_000])[0, 1] for lag in (0, 1024)]
    assert max(lags) > 0.99
    assert sound.rate == (48_000 if "ffmpeg" in name and "opus" in name else RATE)


@pytest.mark.parametrize("form", ["WAV", "FLAC", "AIFF"])
def test_channels_are_averaged(form: str):
    channels = np.stack([tone(0.2, 96_000, pitch) for pitch in (200, 300, 400, 500, 600, 700)], axis=1)
    sound = decoded(sndfile_bytes(channels, 96_000, form, "PCM_24"))
    assert sound.rate == 96_000
    np.testing.assert_allclose(sound.samples, channels.mean(axis=1), atol=2**-22)


def test_channels_of_ffmpeg_are_averaged():
    channels = np.stack([tone(0.5, RATE, 300), tone(0.5, RATE, 900)])
    sound = decoded(ffmpeg_bytes(channels, RATE, "ipod", "aac", "stereo"))
    assert np.corrcoef(sound.samples[:8_000], channels.mean(axis=0))[0, 1] > 0.99
    six = decoded(ffmpeg_bytes(np.stack([SOUND] * 6), RATE, "mov", "pcm_s16le", "5.1"))
    np.testing.assert_allclose(six.samples, SOUND, atol=2**-15)


def test_sounds_at_the_edge():
    assert decoded(sndfile_bytes(SOUND[:1], RATE)).samples.shape == (1,)
    silent = decoded(sndfile_bytes(np.zeros(100), RATE))
    assert not silent.samples.any()
    loud = decoded(sndfile_bytes(np.array([2.0, -3.5], np.float32), RATE, subtype="FLOAT"))
    assert loud.samples.tolist() == [2.0, -3.5]


def test_rejects_say_why():
    assert decode_one(None)[1] == "decode: no content"
    assert decode_one(b"")[1] == "decode: empty"
    assert decode_one("words")[1] == "decode: not audio: text"
    assert decode_one(b"words in a .wav")[1] == "decode: not audio in a known format, 15 bytes"
    assert decode_one("words".encode("utf-16"))[1] == "decode: not audio in a known format, 12 bytes"
    assert decode_one(b"\xff")[1] == "decode: not audio in a known format, 1 bytes"
    assert decode_one(sndfile_bytes(SOUND[:0], RATE))[1] == "decode: WAV without samples"
    for bad in (np.nan, np.inf):
        content = sndfile_bytes(np.array([0.1, bad], np.float32), RATE, subtype="FLOAT")
        assert decode_one(content)[1] == "decode: WAV with samples that are not finite"


def test_playlists_are_not_followed(tmp_path: Path):
    (tmp_path / "a.wav").write_bytes(file_of("sndfile/WAV/PCM_16"))
    for playlist in (f"#EXTM3U\n{tmp_path}/a.wav\n", f"ffconcat version 1.0\nfile '{tmp_path}/a.wav'\n"):
        assert str(decode_one(playlist.encode())[1]).startswith("decode: not audio in a known format")


def test_a_film_without_sound():
    import io

    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        stream = out.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 16
        stream.pix_fmt = "yuv420p"
        for packet in (
            *stream.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8))),
            *stream.encode(None),
        ):
            out.mux(packet)
    assert decode_one(file.getvalue())[1] == "decode: MP4 without sound"


@pytest.mark.parametrize(
    "name",
    [
        "sndfile/WAV/PCM_16",
        "sndfile/WAV/FLOAT",
        "sndfile/RF64/PCM_16",
        "sndfile/AIFF/PCM_16",
        "sndfile/FLAC/PCM_16",
        "sndfile/OGG/VORBIS",
        "sndfile/OGG/OPUS",
        "sndfile/MP3/MPEG_LAYER_III",
        "ffmpeg/mp3/libmp3lame",
        "ffmpeg/ipod/aac",
        "ffmpeg/matroska/aac",
    ],
)
def test_truncated_sounds_are_rejected(name: str):
    whole = file_of(name)
    for share in (0.85, 0.5, 0.1):
        sound, error = decode_one(whole[: int(len(whole) * share)])
        assert sound is None and str(error).startswith(("decode: truncated ", "decode: broken ")), (share, error)
    for length in range(1, 100, 7):
        assert decode_one(whole[:length])[0] is None


def test_sizes_that_their_writer_did_not_know():
    plain = file_of("sndfile/WAV/PCM_16")
    for size in (b"\xff\xff\xff\xff", b"\0\0\0\0"):
        streamed = plain[:4] + size + plain[8:40] + b"\xff\xff\xff\xff" + plain[44:]
        np.testing.assert_array_equal(decoded(streamed).samples, decoded(plain).samples)


def test_an_mp3_that_does_not_tell_its_length():
    content = sndfile_bytes(np.concatenate([SOUND, np.zeros(3 * RATE)]), RATE, "MP3")
    first = content.index(content[:2], 4)  # the frame after the one that tells
    sound = decoded(content[first:])
    assert 4 <= sound.seconds < 4.2
    assert decoded(b"ID3\x04\0\0\0\0\0\x14" + b"\0" * 20 + content).seconds == pytest.approx(4)


def test_what_stands_behind_a_sound_is_left_out():
    for name, more in (
        ("sndfile/MP3/MPEG_LAYER_III", bytes(1_000)),
        ("sndfile/MP3/MPEG_LAYER_III", b"TAG" + bytes(125)),
    ):
        assert 1 <= decoded(file_of(name) + more).seconds < 1.02
    for name in ("sndfile/WAV/PCM_16", "sndfile/FLAC/PCM_16"):
        np.testing.assert_array_equal(decoded(file_of(name) + bytes(50)).samples, decoded(file_of(name)).samples)


def test_sounds_that_were_put_together_are_read_to_their_end():
    second = tone(1.0, pitch=900)
    for form in ("OGG", "MP3"):
        sound = decoded(sndfile_bytes(SOUND, RATE, form) + sndfile_bytes(second, RATE, form))
        assert 2 <= sound.seconds < 2.2
        assert max(np.correlate(sound.samples[-20_000:], second[:12_000])) > 0.9 * (second[:12_000] ** 2).sum()


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("operators.decode.audio.LIBRARIES", ("soundfile", "no_such_module"))
    with pytest.raises(MissingExtra, match=r"needs no_such_module: pip install 'latentlake\[audio\]'"):
        decode(make_batch(["a"], [b"x"]))


def wav_header(rate: int, data: int, channels: int = 1) -> bytes:
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, rate, 0, 2 * channels, 16)
    return b"RIFF" + struct.pack("<I", 36 + data) + b"WAVE" + form + struct.pack("<4sI", b"data", data)


@pytest.mark.parametrize("rate", [1, 999, 768_001, 4_000_000_000])
def test_rates_that_no_recorder_has(rate: int):
    error = str(decode_one(wav_header(rate, 200) + bytes(200))[1])
    assert error.startswith(("decode: WAV with a rate of", "decode: broken WAV")), error


def test_bombs_are_refused_from_the_header():
    silence = np.zeros(1_000 * 22_000, np.int16)
    content = sndfile_bytes(silence, 1_000, "FLAC")  # more than six hours in a few kilobytes
    assert len(content) < 100_000
    assert decode_one(content)[1] == (
        "decode: decompression bomb: 22000000 samples at 1000 Hz are more than 268435456, or than 21600 seconds: "
        "split the file, or lower its rate"
    )
    assert decoded_bytes(content) == 88_000_000


def test_a_header_that_lies_does_not_help(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("operators.decode.audio.MAX_SAMPLES", 40_000)
    long = np.zeros(80_000, np.float32)
    flac = bytearray(sndfile_bytes(long, RATE, "FLAC"))
    assert "decompression bomb: 80000 samples" in str(decode_one(bytes(flac))[1])
    flac[21] &= 0xF0
    flac[22:26] = bytes(4)  # tells no length
    assert "decompression bomb" in str(decode_one(bytes(flac))[1])
    flac[22:26] = struct.pack(">I", 100)
    sound, error = decode_one(bytes(flac))
    assert len(sound.samples) <= 100 if sound else error
    flac[21:26] = b"\xff" * 5
    assert "decompression bomb" in str(decode_one(bytes(flac))[1])
    matroska = ffmpeg_bytes(long, RATE, "matroska", "flac")
    assert "decompression bomb" in str(decode_one(matroska)[1])


def test_many_channels_are_decoded_in_small_blocks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("operators.decode.audio.BLOCK", 1_000)
    channels = np.stack([SOUND] * 8, axis=1)
    np.testing.assert_allclose(decoded(sndfile_bytes(channels, RATE)).samples, SOUND, atol=2**-14)
    np.testing.assert_allclose(decoded(sndfile_bytes(SOUND, RATE, subtype="FLOAT")).samples, SOUND)


def test_the_size_is_told_by_the_header():
    for name in ("sndfile/WAV/PCM_16", "sndfile/OGG/VORBIS", "ffmpeg/mp4/aac"):
        assert decoded_bytes(file_of(name)) == 4 * RATE
    assert 0.85 * 4 * RATE < decoded_bytes(file_of("sndfile/MP3/MPEG_LAYER_III")) <= 4 * RATE
    assert [decoded_bytes(content) for content in (None, b"", b"words", "words")] == [0] * 4


@given(st.sampled_from(["WAV", "FLAC", "OGG", "MP3", "AIFF"]), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_damaged_sounds_never_crash(form: str, rng: random.Random):
    content = bytearray(sndfile_bytes(SOUND[:4_000], RATE, form))
    for _ in range(8):
        content[rng.randrange(min(len(content), 300))] = rng.randrange(256)
    decode_one(bytes(content))


@given(st.sampled_from(["mp4", "matroska"]), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_damaged_sounds_of_ffmpeg_never_crash(form: str, rng: random.Random):
    content = bytearray(file_of(f"ffmpeg/{form}/aac"))
    for _ in range(8):
        content[rng.randrange(len(content))] = rng.randrange(256)
    decode_one(bytes(content))


def test_spoken_digits(data: Path):
    paths = sorted((data / "fsdd").glob("*_0.wav"))
    if not paths:
        pytest.skip(f"no spoken digits below {data / 'fsdd'}: set LATENTLAKE_TEST_DATA")
    batch = decode(make_batch([path.name for path in paths], [path.read_bytes() for path in paths]))
    assert all(error is None for error in batch["error"])
    assert {sound.rate for sound in batch["audio"]} == {8_000}
    for path, sound in zip(paths, batch["audio"], strict=True):
        np.testing.assert_array_equal(sound.samples, soundfile.read(path, dtype="float32")[0])
