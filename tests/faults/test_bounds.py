"""The largest objects that are taken, and a thousand odd sounds, against the bounds in `operators.limits`."""

from __future__ import annotations

import io
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from odd_sounds import write_odd_sounds
from peak_memory import peaks_of
from PIL import Image

from operators.limits import MAX_PIXELS, MAX_ROWS, PEAKS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
SLACK = 96 * 2**20
SIDE = math.isqrt(MAX_PIXELS)
HOUR = 3600 * 44_100

DECODE = """
from operators.decode import find_decoder
made = measure("peak", lambda: find_decoder({modality!r}).decode_content(inputs))
"""


def tiff(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "TIFF", compression="tiff_lzw")
    return file.getvalue()


def flac() -> bytes:
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, (np.sin(np.arange(HOUR) / 20) * 9_000).astype(np.int16), 44_100, format="FLAC")
    return file.getvalue()


@pytest.mark.fault("the largest objects", "each takes no more memory than its bound")
@pytest.mark.parametrize(
    ("modality", "make", "units"),
    [
        ("image", lambda: tiff(np.zeros((SIDE, SIDE), np.uint16)), SIDE**2),
        ("image", lambda: tiff(np.zeros((SIDE, SIDE), np.float32)), SIDE**2),
        ("image", lambda: tiff(np.zeros((SIDE, SIDE, 4), np.uint8)), SIDE**2),
        ("scientific_image", lambda: tiff(np.zeros((SIDE, SIDE), np.uint16)), SIDE**2),
        ("audio", flac, HOUR),
        ("text", lambda: b"a word " * (PEAKS["decode text"].most // 7), PEAKS["decode text"].most),
    ],
)
def test_decoding_the_largest(modality: str, make: Any, units: int):
    peak = peaks_of(DECODE.format(modality=modality), make())["peak"]
    assert peak <= PEAKS[f"decode {modality}"].bytes_per_unit * units + SLACK, peak / units


@pytest.mark.fault("the largest objects", "each takes no more memory than its bound")
def test_operators_on_an_hour_of_sound_and_on_the_most_chunks():
    peaks = peaks_of(f"""
import numpy as np
from operators.batch import Waveform, make_batch, object_array
from operators.embedders.hashing import Config
from operators.preprocess import find_operator
def apply(name, into, value, /, **params):
    made = measure(name, lambda: find_operator(name).apply({{**make_batch(["a"], [b""]), into: object_array([value])}}, **params))
    assert made["error"][0] is None, made["error"][0]
sound = Waveform(np.sin(np.arange({HOUR}, dtype=np.float32)), 44_100)
for name in ("normalize_loudness", "trim_silence"):
    apply(name, "audio", sound)
apply("chunk_text", "text", "a " * {2 * MAX_ROWS}, column="v", max_tokens=2, tokenizer=Config())
""")
    for name, units in (("normalize_loudness", HOUR), ("trim_silence", HOUR), ("chunk_text", MAX_ROWS)):
        assert peaks[name] <= PEAKS[name].bytes_per_unit * units + SLACK, (name, peaks[name] / units)


@pytest.mark.fault("1,000 odd sounds", "verdicts are ffmpeg's; no more memory than the largest takes")
@pytest.mark.parametrize("seed", range(3))
def test_a_thousand_odd_sounds(tmp_path: Path, seed: int):
    expected = write_odd_sounds(tmp_path, 1_000, seed=seed)
    code = """
from pathlib import Path
from operators.batch import make_batch
from operators.decode import find_decoder
names, folder = inputs
batch = make_batch(names, [Path(folder, name).read_bytes() for name in names])
errors = measure("peak", lambda: find_decoder("audio").decode(batch))["error"]
Path(folder, "errors").write_text(json.dumps(errors.tolist()))
"""
    peaks = peaks_of(code, (list(expected), str(tmp_path)))
    errors = json.loads((tmp_path / "errors").read_text())
    found = {name: "sound" if error is None else "reject" for name, error in zip(expected, errors, strict=True)}
    assert {name: (found[name], verdict) for name, verdict in expected.items() if found[name] != verdict} == {}
    assert peaks["peak"] < 2**29  # the sounds themselves, which all stay
