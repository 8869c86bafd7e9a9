"""Sound that ffmpeg reads, through PyAV: which of its formats, and how far a sound goes by its container's clock.

Formats are a closed list: ffmpeg left to itself would also follow playlists and manifests, which name other files.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np

from operators.batch import RowError

CUT_SECONDS = 0.1  # what encoders' padding may make of a length; a sound that lacks more of it was cut off
CUT_SECONDS_OF_FILM = 1.0  # where a film's length stands for it, whose last picture may last that long

# Names of ffmpeg's demuxers that may hold sound in the file itself (ffmpeg -demuxers). Those whose header tells a length:
TELLING = (
    *("3dostr", "aiff", "ape", "au", "caf", "dsf", "flac", "flv", "hca", "iff", "laf", "matroska"),
    *("mov", "mpc", "mpc8", "mxf", "nistsphere", "osq", "pvf", "qoa", "rm", "shn", "sox", "tak", "tta", "voc"),
    *("w64", "wav", "webm", "wtv", "wv", "xwma"),
)
# Those of which ffmpeg guesses the length, or that tell none; Ogg marks its last page.
STREAMS = (
    *("4xm", "aa", "aac", "aax", "ac3", "ac4", "ace", "acm", "act", "adp", "ads", "adx", "aea", "afc", "aix", "alp"),
    *(
        "amr",
        "amrnb",
        "amrwb",
        "apac",
        "apc",
        "apm",
        "argo_asf",
        "asf",
        "asf_o",
        "ast",
        "avi",
        "avr",
        "avs",
        "bfstm",
        "bink",
        "binka",
        "bonk",
    ),
    *("brstm", "codec2", "daud", "derf", "dfpwm", "dhav", "dsicin", "dss", "dts", "dtshd", "dv", "dxa", "ea", "eac3"),
    *("epaf", "film_cpk", "fsb", "fwse", "g723_1", "g729", "genh", "gsm", "gxf", "hcom", "iamf", "ilbc", "ipmovie"),
    *("ircam", "iss", "ivr", "jv", "kux", "lc3", "live_flv", "loas", "lvf", "lxf", "mca", "mlp", "mm", "mmf", "mods"),
    *(
        "moflex",
        "mp3",
        "mpeg",
        "mpegts",
        "msf",
        "mtaf",
        "musx",
        "mv",
        "nsp",
        "nsv",
        "nut",
        "nuv",
        "ogg",
        "oma",
        "paf",
        "pmp",
    ),
    *("pp_bnk", "psxstr", "pva", "qcp", "redspark", "rka", "rl2", "roq", "rpl", "rsd", "rso", "sbc", "scd", "sdns"),
    *("sds", "sdx", "sga", "siff", "smjpeg", "smk", "smush", "sol", "spdif", "svag", "svs", "swf", "thp", "tiertexseq"),
    *("truehd", "ty", "vag", "vividas", "vivo", "vmd", "vpk", "vqf", "wady", "wavarc", "wc3movie", "wsaud", "wsd"),
    *("wsvqa", "wve", "xa", "xmd", "xmv", "xvag", "yop"),
)
NO_OTHER_FILES = {"format_whitelist": ",".join(TELLING + STREAMS), "protocol_whitelist": "none"}


LENGTH = re.compile(r"(\d+):(\d+):(\d+(?:\.\d*)?)")


@dataclass
class Clock:
    """How far a sound goes, in seconds of its container's time, and how far it should."""

    told: float = 0.0  # 0: the container does not tell
    slack: float = CUT_SECONDS
    of_sound: bool = False  # it is the sound's own; else whatever the container holds moves it
    reached: float = field(default=0.0, init=False)

    @property
    def is_at_end(self) -> bool:
        """Whether the end that was told of has been reached; False if none was."""
        return self.told > 0 and self.reached >= self.told - self.slack

    def advance(self, seconds: float) -> None:
        """Something that ends at `seconds` has been read."""
        self.reached = max(self.reached, seconds)


@contextmanager
def open_container(content: bytes, form: str, demuxer: str | None = None) -> Iterator[Any]:
    """A container of PyAV with a sound in it, read by `demuxer`; without one ffmpeg tells the format by the content.

    Tags need not be UTF-8. `form` is how errors name the format. Raises `RowError` if there is no sound in it that
    can be decoded, and PyAV's errors.
    """
    import av

    with av.open(
        io.BytesIO(content),
        format=demuxer,
        metadata_errors="replace",
        container_options={} if demuxer else NO_OTHER_FILES,
    ) as container:
        form = form if demuxer else name_of(container)
        if not container.streams.audio:
            raise RowError(f"{form} without sound")
        sound = container.streams.audio[0]
        if sound.codec_context is None:
            raise RowError(f"{form} with a sound that ffmpeg has no decoder for")
        if not sound.rate:
            raise RowError(f"{form} with a sound whose rate is not known")
        yield container


def name_of(container: Any) -> str:
    """How errors name the format of an open container: the first of ffmpeg's names, in capitals."""
    return str(container.format.name).partition(",")[0].upper()


def tells_length(container: Any) -> bool:
    """Whether the length of a container is what its header says, and not a guess of ffmpeg's."""
    return not set(container.format.name.split(",")).isdisjoint(TELLING)


def length_of(container: Any) -> int:
    """Samples of the first sound of an open container; 0 if it does not tell."""
    import av

    sound = container.streams.audio[0]
    if sound.duration is not None:
        return int(sound.duration * sound.time_base * sound.rate)
    if container.duration is not None and len(container.streams) == 1:
        return int(container.duration * sound.rate / av.time_base)
    return 0


def clock_of(container: Any) -> Clock:
    """The clock of the first sound of an open container, with the end that its header tells."""
    import av

    sound = container.streams.audio[0]
    if not tells_length(container):
        return Clock()
    if sound.duration is not None:
        return Clock(float(((sound.start_time or 0) + sound.duration) * sound.time_base), of_sound=True)
    if stated := LENGTH.fullmatch(sound.metadata.get("DURATION", "")):  # Matroska's tag of one stream
        hours, minutes, seconds = (float(part) for part in stated.groups())
        return Clock(hours * 3600 + minutes * 60 + seconds, of_sound=True)
    if container.duration is not None:
        slack = CUT_SECONDS if len(container.streams) == 1 else CUT_SECONDS_OF_FILM
        start = 0 if "matroska" in container.format.name else container.start_time or 0  # Matroska tells the end
        return Clock((start + container.duration) / av.time_base, slack)
    return Clock()


def decode_blocks(container: Any, clock: Clock) -> Iterator[np.ndarray]:
    """The first sound of an open container, as blocks float32 (channels, n), at the stream's rate.

    What cannot be decoded before the first frame is junk, and is left out; a pause that the container does not hold is
    left out too. Raises PyAV's errors.
    """
    import av

    rate, planar, shape = container.streams.audio[0].rate, None, None
    for frame in chain(decode_frames(container, clock), [None]):  # None: what the resampler still holds
        found = None if frame is None else (frame.format.name, frame.layout.name, frame.sample_rate)
        if found != shape and planar is not None:
            yield from (made.to_ndarray() for made in planar.resample(None))
            planar = None
        if frame is None:
            return
        if planar is None:
            shape = found
            planar = av.AudioResampler(format="fltp", rate=None if frame.sample_rate == rate else rate)
        yield from (made.to_ndarray() for made in planar.resample(frame))


def decode_frames(container: Any, clock: Clock) -> Iterator[Any]:
    """Frames of the first sound of an open container; `clock` goes along with what is read."""
    import av

    sound, failure, began = container.streams.audio[0], None, False
    for packet in container.demux():
        end = None if packet.pts is None or packet.time_base is None else (packet.pts + (packet.duration or 0))
        if packet.stream.index == sound.index:  # the packet's own index is 0 in the one that ends a stream
            try:
                frames = packet.decode()
            except av.error.FFmpegError as error:
                if began:
                    raise
                failure = error
                continue
            for frame in frames:
                began = True
                if frame.pts is not None and frame.time_base:
                    clock.advance(float(frame.pts * frame.time_base) + frame.samples / frame.sample_rate)
                yield frame
        elif clock.of_sound or packet.is_corrupt:
            continue
        if end is not None:
            clock.advance(float(end * packet.time_base))
    if failure is not None and not began:
        raise failure
