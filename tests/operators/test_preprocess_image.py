from __future__ import annotations

import random

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from operators.batch import Batch, make_batch, object_array
from operators.preprocess import find_operator
from operators.preprocess.image import center_crop, resize_image

SIZES = [(1, 1), (7, 5), (5, 7), (64, 64), (65, 33), (33, 65), (101, 100), (200, 31), (3, 90)]


def picture(width: int, height: int) -> Image.Image:
    return Image.frombytes("RGB", (width, height), random.Random(width * 1000 + height).randbytes(3 * width * height))


def image_batch(*images: Image.Image) -> Batch:
    names = [str(k) for k in range(len(images))]
    return {**make_batch(names, [b""] * len(names)), "image": object_array(images)}


def test_like_torchvision() -> None:
    functional = pytest.importorskip("torchvision.transforms.functional")
    modes = functional.InterpolationMode
    batch = image_batch(*(picture(*size) for size in SIZES))
    for size in (1, 24, 31, 64, 65):
        for resample in ("bilinear", "bicubic", "lanczos"):
            out = resize_image(batch, size=size, resample=resample)["image"]
            for image, expected in zip(out, batch["image"], strict=True):
                assert np.array_equal(np.asarray(image), np.asarray(functional.resize(expected, size, modes(resample))))
        for image, expected in zip(center_crop(batch, size=size)["image"], batch["image"], strict=True):
            assert image.size == (size, size)
            assert np.array_equal(np.asarray(image), np.asarray(functional.center_crop(expected, size)))


def test_shorter_side() -> None:
    out = resize_image(image_batch(picture(200, 100), picture(100, 301)), size=50)["image"]
    assert [image.size for image in out] == [(100, 50), (50, 150)]


def test_padding_is_black() -> None:
    pixels = np.asarray(center_crop(image_batch(Image.new("RGB", (2, 8), (9, 9, 9))), size=4)["image"][0])
    assert (pixels[:, [0, 3]] == 0).all() and (pixels[:, 1:3] == 9).all()


def test_a_strip_that_would_explode_is_rejected() -> None:
    out = resize_image(image_batch(Image.new("RGB", (30_000, 1)), picture(9, 9)), size=224)
    assert out["error"][0].startswith(
        "resize_image: 30000 x 1 would become 6720000 x 224, more than 178956970 pixels: "
    )
    assert out["error"][1] is None
    assert out["image"][1].size == (224, 224)


def test_rejected_rows_pass() -> None:
    batch = image_batch(picture(9, 9), picture(8, 8))
    batch["error"][0], batch["image"][0] = "decode: empty", None
    out = center_crop(resize_image(batch, size=4), size=2)
    assert out["image"][0] is None and out["error"][0] == "decode: empty"
    assert out["image"][1].size == (2, 2) and batch["image"][1].size == (8, 8)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("resize_image", {"size": 0}),
        ("resize_image", {"size": 9, "resample": "cubic"}),
        ("resize_image", {}),
        ("center_crop", {"size": -1}),
        ("center_crop", {"size": 9, "fill": 1}),
    ],
)
def test_bad_parameters_are_refused(name: str, params: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        find_operator(name).params.model_validate(params)
