"""Operators that take out of a picture where its object lies, how it is turned, how large and how bright it is.

They measure one object on a darker background by the moments of its intensity (Hu, 1962,
https://doi.org/10.1109/TIT.1962.1057692), in colour by those of its luminance. Pictures are moved with cubic splines
(scipy.ndimage), and what comes in from outside is background. In this order they take out shift, rotation, scale and
flux: `center_mass`, `align_principal_axis`, `scale_to_radius`, `normalize_intensity`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image
from pydantic import Field

from operators.batch import Batch, RowError, map_rows
from operators.errors import MissingExtra
from operators.limits import MAX_MEASURED_PIXELS
from operators.preprocess import operator

LUMINANCE = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as in Pillow
FRAME_PART = 16  # the frame that tells the background is this part of the shorter side
NOISE_LEVELS = 3.0  # standard deviations of the frame, up to which a pixel is background
AT_ONCE = 2**17  # pixels that are stretched at once
ASINH_SOFTENING, LOG_STEEPNESS = 0.1, 1000.0  # as in astropy.visualization's AsinhStretch and LogStretch


@operator("image", "scientific_image")
def center_mass(batch: Batch) -> Batch:
    """Shift the object's centre of mass to the middle of the picture."""

    def center(pixels: np.ndarray) -> np.ndarray:
        height, width = pixels.shape[:2]
        middle = np.array([(height - 1) / 2, (width - 1) / 2])
        return resample(pixels, np.eye(2), Mass.of(pixels).center, middle)

    return map_pixels(batch, center, "center_mass")


@operator("image", "scientific_image")
def align_principal_axis(batch: Batch, *, min_elongation: Annotated[float, Field(ge=0, lt=1)] = 0.05) -> Batch:
    """Turn the object about its centre of mass, so that its long axis lies level and its longer tail points right.

    The axis is that of the second moments, the tail the sign of the third along it. An object whose elongation,
    (a^2 - b^2) / (a^2 + b^2) for axes a and b, is less than `min_elongation` has no axis to speak of and stays as is.
    """

    def align(pixels: np.ndarray) -> np.ndarray:
        """The picture, turned."""
        mass = Mass.of(pixels)
        down, right = mass.offsets
        spread_down, spread_right = mass.mean(down**2), mass.mean(right**2)
        tilt = 2 * mass.mean(down * right)
        if np.hypot(spread_right - spread_down, tilt) < min_elongation * (spread_right + spread_down):
            return pixels
        angle = np.arctan2(tilt, spread_right - spread_down) / 2
        if mass.mean((right * np.cos(angle) + down * np.sin(angle)) ** 3) < 0:
            angle += np.pi
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        return resample(pixels, turn, mass.center, mass.center)

    return map_pixels(batch, align, "align_principal_axis")


@operator("image", "scientific_image")
def scale_to_radius(
    batch: Batch,
    *,
    radius: Annotated[float, Field(gt=0, le=0.5)] = 0.15,
    measure: Literal["half_light", "rms"] = "half_light",
    max_zoom: Annotated[float, Field(ge=1)] = 8.0,
) -> Batch:
    """Scale the object about its centre of mass, until its radius is the part `radius` of the picture's shorter side.

    The radius is that of the circle which holds half of the light, or the root of the mean squared distance. The
    picture keeps its size. Nothing is enlarged more than `max_zoom` times; what shrinks is smoothed first.
    """

    def scale(pixels: np.ndarray) -> np.ndarray:
        mass = Mass.of(pixels)
        zoom = min(max_zoom, radius * min(pixels.shape[:2]) / mass.radius(measure))
        return resample(pixels, np.eye(2) / zoom, mass.center, mass.center, blur=max(0.0, (1 / zoom - 1) / 2))

    return map_pixels(batch, scale, "scale_to_radius")


@operator("image", "scientific_image", makes="image")
def normalize_intensity(
    batch: Batch,
    *,
    stretch: Literal["linear", "asinh", "log"] = "asinh",
    low: Annotated[float, Field(ge=0, lt=50)] = 0.5,
    high: Annotated[float, Field(gt=50, le=100)] = 99.5,
    subtract_background: bool = True,
) -> Batch:
    """Make an RGB picture of 8 bits: black at the percentile `low` of all values, white at `high`, stretched between.

    `subtract_background`: the median of the picture's frame is taken from each channel first, and black is no less than
    that. The stretches, of x from 0 to 1: x; asinh(10 x) / asinh(10); log(1 + 1000 x) / log(1001)
    (Lupton et al., 2004, https://doi.org/10.1086/382245). A picture of one value is black. One channel makes it grey.
    """

    def normalize(image: np.ndarray | Image.Image) -> Image.Image:
        """One picture, stretched."""
        pixels = as_pixels(image)
        background = background_of(pixels, np.float64) if subtract_background else np.float64(0)
        values = pixels.astype(np.float64)
        values -= background
        black, white = np.percentile(values.reshape(-1), (low, high), overwrite_input=True)
        del values
        black = max(black, 0.0) if subtract_background else black
        made, rows = np.zeros(pixels.shape, dtype=np.uint8), max(1, AT_ONCE // pixels.shape[1])
        for top in range(0, len(pixels) if white > black else 0, rows):  # float64 takes room
            part = pixels[top : top + rows].astype(np.float64) - background
            part = np.clip((part - black) / (white - black), 0, 1)
            made[top : top + rows] = rounded(stretched(part, stretch) * 255)
        return Image.fromarray(made).convert("RGB")

    return map_rows(batch, normalize, column="image", into="image", stage="normalize_intensity")


@dataclass(frozen=True)
class Mass:
    """The light of an object: `weights` float64 (h, w), which add up to 1, and its `center` (row, column)."""

    weights: np.ndarray
    center: np.ndarray

    @classmethod
    def of(cls, pixels: np.ndarray) -> Mass:
        """What stands out of the background, less the noise. Raises `RowError` if nothing does."""
        light = pixels.astype(np.float64) @ LUMINANCE if pixels.ndim == 3 else pixels.astype(np.float64)
        light = light - background_of(light)
        noise = 1.4826 * float(np.median(np.abs(frame_of(light))))  # of a normal distribution: its standard deviation
        weights = np.clip(light - NOISE_LEVELS * noise, 0, None)
        total = weights.sum()
        if not total > 0:
            raise RowError("no object brighter than the background")
        weights /= total
        return cls(
            weights, np.array([(weights * places).sum() for places in np.ogrid[: light.shape[0], : light.shape[1]]])
        )

    @property
    def offsets(self) -> tuple[np.ndarray, np.ndarray]:
        """How far down and how far to the right of the centre each pixel lies, float64 (h, 1) and (1, w)."""
        down, right = np.ogrid[: self.weights.shape[0], : self.weights.shape[1]]
        return down - self.center[0], right - self.center[1]

    def mean(self, values: np.ndarray) -> float:
        """Mean of `values` (h, w) over the light."""
        return float((self.weights * values).sum())

    def radius(self, measure: str) -> float:
        """Radius in pixels; see `scale_to_radius`. At least half a pixel."""
        distances = np.hypot(*self.offsets)
        if measure == "rms":
            return max(0.5, self.mean(distances**2) ** 0.5)
        order = np.argsort(distances, axis=None)
        light = np.cumsum(self.weights.ravel()[order])
        return max(0.5, float(np.interp(0.5, light, distances.ravel()[order])))


def frame_of(pixels: np.ndarray) -> np.ndarray:
    """Pixels at the edge of a picture, (n,) or (n, 3)."""
    wide = max(1, min(pixels.shape[:2]) // FRAME_PART)
    inside = np.zeros(pixels.shape[:2], dtype=bool)
    inside[wide:-wide, wide:-wide] = True
    return pixels[~inside]


def background_of(pixels: np.ndarray, dtype: type | None = None) -> np.ndarray:
    """The background of a picture, for each channel: the median of its frame, computed in `dtype` or that of `pixels`."""
    return np.median(frame_of(pixels).astype(dtype or pixels.dtype), axis=0)


def resample(
    pixels: np.ndarray, matrix: np.ndarray, source: np.ndarray, target: np.ndarray, blur: float = 0.0
) -> np.ndarray:
    """The picture whose point `target` shows what lies at `source`, and whose offsets from it are those times `matrix`.

    Same shape, float32. `blur` is the standard deviation, in pixels, of a Gaussian to smooth with first.
    """
    ndimage = import_ndimage()
    background = background_of(pixels)
    offset = source - matrix @ target
    made = np.empty_like(pixels, dtype=np.float32)
    each: list[Any] = [...] if pixels.ndim == 2 else [np.s_[..., index] for index in range(pixels.shape[-1])]
    for index, level in zip(each, np.atleast_1d(background), strict=True):  # channel by channel: float64 takes room
        channel = (pixels[index] - level).astype(np.float64)
        channel = ndimage.gaussian_filter(channel, blur) if blur else channel
        made[index] = ndimage.affine_transform(channel, matrix, offset, order=3) + level
    return made


def stretched(values: np.ndarray, stretch: str) -> np.ndarray:
    """Values from 0 to 1, stretched to 0 to 1; see `normalize_intensity`."""
    if stretch == "asinh":
        return np.asarray(np.arcsinh(values / ASINH_SOFTENING) / np.arcsinh(1 / ASINH_SOFTENING))
    return values if stretch == "linear" else np.log1p(LOG_STEEPNESS * values) / np.log1p(LOG_STEEPNESS)


def map_pixels(batch: Batch, fn: Callable[[np.ndarray], np.ndarray], stage: str) -> Batch:
    """Apply `fn`, of a float32 array (h, w) or (h, w, 3), to each live row; a PIL image comes out as one again."""
    import_ndimage()

    def apply(image: np.ndarray | Image.Image) -> np.ndarray | Image.Image:
        made = fn(as_pixels(image))
        return as_picture(made) if isinstance(image, Image.Image) else made

    return map_rows(batch, apply, column="image", into="image", stage=stage)


def as_pixels(image: np.ndarray | Image.Image) -> np.ndarray:
    """A picture as a float32 array (h, w) or (h, w, 3). Raises `RowError` for more than `MAX_MEASURED_PIXELS`."""
    width, height = image.size if isinstance(image, Image.Image) else image.shape[1::-1]
    if width * height > MAX_MEASURED_PIXELS:
        raise RowError(
            f"{width} x {height} is more than the {MAX_MEASURED_PIXELS} pixels of a picture that is measured: "
            "cut objects out of it first, or resize_image where the modality is image"
        )
    return np.asarray(image, dtype=np.float32)


def as_picture(pixels: np.ndarray) -> Image.Image:
    """Values from 0 to 255, (h, w) or (h, w, 3), as an RGB image."""
    return Image.fromarray(rounded(pixels)).convert("RGB")


def rounded(values: np.ndarray) -> np.ndarray:
    """Values from 0 to 255 as uint8; what is beyond is cut off."""
    return np.asarray(np.rint(np.clip(values, 0, 255)), dtype=np.uint8)


def import_ndimage() -> Any:
    """scipy.ndimage. Raises `MissingExtra`."""
    try:
        from scipy import ndimage
    except ImportError as failure:
        raise MissingExtra("this operator needs scipy: pip install 'latentlake[science]'") from failure
    return ndimage
