"""The bounds of one object, in one place: what is more is a reject, which names the bound and the remedy."""

from __future__ import annotations

MAX_PIXELS = 178_956_970  # of a picture: Pillow's own limit
MAX_SECONDS = 6 * 3600  # of a sound
MAX_SAMPLES = 2**28  # of a sound: 1.7 hours at 44.1 kHz, 4.6 at 16 kHz
