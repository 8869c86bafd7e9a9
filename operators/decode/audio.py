"""Bytes to a mono waveform at the rate that it was recorded at.

Formats are a closed list with signatures, and each is read by its own demuxer: ffmpeg left to guess would also take
playlists, which name other files. libsndfile reads WAV, AIFF, FLAC and Ogg, PyAV (ffmpeg) the rest, MP3 too: libsndfile
would stop where it guesses the end of one that does not tell its length.
"""

from __future__ import annotations

import importlib.util
import io
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from operators.batch import Batch, RowError, Waveform, map_rows
from operators.errors import MissingExtra

COLUMN = "audio"
VERSION = 1
LIBRARIES = ("av", "pyloudnorm", "soundfile", "soxr")  # of the extra, those of the operators on sound too

MAX_SECONDS = 6 * 3600
MAX_SAMPLES = 2**28  # 1 GiB as float32: 1.7 hours at 44.1 kHz, 4.6 at 16 kHz
RATES = (1_000, 768_000)
BLOCK = 2**20  # samples, of all channels, that are decoded at once
CUT_SECONDS = 0.1  # what encoders' padding may make of a length; a sound that lacks more of it was cut off
SKEWED_BYTES = 64  # by how much writers are wrong about a file's size
STREAMED = 0x7FFF0000  # a size from here on stands for one that the writer did not know
FIRST_PAGE, LAST_PAGE = b"OggS\0\2", 4  # how the first page of an Ogg stream begins; a flag of the last

# Names of ffmpeg's demuxers.
DEMUXERS = {
    "WAV": "wav",
    "AIFF": "aiff",
    "FLAC": "flac",
    "OGG": "ogg",
    "MP3": "mp3",
    "AAC": "aac",
    "MP4": "mov",
    "MATROSKA": "matroska",
}
SNDFILE = ("WAV", "AIFF", "FLAC", "OGG")


@dataclass(frozen=True)
class Stream:
    """An open sound: its rate, its length, and its blocks, float32 (channels, n)."""

    rate: int
    samples: int  # 0: its header does not tell
    guessed: bool  # from the size of the file
    blocks: Iterable[np.ndarray]


def decode(batch: Batch) -> Batch:
    """Decode `content` to a `Waveform` in `audio`: mono (the mean of the channels), float32, at the rate of the file.

    Samples of integers become -1 to 1; those of floats stay, beyond that too. A row that is no whole sound, is longer than
    `MAX_SECONDS` or `MAX_SAMPLES`, or holds NaN or infinity, gets `error="decode: <reason>"`. Raises `MissingExtra`.
    """
    if missing := [name for name in LIBRARIES if importlib.util.find_spec(name) is None]:
        raise MissingExtra(f"modality 'audio' needs {', '.join(missing)}: pip install 'latentlake[audio]'")
    return map_rows(batch, decode_content, column="content", into=COLUMN, stage="decode")


def decode_content(content: Any) -> Waveform:
    """Decode one object. Raises `RowError` where it is no sound."""
    if content is None:
        raise RowError("no content")
    if len(content) == 0:
        raise RowError("empty")
    if isinstance(content, str):
        raise RowError("not audio: text")
    content = bytes(content)
    form = format_of(content)
    check_whole(content, form)
    with open_sound(content, form) as stream:
        waveform = Waveform(mix(stream, form), stream.rate)
    if not np.isfinite(waveform.samples).all():
        raise RowError(f"{form} with samples that are not finite")
    return waveform


def decoded_bytes(content: Any) -> int:
    """About how much memory a decoded object takes, told from its header; 0 for what is no sound."""
    try:
        content = bytes(content)
        with open_sound(content, format_of(content)) as stream:
            return 4 * stream.samples
    except Exception:  # whatever is wrong with it, `decode` says so
        return 0


def format_of(content: bytes) -> str:
    """The format by its signature, one of `DEMUXERS`. Raises `RowError` for any other."""
    head = content[:12]
    if head[:4] in (b"RIFF", b"RF64") and head[8:] == b"WAVE":
        return "WAV"
    if head[:4] == b"FORM" and head[8:] in (b"AIFF", b"AIFC"):
        return "AIFF"
    if head[4:8] == b"ftyp":
        return "MP4"
    for mark, form in ((b"fLaC", "FLAC"), (b"OggS", "OGG"), (b"ID3", "MP3"), (b"\x1a\x45\xdf\xa3", "MATROSKA")):
        if head.startswith(mark):
            return form
    if len(head) > 1 and head[0] == 0xFF:  # a frame of MPEG audio: 11 set bits, version, layer
        if head[1] & 0xE6 == 0xE2:
            return "MP3"
        if head[1] & 0xF6 == 0xF0:
            return "AAC"
    raise RowError(f"not audio in a known format, {len(content)} bytes")


def check_whole(content: bytes, form: str) -> None:
    """Raise `RowError` for a file that was cut off where libsndfile would take what is left for all."""
    if form in ("WAV", "AIFF") and len(content) >= 28:
        if content.startswith(b"RF64"):
            (told,) = struct.unpack_from("<Q", content, 20)
        else:
            (told,) = struct.unpack_from("<I" if form == "WAV" else ">I", content, 4)
            told = 0 if told >= STREAMED else told
        if told + 8 > len(content) + SKEWED_BYTES:
            raise RowError(f"truncated {form}: {len(content)} of {told + 8} bytes")
    if form == "OGG":
        page = content.rfind(b"OggS")  # header of 27 bytes: its last one counts the segments, whose lengths follow
        lengths = content[page + 27 : page + 27 + content[page + 26]] if page + 26 < len(content) else b""
        if not lengths or not content[page + 5] & LAST_PAGE or page + 27 + len(lengths) + sum(lengths) > len(content):
            raise RowError("truncated OGG: its last page is missing, or not whole")


@contextmanager
def open_sound(content: bytes, form: str) -> Iterator[Stream]:
    """Open without decoding samples. Raises `RowError` where neither library can; within, too, where decoding fails."""
    import av
    import soundfile

    file = None
    if reads_whole(content, form):
        with suppress(soundfile.SoundFileError):  # WAV with an unusual codec, say, which ffmpeg may read
            file = soundfile.SoundFile(io.BytesIO(content))
    try:
        if file is not None:
            with file:
                yield Stream(file.samplerate, file.frames, False, read_blocks(file))
        else:
            with av.open(io.BytesIO(content), format=DEMUXERS[form]) as container:
                if not container.streams.audio:
                    raise RowError(f"{form} without sound")
                sound = container.streams.audio[0]
                told = mp3_samples(content) if form == "MP3" else 0
                guessed = form in ("AAC", "MP3") and not told
                yield Stream(sound.rate, told or length_of(container), guessed, decode_blocks(container))
    except (soundfile.SoundFileError, av.error.FFmpegError) as failure:
        raise RowError(f"broken {form}: {getattr(failure, 'strerror', None) or failure}") from failure


def reads_whole(content: bytes, form: str) -> bool:
    """Whether libsndfile, where it opens a file, reads all of it.

    Not a FLAC that does not tell its length (36 bits of its first block), nor more than the first of several streams that
    stand one after the other in an Ogg.
    """
    if form == "FLAC":
        return bool(int.from_bytes(content[21:26], "big") & (2**36 - 1))
    if form == "OGG":
        return content.count(FIRST_PAGE) == 1
    return form in SNDFILE


def mp3_samples(content: bytes) -> int:
    """How many samples an MP3 has at least, by the frame that some encoders put first (Xing); 0 where there is none.

    http://gabriel.mp3-tech.org/mp3infotag.html. Less three frames, which are the most that pad the sound's ends.
    """
    start = 0
    if content.startswith(b"ID3") and len(content) >= 10:
        start = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(content[6:10], (21, 14, 7, 0), strict=True))
    first = content[start : start + 256]
    found = max(first.find(b"Xing"), first.find(b"Info"))
    if found < 0 or found + 12 > len(first) or not first[found + 7] & 1:
        return 0
    (frames,) = struct.unpack_from(">I", first, found + 8)
    return max(0, frames - 3) * (1152 if first[1] & 0x18 == 0x18 else 576)  # of MPEG 1, or of 2 and 2.5


def read_blocks(file: Any) -> Iterator[np.ndarray]:
    """What is left of a `soundfile.SoundFile`, as blocks float32 (channels, n)."""
    while len(block := file.read(max(1, BLOCK // file.channels), dtype="float32", always_2d=True)):
        yield block.T


def length_of(container: Any) -> int:
    """Samples of the first sound of an open container of PyAV; 0 where it does not tell."""
    import av

    sound = container.streams.audio[0]
    if sound.duration is not None:
        return int(sound.duration * sound.time_base * sound.rate)
    if container.duration is not None and len(container.streams) == 1:
        return int(container.duration * sound.rate / av.time_base)
    return 0


def decode_blocks(container: Any) -> Iterator[np.ndarray]:
    """The first sound of an open container of PyAV, as blocks float32 (channels, n)."""
    import av

    planar = av.AudioResampler(format="fltp")
    for frame in chain(container.decode(container.streams.audio[0]), [None]):  # None: what it still holds
        yield from (made.to_ndarray() for made in planar.resample(frame))


def mix(stream: Stream, form: str) -> np.ndarray:
    """All blocks of a stream, mixed to one channel, float32 (n,). Raises `RowError` for a bomb and for a cut-off sound."""
    import av

    if not RATES[0] <= stream.rate <= RATES[1]:
        raise RowError(f"{form} with a rate of {stream.rate} Hz, not of {RATES[0]} to {RATES[1]}")
    check_length(0 if stream.guessed else stream.samples, stream.rate)
    parts, count = [], 0
    enough = 0 if stream.guessed else stream.samples - CUT_SECONDS * stream.rate
    try:
        for block in stream.blocks:
            count += block.shape[1]
            check_length(count, stream.rate)
            parts.append(block[0] if len(block) == 1 else block.mean(axis=0, dtype=np.float32))
    except av.error.FFmpegError:
        if not 0 < enough <= count:  # else it is no sound that stands behind all that the header tells of
            raise
    if count < enough:
        raise RowError(f"truncated {form}: {count / stream.rate:.2f} of {stream.samples / stream.rate:.2f} seconds")
    if count == 0:
        raise RowError(f"{form} without samples")
    return np.concatenate(parts).astype(np.float32, copy=False)


def check_length(samples: int, rate: int) -> None:
    """Raise `RowError` for a sound that is longer than a row may be."""
    if samples > min(MAX_SAMPLES, MAX_SECONDS * rate):
        raise RowError(
            f"decompression bomb: {samples} samples at {rate} Hz are more than {MAX_SAMPLES}, or than {MAX_SECONDS} seconds"
        )
