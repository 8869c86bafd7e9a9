"""Operators on sound: resample, trim, set the loudness, limit the length, and cut into windows.

All keep float32 and one channel; only `resample` changes the rate.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from operators.batch import Batch, RowError, RowFiltered, Waveform, map_rows
from operators.decode.audio import RATES
from operators.errors import SpecError
from operators.fan_out import Piece, fan_out, span
from operators.limits import MAX_ROWS, MAX_SAMPLES
from operators.preprocess import operator

Rate = Annotated[int, Field(ge=RATES[0], le=RATES[1])]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
SecondsOrNone = Annotated[float, Field(gt=0, allow_inf_nan=False)] | None
SecondsOrZero = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Decibels = Annotated[float, Field(ge=-120, le=0)]

TIME = span("time_ms")
FRAMES_A_SECOND = 100  # in which `trim_silence` looks for sound
BLOCK_S, BLOCK_STEP = 0.4, 0.25  # over which loudness is measured, and its part by which they follow (ITU-R BS.1770-4)
SILENT_LUFS, RELATIVE_LU = -70.0, 10.0  # a block below that, or so far below the mean, does not count
AT_ONCE = 2**20  # samples that are worked on in float64


@operator("audio")
def resample(batch: Batch, *, rate: Rate) -> Batch:
    """Bring the sound to `rate` samples a second, with soxr at its high quality (https://sourceforge.net/projects/soxr).

    Families do so themselves, to the rate of their model; this is for what comes between. Rejected: a sound that would
    have no sample left, or more than a row may hold.
    """

    def bring(sound: Waveform) -> Waveform:
        return resampled(sound, rate)

    return map_rows(batch, bring, column="audio", into="audio", stage="resample")


@operator("audio")
def trim_silence(batch: Batch, *, threshold_db: Decibels = -40.0, margin_s: SecondsOrZero = 0.0) -> Batch:
    """Cut the silence before the first and after the last sound; what is between stays.

    Silent is a stretch of 10 ms whose root mean square is more than `-threshold_db` decibels below the loudest one's. `margin_s`
    seconds of silence are left on each side. A row that is nothing but zeros is filtered.
    """

    def trim(sound: Waveform) -> Waveform:
        return trimmed(sound, threshold_db, margin_s)

    return map_rows(batch, trim, column="audio", into="audio", stage="trim_silence")


@operator("audio")
def normalize_loudness(batch: Batch, *, target_lufs: Annotated[float, Field(ge=-70, le=0)] = -23.0) -> Batch:
    """Bring the integrated loudness to `target_lufs` (ITU-R BS.1770-4, measured by pyloudnorm; EBU R 128 asks for -23).

    A sound of less than 0.4 seconds is measured as one block of its own length. One that is silent (below -70 LUFS, where
    the measure ends) stays as it is. Peaks beyond 1 are kept, not clipped.
    """

    def normalize(sound: Waveform) -> Waveform:
        loudness = loudness_of(sound)
        if not np.isfinite(loudness):
            return sound
        gain = np.float32(10 ** ((target_lufs - loudness) / 20))
        return Waveform(sound.samples * gain, sound.rate)

    return map_rows(batch, normalize, column="audio", into="audio", stage="normalize_loudness")


@operator("audio")
def limit_duration(
    batch: Batch,
    *,
    min_seconds: SecondsOrZero = 0.0,
    max_seconds: SecondsOrNone = None,
    action: Literal["filter", "cut"] = "filter",
) -> Batch:
    """Filter rows that are shorter than `min_seconds`; those longer than `max_seconds` too, or `cut` them to their start."""

    def limit(sound: Waveform) -> Waveform:
        """A sound, cut or whole. Raises `RowFiltered`."""
        if sound.seconds < min_seconds:
            raise RowFiltered(f"{sound.seconds:.2f} seconds, shorter than {min_seconds:g}")
        if max_seconds is None or sound.seconds <= max_seconds:
            return sound
        if action == "filter":
            raise RowFiltered(f"{sound.seconds:.2f} seconds, longer than {max_seconds:g}")
        kept = sound.samples[: max(1, round(max_seconds * sound.rate))]
        return Waveform(kept.copy(), sound.rate)  # else the whole sound would be held for the sake of its start

    return map_rows(batch, limit, column="audio", into="audio", stage="limit_duration")


@operator("audio", at_query=False, positions=TIME)
def window_audio(batch: Batch, *, seconds: Seconds, overlap_seconds: SecondsOrZero = 0.0) -> Batch:
    """Fan each object out to windows of `seconds`, of which each begins `overlap_seconds` before the last one ended.

    A window becomes a row (see `fan_out`) whose `audio` is the window, and whose `start` and `end` are its place in the sound
    that came in, in milliseconds. The last window ends with the sound: it is moved back so that it is as long as the
    others. A sound of `seconds` or less is one window. A sound of more windows than `MAX_ROWS`, or whose windows hold more
    than `MAX_SAMPLES`, is rejected.

    Raises `SpecError` for an overlap that is no less than the window, and for rows that have been fanned out already.
    """
    if overlap_seconds >= seconds:
        raise SpecError(f"window_audio: overlap_seconds is {overlap_seconds:g}, and a window has {seconds:g} seconds.")

    def cut(row: int) -> list[Piece]:
        sound = batch["audio"][row]
        places = window_places(sound, seconds, overlap_seconds)
        parts = [Waveform(sound.samples[start:end], sound.rate) for start, end in places]
        return [
            (part, (milliseconds(start, sound), milliseconds(end, sound)))
            for part, (start, end) in zip(parts, places, strict=True)
        ]

    return fan_out(batch, cut, column="audio", stage="window_audio", positions=TIME)


def resampled(sound: Waveform, rate: int) -> Waveform:
    """A sound at `rate`. Raises `RowError` if no sample, or too many, would be left."""
    if rate == sound.rate:
        return sound
    import soxr

    if len(sound.samples) * rate > MAX_SAMPLES * sound.rate:
        raise RowError(
            f"{len(sound.samples)} samples would become more than {MAX_SAMPLES}, at {rate} Hz: "
            "limit_duration before it keeps long sounds out, or cuts them"
        )
    samples = soxr.resample(sound.samples, sound.rate, rate, quality="HQ")
    if not len(samples):
        raise RowError(f"{len(sound.samples)} samples would become none, at {rate} Hz")
    return Waveform(samples, rate)


def trimmed(sound: Waveform, threshold_db: float, margin_s: float) -> Waveform:
    """A sound without the silence around it; see `trim_silence`. Raises `RowFiltered` if it is all silence."""
    size = max(1, sound.rate // FRAMES_A_SECOND)
    stride = size * max(1, AT_ONCE // size)
    power = np.concatenate(
        [frame_powers(sound.samples[at : at + stride], size) for at in range(0, len(sound.samples), stride)]
    )
    if not power.any():
        raise RowFiltered("nothing but silence")
    loud = np.flatnonzero(power >= power.max() * 10 ** (threshold_db / 10))
    margin = round(margin_s * sound.rate)
    start, end = max(0, int(loud[0]) * size - margin), int(loud[-1] + 1) * size + margin
    return Waveform(sound.samples[start:end].copy(), sound.rate)  # without what was cut off


def frame_powers(samples: np.ndarray, size: int) -> np.ndarray:
    """Mean square of each frame of `size` samples, float64; the last frame may be shorter."""
    starts = np.arange(0, len(samples), size)
    energy = np.add.reduceat(np.square(samples, dtype=np.float64), starts)
    return np.asarray(energy / np.minimum(size, len(samples) - starts))


def loudness_of(sound: Waveform) -> float:
    """Integrated loudness in LUFS; minus infinity for a silent sound.

    What `pyloudnorm.Meter.integrated_loudness` gives, bit by bit, but for its four copies of the sound in float64.
    """
    powers = block_powers(sound, min(BLOCK_S, sound.seconds))
    with np.errstate(divide="ignore"):
        levels = -0.691 + 10.0 * np.log10(powers)
    audible = levels >= SILENT_LUFS
    if not audible.any():
        return -np.inf
    relative = -0.691 + 10.0 * np.log10(np.mean(powers[audible])) - RELATIVE_LU
    kept = powers[(levels > relative) & (levels > SILENT_LUFS)]
    return float(-0.691 + 10.0 * np.log10(np.mean(kept))) if len(kept) else -np.inf


def block_powers(sound: Waveform, block_s: float) -> np.ndarray:
    """Mean square of each block of `block_s` seconds of a sound behind the filters of ITU-R BS.1770-4, float64."""
    from pyloudnorm.iirfilter import IIRfilter
    from scipy.signal import lfilter

    rate, samples = sound.rate, sound.samples
    filters = [
        IIRfilter(4.0, 1 / np.sqrt(2), 1500.0, rate, "high_shelf"),
        IIRfilter(0.0, 0.5, 38.0, rate, "high_pass"),
    ]
    states = [np.zeros(2) for _ in filters]
    count = int(np.round((len(samples) / rate - block_s) / (block_s * BLOCK_STEP))) + 1
    starts = [int(block_s * (j * BLOCK_STEP) * rate) for j in range(count)]
    ends = [min(len(samples), int(block_s * (j * BLOCK_STEP + 1) * rate)) for j in range(count)]
    powers, done, begin, ready = np.zeros(count), 0, 0, np.zeros(0)  # `ready` begins at the sample `begin`
    for at in range(0, len(samples), AT_ONCE):
        made = samples[at : at + AT_ONCE].astype(np.float64)
        for index, weighting in enumerate(filters):
            made, states[index] = lfilter(weighting.b, weighting.a, made, zi=states[index])
            made = weighting.passband_gain * made
        ready = np.concatenate([ready, made])
        while done < count and ends[done] <= begin + len(ready):
            part = ready[starts[done] - begin : ends[done] - begin]
            powers[done] = (1.0 / (block_s * rate)) * np.sum(np.square(part))
            done += 1
        if done < count:
            ready, begin = ready[max(0, starts[done] - begin) :], max(begin, starts[done])
    return powers


def window_places(sound: Waveform, seconds: float, overlap_seconds: float) -> list[tuple[int, int]]:
    """Start and end, in samples, of the windows of a sound, all of one length; see `window_audio`.

    Raises `RowError` for more than `MAX_ROWS` of them, or than `MAX_SAMPLES` in them.
    """
    count, size = len(sound.samples), max(1, round(seconds * sound.rate))
    step = max(1, size - round(overlap_seconds * sound.rate))
    if count <= size:
        return [(0, count)]
    windows = len(range(0, count - size, step)) + 1
    if windows > MAX_ROWS or windows * size > MAX_SAMPLES:
        raise RowError(
            f"{windows} windows of {size} samples are more than {MAX_ROWS}, or hold more than {MAX_SAMPLES} samples: "
            "give longer windows, less overlap or a lower rate, or limit_duration before it"
        )
    starts = [*range(0, count - size, step), count - size]
    return [(start, start + size) for start in starts]


def milliseconds(place: int, sound: Waveform) -> int:
    """A place in a sound, in samples, as milliseconds."""
    return round(1000 * place / sound.rate)
