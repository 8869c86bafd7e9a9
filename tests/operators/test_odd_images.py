"""Pictures as they come: the verdict on each is the one that Pillow gives where it reads the file whole."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from odd_images import KINDS, write_odd_images

from operators.batch import make_batch
from operators.decode.image import decode, decoded_bytes

FILES = 220


@pytest.mark.parametrize("seed", [0, 1])
def test_verdicts_are_those_of_pillow(tmp_path: Path, seed: int) -> None:
    expected = write_odd_images(tmp_path, FILES, seed)
    contents = [(tmp_path / name).read_bytes() for name in expected]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batch = decode(make_batch(list(expected), contents))
        sizes = [decoded_bytes(content) for content in contents]
    found = {
        name: "picture" if error is None else "reject" for name, error in zip(expected, batch["error"], strict=True)
    }
    assert {name: (found[name], verdict) for name, verdict in expected.items() if found[name] != verdict} == {}
    assert min(Counter(expected.values()).values()) > FILES // 5
    assert {name.partition("-")[2].partition(".")[0] for name in expected} == set(KINDS)
    told = [error for error in batch["error"] if error is not None]
    assert [error for error in told if "Error:" in error] == [], "a reason names an exception, not what is wrong"
    for image, size in zip(batch["image"], sizes, strict=True):
        if image is not None:
            assert np.asarray(image).shape == (image.height, image.width, 3)
            assert size >= image.width * image.height * 3
