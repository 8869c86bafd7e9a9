"""How a column holds its vectors: as float32, as float16, or as one bit a number."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pyarrow as pa

from operators.errors import SpecError

StoredDtype = Literal["float32", "float16", "binary"]
Metric = Literal["cosine", "l2", "dot", "hamming"]

# Lance searches neither int8 vectors nor bits that are not packed eight to a byte.
VALUES = {"float32": pa.float32(), "float16": pa.float16(), "binary": pa.uint8()}
BITS = 8
PART_TYPES = {"_tokens": pa.int32(), "_truncated": pa.bool_()}  # endings of the columns beside a vector column of texts
MAP_KEY = (
    b"latentlake.map"  # in a field's metadata: what made the coordinates of a map, see `latentlake.exploration.maps`
)
UNIT_KEY = b"latentlake.unit"  # in a field's metadata: what a column of positions counts, see `operators.fan_out`


def stored_length(dtype: str, dimension: int) -> int:
    """How many values a stored vector of `dimension` numbers has. Raises `SpecError` if bits do not fill bytes."""
    if dtype != "binary":
        return dimension
    if dimension % BITS:
        raise SpecError(
            f"dtype binary packs eight numbers into a byte, and the model gives {dimension}.\n"
            f"  Set truncate_dim: {dimension - dimension % BITS}, or store float16."
        )
    return dimension // BITS


def stored_type(dtype: str, dimension: int) -> pa.DataType:
    """Arrow type of a vector column: FixedSizeList<float>[dimension], or <uint8>[dimension / 8]. Raises `SpecError`."""
    return pa.list_(VALUES[dtype], stored_length(dtype, dimension))


def stored_bytes(dtype: str, dimension: int) -> int:
    """Bytes of one stored vector."""
    return stored_length(dtype, dimension) * int(VALUES[dtype].bit_width) // 8


def to_stored(vectors: np.ndarray, dtype: str) -> np.ndarray:
    """Vectors float (..., dim) as they are stored; of a binary column a bit is 1 where the number is above 0 (big-endian)."""
    return np.packbits(vectors > 0, axis=-1) if dtype == "binary" else vectors.astype(dtype)


def default_metric(dtype: str) -> Metric:
    """What a column is searched by, where the job does not say."""
    return "hamming" if dtype == "binary" else "cosine"


def check_metric(metric: str, dtype: str) -> None:
    """Raise `SpecError` where vectors stored so cannot be compared by a metric."""
    if (metric == "hamming") != (dtype == "binary"):
        fitting = "hamming" if dtype == "binary" else "cosine, l2 or dot"
        raise SpecError(f"vectors stored as {dtype} are compared by {fitting}, not by {metric}.")
