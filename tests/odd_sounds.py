"""Odd files of sound: every format that ffmpeg writes, and what happens to files. `python tests/odd_sounds.py FOLDER [COUNT] [SEED]`."""

from __future__ import annotations

import io
import struct
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
from sound_maker import tone

SOUND, REJECT = "sound", "reject"
RATES = range(1_000, 768_001)  # of samples per second, that are taken
ID3 = b"ID3\x04\0\0\0\0\0\x14" + b"TIT2\0\0\0\x0a\0\0\x03caf\xe9\xe8\xe7\xfa\0\0"  # no UTF-8, though it says so

# Container, codec, rates, suffix. Of some the header tells the length, so that a file that was cut off can be told.
FORMATS = [
    ("wav", "pcm_u8", (1_000, 8_000, 44_100), "wav"),
    ("wav", "pcm_s16le", (8_000, 11_025, 22_050, 192_000), "wav"),
    ("wav", "pcm_s24le", (48_000, 96_000), "wav"),
    ("wav", "pcm_s32le", (16_000,), "wav"),
    ("wav", "pcm_f32le", (16_000, 44_056), "wav"),
    ("wav", "pcm_f64le", (16_000,), "wav"),
    ("wav", "pcm_alaw", (8_000,), "wav"),
    ("wav", "pcm_mulaw", (8_000,), "wav"),
    ("wav", "adpcm_ms", (16_000,), "wav"),
    ("wav", "adpcm_ima_wav", (16_000,), "wav"),
    ("wav", "libmp3lame", (16_000,), "wav"),
    ("pipe:wav", "pcm_s16le", (16_000,), "wav"),
    ("w64", "pcm_s16le", (16_000,), "w64"),
    ("aiff", "pcm_s16be", (11_025, 44_100), "aif"),
    ("aiff", "pcm_s24be", (44_100,), "aiff"),
    ("au", "pcm_s16be", (8_000,), "au"),
    ("caf", "pcm_s16le", (16_000,), "caf"),
    ("caf", "alac", (16_000,), "caf"),
    ("voc", "pcm_u8", (8_000,), "voc"),
    ("flac", "flac", (8_000, 16_000, 44_100), "flac"),
    ("pipe:flac", "flac", (16_000,), "flac"),
    ("ogg", "libopus", (48_000, 16_000), "opus"),
    ("ogg", "flac", (16_000,), "oga"),
    ("mp3", "libmp3lame", (8_000, 16_000, 22_050, 44_100), "mp3"),
    ("pipe:mp3", "libmp3lame", (16_000,), "mp3"),
    ("mp2", "mp2", (16_000, 44_100), "mp2"),
    ("adts", "aac", (8_000, 16_000, 44_100), "aac"),
    ("latm", "aac", (16_000,), "latm"),
    ("ac3", "ac3", (48_000,), "ac3"),
    ("eac3", "eac3", (48_000,), "eac3"),
    ("ipod", "aac", (16_000, 44_100), "m4a"),
    ("ipod", "alac", (16_000,), "m4a"),
    ("mp4", "aac", (16_000,), "mp4"),
    ("mov", "pcm_s16le", (16_000,), "mov"),
    ("3gp", "aac", (16_000,), "3gp"),
    ("webm", "libopus", (48_000, 16_000), "webm"),
    ("matroska", "aac", (16_000,), "mkv"),
    ("matroska", "flac", (16_000,), "mka"),
    ("matroska", "pcm_f32le", (16_000,), "mka"),
    ("pipe:matroska", "libopus", (48_000,), "mka"),
    ("avi", "libmp3lame", (16_000,), "avi"),
    ("avi", "pcm_s16le", (16_000,), "avi"),
    ("flv", "aac", (44_100,), "flv"),
    ("asf", "wmav2", (44_100,), "wma"),
    ("mpegts", "aac", (16_000,), "ts"),
    ("mpeg", "mp2", (44_100,), "mpg"),
    ("nut", "pcm_s16le", (16_000,), "nut"),
    ("wv", "wavpack", (16_000,), "wv"),
    ("tta", "tta", (16_000,), "tta"),
    ("amr", "libopencore_amrnb", (8_000,), "amr"),
]
# Formats whose files say how long they are, so that the one that was cut off is known for it.
TELLING = {"wav", "aiff", "flac", "ogg", "mp3", "ipod", "mp4", "mov", "3gp", "webm", "matroska", "avi", "au"}
FILMS = [
    ("mp4", "mpeg4", "aac"),
    ("matroska", "mpeg4", "libopus"),
    ("avi", "mpeg4", "libmp3lame"),
    ("mpegts", "mpeg2video", "mp2"),
]
LAYOUTS = ["mono", "mono", "mono", "stereo", "stereo", "5.1"]
MONO_ONLY = {"libopencore_amrnb"}
STEREO_AT_MOST = {"libmp3lame", "mp2", "wmav2", "adpcm_ms", "adpcm_ima_wav", "pcm_u8", "libopencore_amrnb", "wavpack"}


def write_odd_sounds(folder: Path, count: int, seed: int) -> dict[str, str]:
    """Write `count` files; of each, by its name, "sound" where ffmpeg (or libsndfile) decodes it and it is whole, else "reject".

    The same `count` and `seed` make the same files. A file that was cut off is a reject where its container says how
    long it should be; of the others ffmpeg is asked.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    verdicts = {}
    for number in range(count):
        change = CHANGES[number % len(CHANGES)]
        content, suffix, known = change(rng, number // len(CHANGES))
        name = f"{number:05}-{change.__name__}.{suffix}"
        (folder / name).write_bytes(content)
        verdicts[name] = known or judged_by_ffmpeg(content)
    return verdicts


def judged_by_ffmpeg(content: bytes) -> str:
    """Whether PyAV decodes a content: "sound", or "reject" where it raises after the first frame, or gives no sample."""
    import av

    samples = 0
    try:
        with av.open(io.BytesIO(content), metadata_errors="replace") as container:
            if not container.streams.audio or container.streams.audio[0].codec_context is None:
                return REJECT
            if container.streams.audio[0].rate not in RATES:
                return REJECT
            for packet in container.demux(audio=0):
                try:
                    frames = packet.decode()
                except av.error.FFmpegError:
                    if samples:
                        raise
                    continue
                for frame in frames:
                    samples += frame.samples
                    if not np.isfinite(frame.to_ndarray().astype(np.float64)).all():
                        return REJECT
    except (av.error.FFmpegError, TypeError):
        return REJECT if samples else judged_by_libsndfile(content)
    return SOUND if samples else REJECT


def judged_by_libsndfile(content: bytes) -> str:
    """Whether an AIFF that ffmpeg cannot open is read by libsndfile: the former takes a large number of frames for an error."""
    import soundfile

    if content[:4] != b"FORM":
        return REJECT
    try:
        samples, rate = soundfile.read(io.BytesIO(content), dtype="float32")
    except soundfile.SoundFileError:
        return REJECT
    return SOUND if len(samples) and np.isfinite(samples).all() and rate in RATES else REJECT


def encoded(
    rng: np.random.Generator, at: int, seconds: float | None = None, late_s: float = 0.0, pause_s: float = 0.0
) -> tuple[bytes, str, str]:
    """A file of one of `FORMATS`, its suffix and its container; it begins `late_s` late, and pauses after half a second."""
    import av

    container, codec, rates, suffix = FORMATS[at % len(FORMATS)]
    rate = int(rng.choice(rates))
    layout = "mono" if codec in MONO_ONLY else str(rng.choice(LAYOUTS))
    layout = "stereo" if layout == "5.1" and (codec in STEREO_AT_MOST or container == "ogg") else layout
    length = float(rng.uniform(0.3, 1.5)) if seconds is None else seconds
    file, name = open_target(container)
    with av.open(file, "w", format=name) as out:
        stream = out.add_stream(codec, rate=rate, layout=layout)
        if codec == "wmav2":  # has no bit rate of its own
            stream.bit_rate = 128_000
        for packet in packets_of(stream, tone(length, rate, float(rng.uniform(100, 400))), layout):
            start = packet.pts * packet.time_base
            moved = late_s + (pause_s if start > 0.5 else 0.0)
            packet.pts = packet.dts = packet.pts + int(Fraction(moved) / packet.time_base)
            out.mux(packet)
    return file.getvalue(), suffix, container.removeprefix("pipe:")


class Pipe(io.BytesIO):
    """A file that cannot be gone back in, so that its header cannot tell a length."""

    seek = None  # type: ignore[assignment]


def open_target(container: str) -> tuple[io.BytesIO, str]:
    """A file to write to, and ffmpeg's name of the container; "pipe:…" is one that cannot be gone back in."""
    name = container.removeprefix("pipe:")
    return (Pipe() if name != container else io.BytesIO()), name


def packets_of(stream, samples: np.ndarray, layout: str):  # type: ignore[no-untyped-def]
    """Packets of samples (n,), the same in every channel."""
    import av

    rate = stream.codec_context.sample_rate
    resampler = av.AudioResampler(format=stream.codec_context.format, layout=layout, rate=rate)
    channels = len(av.AudioLayout(layout).channels)
    for start in range(0, len(samples), 1024):
        frame = av.AudioFrame.from_ndarray(
            np.repeat(samples[None, start : start + 1024], channels, axis=0), format="fltp", layout=layout
        )
        frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
        for made in resampler.resample(frame):
            yield from stream.encode(made)
    yield from stream.encode(None)


# What happens to files. Each gives a content, a suffix, and the verdict where it is known without ffmpeg.

Made = tuple[bytes, str, str | None]


def whole(rng: np.random.Generator, at: int) -> Made:
    """As it was written."""
    content, suffix, _ = encoded(rng, at)
    return content, suffix, SOUND


def renamed(rng: np.random.Generator, at: int) -> Made:
    """With the suffix of another format, or of none."""
    content, _, _ = encoded(rng, at)
    return content, str(rng.choice(["wav", "mp3", "jpg", "txt", "bin", "ogg"])), SOUND


def cut(rng: np.random.Generator, at: int) -> Made:
    """Cut off in its second half."""
    content, suffix, container = encoded(rng, at, seconds=1.5)
    content = content[: int(len(content) * rng.uniform(0.55, 0.8))]
    pipe = FORMATS[at % len(FORMATS)][0].startswith("pipe:")
    return content, suffix, REJECT if container in TELLING and not pipe else None


def junk_first(rng: np.random.Generator, at: int) -> Made:
    """With zeros, text or noise before it."""
    content, suffix, _ = encoded(rng, [23, 24, 25, 26, 28, 0, 21][at % 7], seconds=1.0)
    junk = [bytes(int(rng.integers(1, 900))), b"HTTP/1.1 200 OK\r\n\r\n", rng.bytes(int(rng.integers(1, 900)))]
    return junk[at % 3] + content, suffix, None


def junk_behind(rng: np.random.Generator, at: int) -> Made:
    """With an old tag behind it."""
    content, suffix, _ = encoded(rng, [1, 13, 19, 23, 30][at % 5])
    return content + b"TAG" + bytes(125), suffix, SOUND


def tagged(rng: np.random.Generator, at: int) -> Made:
    """With one tag or two before it, whose text is no UTF-8."""
    content, suffix, _ = encoded(rng, [19, 21, 22, 23, 25, 26][at % 6], seconds=1.0)
    return ID3 * int(rng.integers(1, 3)) + content, suffix, SOUND


def gap(rng: np.random.Generator, at: int) -> Made:
    """With a pause that the container does not hold."""
    content, suffix, _ = encoded(
        rng, [21, 30, 32, 35, 36, 37, 42][at % 7], seconds=1.2, pause_s=float(rng.uniform(0.2, 3))
    )
    return content, suffix, SOUND


def late(rng: np.random.Generator, at: int) -> Made:
    """That begins late."""
    content, suffix, _ = encoded(rng, [21, 30, 32, 35, 36, 37, 42][at % 7], late_s=float(rng.uniform(0.2, 3)))
    return content, suffix, SOUND


def damaged(rng: np.random.Generator, at: int) -> Made:
    """With some bytes of it changed."""
    content, suffix, _ = encoded(rng, [1, 13, 21, 25, 26, 35][at % 6], seconds=1.0)
    changed = bytearray(content)
    for place in rng.integers(0, min(64, len(changed)), 4):
        changed[int(place)] = int(rng.integers(0, 256))
    return bytes(changed), suffix, None


def film(rng: np.random.Generator, at: int) -> Made:
    """A film with sound, of which the sound begins late every other time."""
    import av

    container, pictures, codec = FILMS[at % len(FILMS)]
    rate, file = 48_000, io.BytesIO()
    with av.open(file, "w", format=container) as out:
        video = out.add_stream(pictures, rate=25)
        video.width = video.height = 32
        video.pix_fmt = "yuv420p"
        sound = out.add_stream(codec, rate=rate, layout="mono")
        for _ in range(25):
            for packet in video.encode(av.VideoFrame.from_ndarray(rng.integers(0, 255, (32, 32, 3), np.uint8))):
                out.mux(packet)
        for packet in video.encode(None):
            out.mux(packet)
        for packet in packets_of(sound, tone(0.8, rate), "mono"):
            packet.pts = packet.dts = packet.pts + (int(Fraction(1, 5) / packet.time_base) if at % 2 else 0)
            out.mux(packet)
    return file.getvalue(), container, SOUND


def empty(rng: np.random.Generator, at: int) -> Made:
    """Nothing, or a header without a sample."""
    header = struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", 36, b"WAVE", b"fmt ", 16, 1, 1, 8_000, 16_000, 2, 16, b"data", 0
    )
    return [b"", header, ID3, b"\xff\xfb"][at % 4], "wav", REJECT


def no_sound(rng: np.random.Generator, at: int) -> Made:
    """Something else under the name of a sound: noise, text, a playlist, a picture."""
    picture = io.BytesIO()
    from PIL import Image

    Image.fromarray(rng.integers(0, 255, (20, 30, 3), np.uint8)).save(picture, "PNG")
    contents = [b"\x80" + bytes(300), b"words " * 200, b"#EXTM3U\n/etc/passwd\n", picture.getvalue()]
    return contents[at % 4], "mp3", REJECT


def not_finite(rng: np.random.Generator, at: int) -> Made:
    """With a sample that is no number."""
    import soundfile

    samples, file = tone(0.5), io.BytesIO()
    samples[int(rng.integers(len(samples)))] = [np.nan, np.inf][at % 2]
    soundfile.write(file, samples, 16_000, format="WAV", subtype="FLOAT")
    return file.getvalue(), "wav", REJECT


CHANGES: list[Callable[[np.random.Generator, int], Made]] = [
    *(whole, whole, renamed, cut, cut, junk_first, junk_behind, tagged, gap, late, damaged, film, empty, no_sound),
    not_finite,
]

if __name__ == "__main__":
    made = write_odd_sounds(Path(sys.argv[1]), *(int(number) for number in [*sys.argv[2:], "1000", "0"][:2]))
    print("\n".join(f"{verdict}\t{name}" for name, verdict in made.items()))
