"""Sound as it comes: whatever ffmpeg decodes is sound, and what was decoded before is decoded to the same bits."""

from __future__ import annotations

import io
import struct
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from odd_sounds import ID3, packets_of, write_odd_sounds
from sound_maker import ffmpeg_bytes, sndfile_bytes, tone

from latentlake.embedders import modality_of_file
from operators.batch import Waveform, make_batch
from operators.decode._ffmpeg import STREAMS, TELLING
from operators.decode.audio import decode
from operators.sniff import sniff

soundfile = pytest.importorskip("soundfile")
av = pytest.importorskip("av")

RATE = 16_000
SOUND = tone()


def decode_one(content: bytes) -> tuple[Waveform | None, str | None]:
    batch = decode(make_batch(["a"], [content]))
    return batch["audio"][0], batch["error"][0]


def decoded(content: bytes) -> Waveform:
    sound, error = decode_one(content)
    assert error is None and sound is not None
    return sound


def test_verdicts_are_those_of_ffmpeg(tmp_path: Path):
    expected = write_odd_sounds(tmp_path, 90, seed=9)
    batch = decode(make_batch(list(expected), [(tmp_path / name).read_bytes() for name in expected]))
    found = {name: "sound" if error is None else "reject" for name, error in zip(expected, batch["error"], strict=True)}
    assert {name: (found[name], verdict) for name, verdict in expected.items() if found[name] != verdict} == {}
    assert min(Counter(expected.values()).values()) > 20
    assert len({name.split("-")[1].split(".")[0] for name in expected}) == 13


@pytest.mark.parametrize("container", ["mp3", "ipod", "webm", "matroska", "flac", "wav", "aiff", "avi", "asf"])
def test_tags_need_not_be_utf_8(container: str):
    codec = {"mp3": "libmp3lame", "ipod": "aac", "webm": "libopus", "matroska": "flac", "flac": "flac"}.get(container)
    codec = codec or {"wav": "adpcm_ms", "aiff": "pcm_s16be", "avi": "mp2", "asf": "wmav2"}[container]
    file, mark = io.BytesIO(), "a title of plain letters"
    with av.open(file, "w", format=container) as out:
        stream = out.add_stream(codec, rate=48_000, layout="stereo")
        stream.bit_rate = 128_000
        out.metadata["title"] = mark
        for packet in packets_of(stream, tone(0.5, 48_000), "stereo"):
            out.mux(packet)
    content = file.getvalue()
    for latin in (mark.encode(), mark.encode("utf-16-le")):
        content = content.replace(latin, b"\xe9\xe8\xfc\xdf" * (len(latin) // 4))
    assert b"\xe9\xe8\xfc" in content
    assert 0.45 < decoded(content).seconds < 0.7


def test_an_mp3_whose_tag_is_latin_1_and_says_utf_8():
    tag = b"TIT2\0\0\0\x08\0\0\x03caf\xe9\xe8\xe7\xfa"
    content = sndfile_bytes(SOUND, RATE, "MP3", "MPEG_LAYER_III")
    sound = decoded(b"ID3\x03\0\0\0\0\0" + bytes([len(tag)]) + tag + content)
    np.testing.assert_array_equal(sound.samples, decoded(content).samples)


@pytest.mark.parametrize(
    "name", ["FLAC", "OGG", "MP3", "WAV", "AIFF", "aac", "ipod", "webm"]
)  # libsndfile's formats in capitals
def test_a_tag_before_the_signature_changes_nothing(name: str):
    codec = {"aac": "aac", "ipod": "aac", "webm": "libopus"}.get(name)
    container = "pipe:adts" if name == "aac" else name
    content = ffmpeg_bytes(tone(1.0, 48_000), 48_000, container, codec) if codec else sndfile_bytes(SOUND, RATE, name)
    plain = decoded(content)
    for tags in (1, 3):
        sound = decoded(ID3 * tags + content)
        assert sound.rate == plain.rate
        np.testing.assert_array_equal(sound.samples, plain.samples)


def moved(container: str, codec: str, rate: int, first_s: float, pause_s: float) -> bytes:
    """Two seconds of sound that begin at `first_s`, with a pause after the first of them that is in no packet."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate, layout="mono")
        for packet in packets_of(stream, tone(2.0, rate), "mono"):
            by = first_s + (pause_s if packet.pts * packet.time_base > 1 else 0)
            packet.pts = packet.dts = packet.pts + int(Fraction(by) / packet.time_base)
            out.mux(packet)
    return file.getvalue()


MOVED = [
    ("webm", "libopus", 48_000),
    ("matroska", "aac", RATE),
    ("ogg", "libopus", 48_000),
    ("ogg", "flac", RATE),
    ("mp4", "aac", RATE),
    ("mov", "pcm_s16le", RATE),
    ("flv", "aac", 44_100),
    ("mpegts", "aac", RATE),
    ("nut", "pcm_s16le", RATE),
]


@pytest.mark.parametrize(("container", "codec", "rate"), MOVED)
@pytest.mark.parametrize(("first_s", "pause_s"), [(0, 1.5), (2.5, 0), (1, 10)])
def test_gaps_in_time_do_not_cut_a_sound_off(container: str, codec: str, rate: int, first_s: float, pause_s: float):
    content = moved(container, codec, rate, first_s, pause_s)
    sound = decoded(content)
    assert sound.rate == rate and 2 <= sound.seconds < 2.2  # what is there, without the pause, as ffmpeg gives it
    if container in ("webm", "matroska", "ogg"):
        for share in (0.85, 0.7, 0.4):
            assert "truncated" in str(decode_one(content[: int(len(content) * share)])[1])


def test_the_size_of_a_file_may_be_wrong_where_its_samples_are_all_there():
    for form, at, order in (("WAV", 4, "<I"), ("AIFF", 4, ">I")):
        content = sndfile_bytes(SOUND, RATE, form)
        wrong = content[:at] + struct.pack(order, len(content) + 5_000) + content[at + 4 :]
        np.testing.assert_array_equal(decoded(wrong).samples, decoded(content).samples)
        assert "truncated" in str(decode_one(wrong[:-100])[1])


def mean_of(frames: list) -> np.ndarray:
    return np.concatenate([frame.to_ndarray().mean(axis=0, dtype=np.float32) for frame in frames])


@pytest.mark.parametrize("layout", ["mono", "stereo"])
@pytest.mark.parametrize(
    ("container", "codec"),
    [
        ("mp3", "libmp3lame"),
        ("pipe:adts", "aac"),
        ("ipod", "aac"),
        ("webm", "libopus"),
        ("matroska", "flac"),
        ("pipe:flac", "flac"),
    ],
)
def test_what_ffmpeg_reads_is_what_pyav_gives_bit_by_bit(container: str, codec: str, layout: str):
    rate = 48_000 if codec == "libopus" else RATE
    channels = np.stack([tone(1.5, rate, 300), tone(1.5, rate, 500)])
    samples = channels if layout == "stereo" else channels[0]
    content = ffmpeg_bytes(samples, rate, container, codec, layout)
    planar = av.AudioResampler(format="fltp")
    with av.open(io.BytesIO(content)) as opened:
        frames = [made for frame in [*opened.decode(audio=0), None] for made in planar.resample(frame)]
    np.testing.assert_array_equal(decoded(content).samples, mean_of(frames))


@pytest.mark.parametrize(("form", "subtype"), [("WAV", "PCM_16"), ("FLAC", None), ("OGG", None), ("AIFF", None)])
def test_what_libsndfile_reads_is_what_it_gives_bit_by_bit(form: str, subtype: str | None):
    content = sndfile_bytes(np.stack([tone(), tone(pitch=900)], axis=1), RATE, form, subtype)
    plain, _ = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    np.testing.assert_array_equal(decoded(content).samples, plain.T.mean(axis=0, dtype=np.float32))


def test_a_film_whose_sound_is_not_its_first_stream_is_read_to_the_last_sample():
    film = io.BytesIO()
    with av.open(film, "w", format="matroska") as out:
        video = out.add_stream("mpeg4", rate=10)
        video.width, video.height, video.pix_fmt = 16, 16, "yuv420p"
        sound = out.add_stream("flac", rate=RATE, layout="mono")
        for frame in [*[av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8))] * 30, None]:
            for packet in video.encode(frame):
                out.mux(packet)
        for packet in packets_of(sound, tone(2.0), "mono"):
            out.mux(packet)
    content = film.getvalue()
    np.testing.assert_allclose(decoded(content).samples, tone(2.0), atol=2**-15, rtol=0)
    for share in (0.9, 0.5):
        assert "truncated" in str(decode_one(content[: int(len(content) * share)])[1])


def test_files_that_name_other_files_are_not_followed(tmp_path: Path):
    (tmp_path / "a.wav").write_bytes(sndfile_bytes(SOUND, RATE))
    path = tmp_path / "a.wav"
    for text in (
        f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXTINF:1,\n{path}\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile '{path}'\n",
        f'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period><BaseURL>{path}</BaseURL></Period></MPD>',
        f"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\na=control:{path}\n",
    ):
        for before in (b"", b"\xef\xbb\xbf", b"\0", ID3):
            assert decode_one(before + text.encode())[0] is None
    followers = {"hls", "concat", "dash", "imf", "sdp", "rtsp", "rtp", "sap", "lavfi", "image2", "webm_dash_manifest"}
    assert not followers & {*TELLING, *STREAMS}


@pytest.mark.parametrize(
    ("container", "codec", "suffix"),
    [("ogg", "libopus", "opus"), ("mp2", "mp2", "mp2"), ("ac3", "ac3", "ac3"), ("amr", "libopencore_amrnb", "amr")],
)
def test_a_file_of_sound_is_known_for_it(tmp_path: Path, container: str, codec: str, suffix: str):
    rate = {"amr": 8_000}.get(container, 48_000)
    content = ffmpeg_bytes(tone(0.5, rate), rate, container, codec)
    path = tmp_path / f"query.{suffix}"
    for junk in (b"", bytes(50)):
        path.write_bytes(content if container == "ogg" else junk + content)
        assert modality_of_file(path) == "audio" or (container == "amr" and junk)
    path.write_bytes("café au lait".encode("latin-1"))
    assert modality_of_file(path) == "text"


def test_signatures_of_sound_that_puremagic_does_not_know():
    assert sniff(ffmpeg_bytes(tone(0.5, 48_000), 48_000, "ogg", "libopus")) == "audio/ogg"
    assert sniff(b"\xff\xf3\x40\xc0" + bytes(60)) == "audio/mpeg"
