"""The bounds of one object, in one place: what is more is a reject, whose reason names the bound and the remedy."""

from __future__ import annotations

from dataclasses import dataclass

HELD_BYTES = 256 * 2**20  # of decoded and preprocessed objects that a reading task holds at once, or one object

MAX_PIXELS = 178_956_970  # of a picture, decoded or made: Pillow's own limit
MAX_MEASURED_PIXELS = 2**26  # of a picture that is measured and moved in float64: 8192 x 8192
MAX_SECONDS = 6 * 3600  # of a sound
MAX_SAMPLES = 2**28  # of a sound, or of all windows of one: 1.7 hours at 44.1 kHz, 4.6 at 16 kHz
MAX_CHARS = 2**27  # of a text, or of all chunks of one
MAX_ROWS = 2**18  # that one object is fanned out to


@dataclass(frozen=True)
class Peak:
    """What one object takes of memory at most while something works on it, beyond its content and a decoded input."""

    unit: str
    most: int  # units of one object
    bytes_per_unit: int


PEAKS = {
    "decode image": Peak("pixels", MAX_PIXELS, 28),
    "decode scientific_image": Peak("pixels", MAX_PIXELS, 28),
    "decode audio": Peak("samples", MAX_SAMPLES, 5),
    "decode text": Peak("characters", MAX_CHARS, 12),
    "resize_image": Peak("pixels", MAX_PIXELS, 8),
    "center_crop": Peak("pixels", MAX_PIXELS, 8),
    "center_mass": Peak("pixels", MAX_MEASURED_PIXELS, 64),
    "align_principal_axis": Peak("pixels", MAX_MEASURED_PIXELS, 64),
    "scale_to_radius": Peak("pixels", MAX_MEASURED_PIXELS, 64),
    "normalize_intensity": Peak("pixels", MAX_MEASURED_PIXELS, 64),
    "resample": Peak("samples", MAX_SAMPLES, 5),
    "trim_silence": Peak("samples", MAX_SAMPLES, 5),
    "normalize_loudness": Peak("samples", MAX_SAMPLES, 5),
    "limit_duration": Peak("samples", MAX_SAMPLES, 5),
    "window_audio": Peak("rows", MAX_ROWS, 1024),
    "clean_text": Peak("characters", MAX_CHARS, 16),
    "truncate_text": Peak("characters", MAX_CHARS, 4),
    "drop_short_text": Peak("characters", MAX_CHARS, 4),
    "chunk_text": Peak("rows", MAX_ROWS, 2048),
}
