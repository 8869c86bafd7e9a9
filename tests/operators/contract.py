"""What the contract suite gives every family, and what a family's cases (`families/`) tell it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from operators.batch import Waveform

TEXTS = [
    "a short one",
    "parse the options of a command line, and say what is wrong with them",
    "grüße, 世界 🙂 עברית",
    "word " * 700,  # longer than any window
    "\n\t punctuation?! (and whitespace)   ",
    "a",
    "a short one",  # again
    "run a function every few seconds " * 5,
    "e\u0301 composed and \u00e9 not",
]


def make_pictures() -> list[Image.Image]:
    rng = np.random.default_rng(7)
    shapes = [(32, 32), (300, 200), (64, 400), (5, 9), (224, 224)]
    pictures = [Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8)) for shape in shapes]
    return [*pictures, Image.new("RGB", (40, 30), (200, 10, 10)), pictures[0].copy()]


def make_sounds() -> list[Waveform]:
    rng = np.random.default_rng(7)

    def tone(pitch: float, seconds: float, rate: int) -> Waveform:
        times = np.arange(int(seconds * rate)) / rate
        sound = 0.3 * np.sin(2 * np.pi * pitch * times) + 0.05 * rng.standard_normal(len(times))
        return Waveform(sound.astype(np.float32), rate)

    first = tone(440, 0.5, 16_000)
    sounds = [first, tone(220, 0.3, 8_000), tone(990, 1.7, 44_100), tone(300, 0.06, 16_000), tone(120, 4.0, 16_000)]
    return [*sounds, tone(700, 0.9, 22_050), Waveform(first.samples.copy(), first.rate)]


INPUTS: dict[str, Callable[[], list[Any]]] = {
    "text": lambda: list(TEXTS),
    "image": make_pictures,
    "audio": make_sounds,
}


@dataclass(frozen=True)
class Materials:
    """What a case may make its model of: real data, the folder of MiniLM, and a folder of its own to write to."""

    data: Path
    minilm: str
    folder: Path


@dataclass(frozen=True)
class Case:
    """One family on one modality.

    `other` has another value for every field that the fingerprint covers, `outside` for every field that it does not.
    """

    family: str
    modality: str
    fields: Callable[[Materials], dict[str, Any]]
    other: Mapping[str, Any] = field(default_factory=dict)
    outside: Mapping[str, Any] = field(default_factory=dict)
