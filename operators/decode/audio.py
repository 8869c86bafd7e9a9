"""Bytes to a mono waveform at the rate that it was recorded at.

libsndfile reads WAV, AIFF, FLAC and Ogg, ffmpeg the rest, MP3 too: libsndfile would stop where it guesses the end of one
that does not tell its length. Where a signature says nothing, or its reader fails, ffmpeg tells the format by itself:
whatever it decodes is sound.
"""

from __future__ import annotations

import importlib.util
import io
import struct
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from operators.batch import Batch, RowError, Waveform, map_rows
from operators.decode._ffmpeg import (
    CUT_SECONDS,
    Clock,
    clock_of,
    decode_blocks,
    length_of,
    name_of,
    open_container,
    tells_length,
)
from operators.errors import MissingExtra
from operators.limits import MAX_SAMPLES, MAX_SECONDS

COLUMN = "audio"
VERSION = 1
LIBRARIES = ("av", "pyloudnorm", "soundfile", "soxr")  # of the extra, those of the operators on sound too

RATES = (1_000, 768_000)
BLOCK = 2**20  # samples, of all channels, that are decoded at once
PADDING = 2**16  # samples by which a sound may be longer than its header tells
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
    "AVI": "avi",
}
UNKNOWN = "sound"
SNDFILE = ("WAV", "AIFF", "FLAC", "OGG")


class FinalError(RowError):
    """A reject that no other reader may answer: the sound was cut off, or is too long."""


class NotOpenedError(RowError):
    """Ffmpeg does not know what it is either."""


@dataclass(frozen=True)
class Stream:
    """An open sound: its rate, its length, and its blocks, float32 (channels, n)."""

    form: str  # how errors name its format
    rate: int
    samples: int  # 0: its header does not tell
    guessed: bool  # from the size of the file
    blocks: Iterable[np.ndarray]
    clock: Clock | None = None  # the container's, which goes along with the blocks; libsndfile has none

    @property
    def is_at_end(self) -> bool:
        """Whether the container's clock says that the sound has been read to its end."""
        return self.clock is not None and self.clock.is_at_end


def decode(batch: Batch) -> Batch:
    """Decode `content` to a `Waveform` in `audio`: mono (the mean of the channels), float32, at the rate of the file.

    Samples of integers become -1 to 1; those of floats stay, beyond that too. A row that is no whole sound, is longer than
    `MAX_SECONDS` or `MAX_SAMPLES`, or holds NaN or infinity, gets `error="decode: <reason>"`. Raises `MissingExtra`.
    """
    if missing := [name for name in LIBRARIES if importlib.util.find_spec(name) is None]:
        raise MissingExtra(f"modality 'audio' needs {', '.join(missing)}: pip install 'latentlake[audio]'")
    return map_rows(batch, decode_content, column="content", into=COLUMN, stage="decode")


def decode_content(content: Any) -> Waveform:
    """Decode one object. Raises `RowError` if it is no sound."""
    if content is None:
        raise RowError("no content")
    if len(content) == 0:
        raise RowError("empty")
    if isinstance(content, str):
        raise RowError("not audio: text")
    content, form = bytes(content), None
    try:
        form, begun = format_of(content)
        check_whole(begun, form)
        return read_sound(open_sound(begun, form))
    except FinalError:
        raise
    except RowError as failure:
        tried = None if form is None or form in SNDFILE else DEMUXERS[form]
        try:
            return read_sound(open_by_content(content, tried))
        except NotOpenedError:
            raise failure from None
        except RowError as second:
            raise second if form is None or isinstance(second, FinalError) else failure from None


def read_sound(opened: AbstractContextManager[Stream]) -> Waveform:
    """All of a sound that is to be opened. Raises `RowError`."""
    with opened as stream:
        samples, finite = mix(stream)
    if not finite:
        raise FinalError(f"{stream.form} with samples that are not finite")
    return Waveform(samples, stream.rate)


def decoded_bytes(content: Any) -> int:
    """About how much memory a decoded object takes, told from its header; 0 for what is no sound."""
    try:
        form, content = format_of(bytes(content))
        with open_sound(content, form) as stream:
            return 4 * stream.samples
    except Exception:  # whatever is wrong with it, `decode` says so
        return 0


def is_sound(content: bytes) -> bool:
    """Whether ffmpeg opens a content as sound, whatever its signature; False where PyAV is not installed."""
    if importlib.util.find_spec("av") is None:
        return False
    try:
        with open_by_content(content, None):
            return True
    except RowError:
        return False


def format_of(content: bytes) -> tuple[str, bytes]:
    """The format by its signature, one of `DEMUXERS`, and the content that begins with it.

    A tag (ID3) may stand before any of them; ffmpeg's own demuxers of bare frames take it along. Raises `RowError` for
    any other content.
    """
    start = skip_tags(content)
    form = form_of_head(content[start : start + 12])
    if form is None and start:
        return "MP3", content
    if form is None:
        raise RowError(f"not audio in a known format, {len(content)} bytes")
    return form, content if form in ("MP3", "AAC") else content[start:]


def form_of_head(head: bytes) -> str | None:
    """The format whose signature the first bytes of a file are; None for any other."""
    if head[:4] in (b"RIFF", b"RF64") and head[8:] == b"WAVE":
        return "WAV"
    if head[:4] == b"RIFF" and head[8:] == b"AVI ":
        return "AVI"
    if head[:4] == b"FORM" and head[8:] in (b"AIFF", b"AIFC"):
        return "AIFF"
    if head[4:8] == b"ftyp":
        return "MP4"
    for mark, form in ((b"fLaC", "FLAC"), (b"OggS", "OGG"), (b"\x1a\x45\xdf\xa3", "MATROSKA")):
        if head.startswith(mark):
            return form
    if len(head) > 1 and head[0] == 0xFF:  # a frame of MPEG audio: 11 set bits, version, layer
        if head[1] & 0xE6 == 0xE2:
            return "MP3"
        if head[1] & 0xF6 == 0xF0:
            return "AAC"
    return None


def skip_tags(content: bytes) -> int:
    """Where the tags (ID3, version 2) that a file begins with end. https://id3.org/id3v2.4.0-structure"""
    start = 0
    while content[start : start + 3] == b"ID3" and len(content) >= start + 10:
        size = content[start + 6 : start + 10]
        start += 10 + sum((byte & 0x7F) << shift for byte, shift in zip(size, (21, 14, 7, 0), strict=True))
    return start


def check_whole(content: bytes, form: str) -> None:
    """Raise `FinalError` for a file that was cut off where libsndfile would take what is left for all."""
    if form in ("WAV", "AVI", "AIFF") and len(content) >= 28:
        if content.startswith(b"RF64"):
            (told,) = struct.unpack_from("<Q", content, 20)
        else:
            (told,) = struct.unpack_from(">I" if form == "AIFF" else "<I", content, 4)
            told = 0 if told >= STREAMED else told
        if told + 8 > len(content) + SKEWED_BYTES and not samples_are_whole(content, form):
            raise FinalError(f"truncated {form}: {len(content)} of {told + 8} bytes")
    if form == "OGG":
        page = content.rfind(b"OggS")  # header of 27 bytes: its last one counts the segments, whose lengths follow
        lengths = content[page + 27 : page + 27 + content[page + 26]] if page + 26 < len(content) else b""
        if not lengths or not content[page + 5] & LAST_PAGE or page + 27 + len(lengths) + sum(lengths) > len(content):
            raise FinalError("truncated OGG: its last page is missing, or not whole")


def samples_are_whole(content: bytes, form: str) -> bool:
    """Whether the chunk of a WAV or AIFF that holds the samples ends within the file, whatever the file's own size says."""
    mark, size = (b"SSND", ">I") if form == "AIFF" else (b"data", "<I")
    at = 12
    while at + 8 <= len(content):
        (length,) = struct.unpack_from(size, content, at + 4)
        if content[at : at + 4] == mark:
            return 0 < length <= len(content) - at - 8
        at += 8 + length + length % 2
    return False


@contextmanager
def open_sound(content: bytes, form: str) -> Iterator[Stream]:
    """Open without decoding samples. Raises `RowError` if neither library can; within, too, where decoding fails."""
    import soundfile

    file = None
    if reads_whole(content, form):
        with suppress(soundfile.SoundFileError):  # WAV with an unusual codec, say, which ffmpeg may read
            file = soundfile.SoundFile(io.BytesIO(content))
    if file is None:
        with open_stream(content, form, DEMUXERS[form]) as stream:
            yield stream
        return
    try:
        with file:
            yield Stream(form, file.samplerate, file.frames, False, read_blocks(file))
    except soundfile.SoundFileError as failure:
        raise RowError(f"broken {form}: {failure}") from failure


def open_by_content(content: bytes, tried: str | None) -> AbstractContextManager[Stream]:
    """Like `open_sound`, in whichever of its formats ffmpeg takes the content for, but for the one that was `tried`."""
    return open_stream(content, UNKNOWN, None, tried)


@contextmanager
def open_stream(content: bytes, form: str, demuxer: str | None, tried: str | None = None) -> Iterator[Stream]:
    """Open with ffmpeg; without a `demuxer` it tells the format by the content. Raises `RowError` as `open_sound` does."""
    import av

    try:
        with open_container(content, form, demuxer) as container:
            if tried in container.format.name.split(","):
                raise NotOpenedError(f"broken {form}")
            told, clock = mp3_samples(content) if form == "MP3" else 0, clock_of(container)
            guessed = not told and not tells_length(container)
            form = form if demuxer else name_of(container)
            rate = container.streams.audio[0].rate
            blocks = decode_blocks(container, clock)
            yield Stream(form, rate, told or length_of(container), guessed, blocks, clock)
    except av.error.FFmpegError as failure:
        kind = NotOpenedError if form == UNKNOWN else RowError
        raise kind(f"broken {form}: {getattr(failure, 'strerror', None) or failure}") from failure


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
    """How many samples an MP3 has at least, by the frame that some encoders put first (Xing); 0 if there is none.

    http://gabriel.mp3-tech.org/mp3infotag.html. Less three frames, which are the most that pad the sound's ends.
    """
    start = skip_tags(content)
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


def mix(stream: Stream) -> tuple[np.ndarray, bool]:
    """All blocks of a stream, mixed to one channel, float32 (n,), and whether all are finite.

    Raises `RowError` for what cannot be decoded, for a bomb and for a cut-off sound.
    """
    import av

    form, rate = stream.form, stream.rate
    if not RATES[0] <= rate <= RATES[1]:
        raise FinalError(f"{form} with a rate of {rate} Hz, not of {RATES[0]} to {RATES[1]}")
    told = 0 if stream.guessed else stream.samples
    check_length(told, rate)
    # Room for all at once: it takes memory as it is written to, where a list of blocks, joined, would take it twice.
    most = min(MAX_SAMPLES, MAX_SECONDS * rate)
    samples, count, finite = np.empty(min(told + PADDING, most) if told else most, dtype=np.float32), 0, True
    enough = told - CUT_SECONDS * rate
    try:
        for block in stream.blocks:
            start, count = count, count + block.shape[1]
            check_length(count, rate)
            if count > len(samples):
                longer = np.empty(most, dtype=np.float32)
                longer[:start] = samples[:start]
                samples = longer
            mono = block[0] if len(block) == 1 else block.mean(axis=0, dtype=np.float32)
            finite = finite and bool(np.isfinite(mono).all())
            samples[start:count] = mono
    except av.error.FFmpegError:
        if not 0 < enough <= count and not stream.is_at_end:  # else what fails stands behind all of the sound
            raise
    if stream.clock is None and count < enough:  # which may be a pause that the container leaves out: ffmpeg knows
        raise RowError(f"truncated {form}: {count / rate:.2f} of {told / rate:.2f} seconds")
    if stream.clock is not None and not stream.is_at_end and (count < enough or (not told and stream.clock.told)):
        length = told / rate or stream.clock.told
        raise FinalError(f"truncated {form}: {count / rate:.2f} of {length:.2f} seconds")
    if count == 0:
        raise RowError(f"{form} without samples")
    samples.resize(count, refcheck=False)  # gives the rest back
    return samples, finite


def check_length(samples: int, rate: int) -> None:
    """Raise `FinalError` for a sound that is longer than a row may be."""
    if samples > min(MAX_SAMPLES, MAX_SECONDS * rate):
        raise FinalError(
            f"decompression bomb: {samples} samples at {rate} Hz are more than {MAX_SAMPLES}, or than {MAX_SECONDS} seconds: "
            "split the file, or lower its rate"
        )
