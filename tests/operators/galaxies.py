"""Synthetic galaxies: smooth, without any symmetry, drawn afresh wherever, however turned, large or bright."""

from __future__ import annotations

import io

import numpy as np

SIDE = 96


def draw(
    shift: tuple[float, float] = (0.0, 0.0),
    angle: float = 0.0,
    scale: float = 1.0,
    flux: float = 1.0,
    background: float = 100.0,
    side: int = SIDE,
) -> np.ndarray:
    """A disc with a bright knot on its long side and a faint arm, float32 (side, side)."""
    down, right = (places - (side - 1) / 2 for places in np.indices((side, side)))
    down, right = (down - shift[0]) / scale, (right - shift[1]) / scale
    u, v = np.cos(angle) * right + np.sin(angle) * down, -np.sin(angle) * right + np.cos(angle) * down
    parts = ((1.0, 0, 0, 6, 4), (0.5, 15, 4, 5, 2.5), (0.25, -5, -7, 3, 2.5))
    light = sum(
        height * np.exp(-(((u - a) / wide) ** 2 + ((v - b) / high) ** 2) / 2) for height, a, b, wide, high in parts
    )
    return (background + 1000 * flux * np.asarray(light)).astype(np.float32)


def npy_bytes(array: np.ndarray) -> bytes:
    """An array as an .npy file."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()
