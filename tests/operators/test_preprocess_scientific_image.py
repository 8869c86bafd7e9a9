"""What the operators promise: a galaxy looks the same wherever it lies, however it is turned, large or bright."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from galaxies import SIDE, draw, npy_bytes
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from operators.batch import Batch, make_batch, object_array
from operators.chain import Chain, Step
from operators.embedders.base import normalize_rows
from operators.embedders.hashing import Config
from operators.preprocess import find_operator
from operators.preprocess.scientific_image import Mass

pytest.importorskip("scipy")

MIDDLE = (SIDE - 1) / 2
GEOMETRY = ("center_mass", "align_principal_axis", "scale_to_radius")
SHIFTS = st.tuples(st.floats(-8, 8), st.floats(-8, 8))
ANGLES = st.floats(-np.pi, np.pi)
SCALES = st.floats(0.65, 1.25)
FLUXES = st.floats(0.01, 100)


def steps(*names: str) -> tuple[Step, ...]:
    return tuple(Step(name, {}) for name in names)


def run(name: str, *images: Any, **params: Any) -> list[Any]:
    ids = [str(k) for k in range(len(images))]
    out = find_operator(name).apply({**make_batch(ids, [b""] * len(ids)), "image": object_array(images)}, **params)
    assert list(out["error"]) == [None] * len(ids)
    return list(out["image"])


def vectors(names: tuple[str, ...], *galaxies: np.ndarray) -> np.ndarray:
    """Unit vectors of galaxies through the whole chain, from file to embedding, less that of black: (n, 768)."""
    batch = Chain("scientific_image", (*steps(*names), Step("normalize_intensity", {}))).run(
        make_batch([str(k) for k in range(len(galaxies))], [npy_bytes(galaxy) for galaxy in galaxies]), {}
    )
    assert all(error is None for error in batch["error"])
    config = Config(dim=768).resolve()
    images = object_array([*batch["image"], Image.new("RGB", (SIDE, SIDE))])
    *made, black = config.load("cpu").embed(config.prepare({"image": images}, "document"))
    return normalize_rows(np.stack(made) - black)


def cosine(names: tuple[str, ...], changed: np.ndarray) -> float:
    """How alike the vectors of a changed galaxy and of the plain one are."""
    one, other = vectors(names, draw(), changed)
    return float(one @ other)


@settings(max_examples=40, deadline=None)
@given(SHIFTS, ANGLES, SCALES, FLUXES, st.floats(-500, 500))
def test_all_four_see_none_of_it(
    shift: tuple[float, float], angle: float, scale: float, flux: float, background: float
) -> None:
    assert cosine(GEOMETRY, draw(shift, angle, scale, flux, background)) > 0.995


@pytest.mark.parametrize(
    ("left_out", "changed"),
    [
        ("center_mass", {"shift": (8.0, -6.0)}),
        ("align_principal_axis", {"angle": 1.3}),
        ("align_principal_axis", {"angle": np.pi}),
        ("scale_to_radius", {"scale": 0.65}),
    ],
)
def test_without_one_its_change_is_seen(left_out: str, changed: dict[str, Any]) -> None:
    rest = tuple(name for name in GEOMETRY if name != left_out)
    galaxy = draw(**changed)
    assert cosine(rest, galaxy) < 0.95 < 0.995 < cosine(GEOMETRY, galaxy)


def test_other_objects_stay_apart() -> None:
    other = draw() + 0.8 * (draw(shift=(16, -16), scale=0.5) - 100)
    assert cosine(GEOMETRY, other) < 0.95


@settings(max_examples=25, deadline=None)
@given(SHIFTS, ANGLES)
def test_the_centre_of_mass_comes_to_the_middle(shift: tuple[float, float], angle: float) -> None:
    (image,) = run("center_mass", draw(shift, angle))
    assert image.dtype == np.float32 and image.shape == (SIDE, SIDE)
    np.testing.assert_allclose(Mass.of(image).center, MIDDLE, atol=0.02)


def test_a_centred_picture_is_the_picture() -> None:
    (once,) = run("center_mass", draw())
    (twice,) = run("center_mass", once)
    np.testing.assert_allclose(twice, once, atol=2)  # of 1000
    moved, plain = run("center_mass", draw(shift=(5.25, -3.5)), draw())
    np.testing.assert_allclose(moved, plain, atol=3)


@settings(max_examples=25, deadline=None)
@given(ANGLES)
def test_the_long_axis_lies_level_and_the_tail_points_right(angle: float) -> None:
    turned, plain = run("align_principal_axis", *run("center_mass", draw(angle=angle), draw()))
    mass = Mass.of(turned)
    down, right = mass.offsets
    assert abs(mass.mean(down * right)) < 0.01 * mass.mean(right**2)
    assert mass.mean(right**2) > mass.mean(down**2) and mass.mean(right**3) > 0
    assert np.abs(turned - plain).max() < 20  # of 1000


def test_what_is_round_is_not_turned() -> None:
    down, right = np.indices((64, 64)) - 31.5
    round_one = np.exp(-(down**2 + right**2) / 50).astype(np.float32)
    oval = np.exp(-(down**2 / 30 + (down * 0.4 + right) ** 2 / 90)).astype(np.float32)
    same, turned = run("align_principal_axis", round_one, oval)
    (left,) = run("align_principal_axis", oval, min_elongation=0.9)
    assert np.array_equal(same, round_one) and np.array_equal(left, oval)
    assert np.abs(turned - oval).max() > 0.05


@pytest.mark.parametrize("measure", ["half_light", "rms"])
@pytest.mark.parametrize("radius", [0.1, 0.15])
@pytest.mark.parametrize("scale", [0.5, 1.0, 1.3])
def test_the_radius_is_a_part_of_the_side(measure: Any, radius: float, scale: float) -> None:
    (image,) = run("scale_to_radius", draw(scale=scale, shift=(2, 3)), measure=measure, radius=radius)
    assert image.shape == (SIDE, SIDE)
    assert Mass.of(image).radius(measure) == pytest.approx(radius * SIDE, rel=0.03)


def test_radii_are_those_of_a_normal_distribution() -> None:
    """Half of a normal distribution in the plane lies within sqrt(2 ln 2) standard deviations, its rms is sqrt(2)."""
    down, right = np.indices((101, 101)) - 50.0
    mass = Mass.of(np.exp(-(down**2 + right**2) / (2 * 8.0**2)).astype(np.float32))
    assert mass.radius("half_light") == pytest.approx(8 * np.sqrt(2 * np.log(2)), rel=0.01)
    assert mass.radius("rms") == pytest.approx(8 * np.sqrt(2), rel=0.01)


def test_zoom_is_bounded() -> None:
    dot = np.zeros((64, 64), dtype=np.float32)
    dot[30:33, 30:33] = 1
    near, far = (run("scale_to_radius", dot, radius=0.4, max_zoom=zoom)[0] for zoom in (2.0, 6.0))
    assert Mass.of(near).radius("rms") < 0.5 * Mass.of(far).radius("rms")


def test_what_shrinks_is_not_aliased() -> None:
    """Stripes of one pixel become their mean, not stripes of another width."""
    pixels = np.zeros((96, 96), dtype=np.float32)
    pixels[8:88, 8:88:2] = 1.0
    (image,) = run("scale_to_radius", pixels, radius=0.05)
    middle = image[45:51, 45:51]
    assert abs(float(middle.mean()) - 0.5) < 0.05 and float(middle.std()) < 0.02


@pytest.mark.parametrize("stretch", ["linear", "asinh", "log"])
def test_intensity_is_that_of_the_formula(stretch: Any) -> None:
    pixels = np.linspace(-50, 5000, 80 * 60, dtype=np.float32).reshape(80, 60)
    (image,) = run("normalize_intensity", pixels, stretch=stretch, low=2, high=90, subtract_background=False)
    low, high = np.percentile(pixels, (2, 90))
    part = np.clip((pixels.astype(np.float64) - low) / (high - low), 0, 1)
    expected = {
        "linear": part,
        "asinh": np.arcsinh(part / 0.1) / np.arcsinh(10),
        "log": np.log(1000 * part + 1) / np.log(1001),
    }[stretch]
    assert isinstance(image, Image.Image) and image.mode == "RGB" and image.size == (60, 80)
    assert np.abs(np.asarray(image).astype(int) - 255 * expected[..., None]).max() <= 0.51


@settings(max_examples=20, deadline=None)
@given(FLUXES, st.floats(-1000, 1000))
def test_flux_and_background_are_taken_out(flux: float, background: float) -> None:
    bright, plain = run("normalize_intensity", draw(flux=flux, background=background), draw())
    assert np.abs(np.asarray(bright).astype(int) - np.asarray(plain).astype(int)).max() <= 3


def test_noise_below_the_background_is_black() -> None:
    noise = np.random.default_rng(0).normal(0, 5, (SIDE, SIDE)).astype(np.float32)
    taken, left = (
        np.asarray(run("normalize_intensity", draw() + noise, subtract_background=on)[0])[:4].astype(float)
        for on in (True, False)
    )
    assert taken.mean() < 0.7 * left.mean() and (taken == 0).mean() > 0.4


def test_a_picture_of_one_value_is_black() -> None:
    flat = np.full((8, 9), 7, dtype=np.float32)
    for on in (True, False):
        assert not np.asarray(run("normalize_intensity", flat, subtract_background=on)[0]).any()


def test_colours_stay_colours() -> None:
    galaxy = draw(angle=0.7, shift=(4, 4)) - 100
    colour = np.stack([galaxy, galaxy * 0.5, galaxy * 0.25], axis=-1) + np.float32([5, 50, 500])
    for name in GEOMETRY:
        (made,) = run(name, colour)
        assert made.shape == (SIDE, SIDE, 3) and made.dtype == np.float32
        light = made - np.float32([5, 50, 500])
        np.testing.assert_allclose(light[..., 0], 4 * light[..., 2], atol=0.5)
        (grey,) = run(name, galaxy)
        np.testing.assert_allclose(light[..., 0], grey, atol=0.5)
    red, green, blue = (
        np.asarray(run("normalize_intensity", colour, stretch="linear", high=100)[0]).astype(int).max((0, 1))
    )
    assert red == 255 and abs(green - 128) <= 1 and abs(blue - 64) <= 1


def test_pictures_of_8_bit_stay_so() -> None:
    """Modality `image`: a PIL image in, a PIL image out, as the same object in float."""
    galaxy = draw(shift=(6, -4), angle=2.0, background=0) / 8
    picture = Image.fromarray(np.rint(np.clip(galaxy, 0, 255)).astype(np.uint8)).convert("RGB")
    for name in GEOMETRY:
        (made,), (expected,) = run(name, picture), run(name, galaxy)
        assert isinstance(made, Image.Image) and made.mode == "RGB" and made.size == (SIDE, SIDE)
        assert np.abs(np.asarray(made)[..., 0] - np.clip(expected, 0, 255)).max() < 4
    assert run("normalize_intensity", picture)[0].mode == "RGB"


def test_rows_are_independent_and_the_input_survives() -> None:
    galaxies = [draw(), draw(angle=1, side=64), draw(scale=0.5)]
    before = [galaxy.copy() for galaxy in galaxies]
    for name in (*GEOMETRY, "normalize_intensity"):
        together = run(name, *galaxies)
        for galaxy, made in zip(galaxies, together, strict=True):
            np.testing.assert_array_equal(np.asarray(run(name, galaxy)[0]), np.asarray(made))
    for galaxy, old in zip(galaxies, before, strict=True):
        np.testing.assert_array_equal(galaxy, old)


@pytest.mark.parametrize("name", GEOMETRY)
def test_where_there_is_no_object(name: str) -> None:
    batch: Batch = {
        **make_batch(["flat", "dark", "dead"], [b""] * 3),
        "image": object_array([np.zeros((20, 30), np.float32), -draw(), None]),
    }
    batch["error"][2] = "decode: empty"
    out = find_operator(name).apply(batch)
    assert list(out["error"]) == [f"{name}: no object brighter than the background"] * 2 + ["decode: empty"]


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 2), (3, 40)])
def test_slivers_are_no_failure_of_the_batch(shape: tuple[int, int]) -> None:
    pixels = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    for name in (*GEOMETRY, "normalize_intensity"):
        batch = {**make_batch(["a"], [b""]), "image": object_array([pixels])}
        out = find_operator(name).apply(batch)
        assert (out["error"][0] is None) == (out["image"][0] is not pixels) or name == "align_principal_axis"


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("center_mass", {"order": 1}),
        ("align_principal_axis", {"min_elongation": 1.0}),
        ("scale_to_radius", {"radius": 0.6}),
        ("scale_to_radius", {"radius": 0}),
        ("scale_to_radius", {"measure": "petrosian"}),
        ("scale_to_radius", {"max_zoom": 0.5}),
        ("normalize_intensity", {"stretch": "sqrt"}),
        ("normalize_intensity", {"low": 60}),
        ("normalize_intensity", {"high": 101}),
    ],
)
def test_bad_parameters_are_refused(name: str, params: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        find_operator(name).params.model_validate(params)
