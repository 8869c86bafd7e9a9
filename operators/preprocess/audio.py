"""Operators on sound: resample, trim, set the loudness, limit the length, and cut into windows.

All keep float32 and one channel; only `resample` changes the rate.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from operators.batch import Batch, RowError, RowFiltered, Waveform, live_rows, map_rows, object_array, take_rows
from operators.decode.audio import MAX_SAMPLES, RATES
from operators.errors import SpecError
from operators.preprocess import operator

Rate = Annotated[int, Field(ge=RATES[0], le=RATES[1])]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
SecondsOrNone = Annotated[float, Field(gt=0, allow_inf_nan=False)] | None
SecondsOrZero = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Decibels = Annotated[float, Field(ge=-120, le=0)]

FRAMES_A_SECOND = 100  # in which `trim_silence` looks for sound
BLOCK_S = 0.4  # over which loudness is measured (ITU-R BS.1770-4)


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
        if sound.seconds < min_seconds:
            raise RowFiltered(f"{sound.seconds:.2f} seconds, shorter than {min_seconds:g}")
        if max_seconds is None or sound.seconds <= max_seconds:
            return sound
        if action == "filter":
            raise RowFiltered(f"{sound.seconds:.2f} seconds, longer than {max_seconds:g}")
        return Waveform(sound.samples[: max(1, round(max_seconds * sound.rate))], sound.rate)

    return map_rows(batch, limit, column="audio", into="audio", stage="limit_duration")


@operator("audio", at_query=False, fans_out=True)
def window_audio(batch: Batch, *, seconds: Seconds, overlap_seconds: SecondsOrZero = 0.0) -> Batch:
    """Fan each object out to windows of `seconds`, of which each begins `overlap_seconds` before the last one ended.

    Every live row becomes one row a window, with all its columns and: `id` = `object_id#k`, `chunk` = k, `audio` = the
    window, and `start` and `end`, its place in the sound that came in, in milliseconds (int64). The last window ends with
    the sound: it is moved back so that it is as long as the others. A sound of `seconds` or less is one window. Rejected
    and filtered rows pass once, with their id and zeros. Objects stay in their order.

    Raises `SpecError` for an overlap that is no less than the window, and for rows that have been fanned out already.
    """
    if overlap_seconds >= seconds:
        raise SpecError(f"window_audio: overlap_seconds is {overlap_seconds:g}, and a window has {seconds:g} seconds.")
    live = set(live_rows(batch).tolist())
    if any(batch["id"][row] != batch["object_id"][row] for row in live):
        raise SpecError(
            "window_audio: the rows are windows already.\n  Name one operator that fans out a job, not two."
        )
    rows: list[int] = []
    pieces: list[tuple[str, Waveform | None, int, int, int]] = []
    for row, (row_id, sound) in enumerate(zip(batch["id"], batch["audio"], strict=True)):
        if row not in live:
            rows.append(row)
            pieces.append((row_id, sound, 0, 0, 0))
            continue
        for k, (start, end) in enumerate(window_places(sound, seconds, overlap_seconds)):
            window = Waveform(sound.samples[start:end], sound.rate)
            rows.append(row)
            pieces.append((f"{row_id}#{k}", window, k, milliseconds(start, sound), milliseconds(end, sound)))
    ids, sounds, *numbers = zip(*pieces, strict=True) if pieces else ((),) * 5
    chunk, start_ms, end_ms = (np.array(values, dtype=np.int64) for values in numbers)
    out = take_rows(batch, np.array(rows, dtype=np.int64))
    return {
        **out,
        "id": object_array(ids),
        "audio": object_array(sounds),
        "chunk": chunk,
        "start": start_ms,
        "end": end_ms,
    }


def resampled(sound: Waveform, rate: int) -> Waveform:
    """A sound at `rate`. Raises `RowError` where no sample, or too many, would be left."""
    if rate == sound.rate:
        return sound
    import soxr

    if len(sound.samples) * rate > MAX_SAMPLES * sound.rate:
        raise RowError(f"{len(sound.samples)} samples would become more than {MAX_SAMPLES}, at {rate} Hz")
    samples = soxr.resample(sound.samples, sound.rate, rate, quality="HQ")
    if not len(samples):
        raise RowError(f"{len(sound.samples)} samples would become none, at {rate} Hz")
    return Waveform(samples, rate)


def trimmed(sound: Waveform, threshold_db: float, margin_s: float) -> Waveform:
    """A sound without the silence around it; see `trim_silence`. Raises `RowFiltered` where it is all silence."""
    size = max(1, sound.rate // FRAMES_A_SECOND)
    starts = np.arange(0, len(sound.samples), size)
    energy = np.add.reduceat(np.square(sound.samples, dtype=np.float64), starts)
    power = energy / np.minimum(size, len(sound.samples) - starts)
    if not power.any():
        raise RowFiltered("nothing but silence")
    loud = np.flatnonzero(power >= power.max() * 10 ** (threshold_db / 10))
    margin = round(margin_s * sound.rate)
    start = max(0, int(starts[loud[0]]) - margin)
    return Waveform(sound.samples[start : int(starts[loud[-1]]) + size + margin], sound.rate)


def loudness_of(sound: Waveform) -> float:
    """Integrated loudness in LUFS; minus infinity for a silent sound."""
    from pyloudnorm import Meter

    meter = Meter(sound.rate, block_size=min(BLOCK_S, sound.seconds))
    return float(meter.integrated_loudness(sound.samples.astype(np.float64)))


def window_places(sound: Waveform, seconds: float, overlap_seconds: float) -> list[tuple[int, int]]:
    """Start and end, in samples, of the windows of a sound, all of one length; see `window_audio`."""
    count, size = len(sound.samples), max(1, round(seconds * sound.rate))
    step = max(1, size - round(overlap_seconds * sound.rate))
    if count <= size:
        return [(0, count)]
    starts = [*range(0, count - size, step), count - size]
    return [(start, start + size) for start in starts]


def milliseconds(place: int, sound: Waveform) -> int:
    """A place in a sound, in samples, as milliseconds."""
    return round(1000 * place / sound.rate)
