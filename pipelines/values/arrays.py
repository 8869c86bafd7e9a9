"""Small things to do with Arrow arrays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MISFITS = (pa.ArrowException, ArithmeticError, ValueError)  # raised for a value that a type does not take


def isolating(array: pa.Array, kind: pa.DataType, work: Callable[[pa.Array, pa.DataType], pa.Array]) -> pa.Array:
    """`work(array, kind)`; where it raises, halves, until the values that make it raise stand alone: these are null."""
    try:
        return work(array, kind)
    except MISFITS:
        if len(array) == 1:
            return pa.nulls(1, kind)
    half = len(array) // 2
    return pa.concat_arrays([isolating(piece, kind, work) for piece in (array.slice(0, half), array.slice(half))])


def cast(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """Arrow's own conversion."""
    return array.cast(kind)


def as_bytes(array: pa.Array) -> pa.Array:
    """Texts, be they UTF-8 or not, or bytes, as large binary."""
    return array.cast(pa.large_binary())


def valid_texts(array: pa.Array) -> pa.Array:
    """Texts, null where one is not UTF-8. Arrow trusts a file, and raises later, for the whole array."""
    return isolating(array, array.type, lambda piece, kind: as_bytes(piece).cast(kind))


def valid_values(array: pa.Array) -> pa.Array:
    """Values, null where one is beyond its type: a decimal of too many digits, a time beyond the day. A damaged file may hold such."""
    return isolating(array, array.type, lambda piece, kind: piece.validate(full=True) or piece)


def pick(array: pa.Array, rows: np.ndarray) -> pa.Array:
    """Rows of an array of any layout. (Arrow's `take` knows no views.)"""
    if not len(rows):
        return array.slice(0, 0)
    edges = np.flatnonzero(np.diff(rows) != 1) + 1
    pieces = [array.slice(int(run[0]), len(run)) for run in np.split(rows, edges)]
    return pieces[0] if len(pieces) == 1 else pa.concat_arrays(pieces)


def nulls_of(array: pa.Array) -> np.ndarray:
    """Where an array is null, bool."""
    return array.is_null().to_numpy(zero_copy_only=False)


def hide(array: pa.Array, hidden: np.ndarray) -> pa.Array:
    """An array, null where `hidden` (bool)."""
    return array.take(pa.array(np.arange(len(array)), mask=hidden)) if hidden.any() else array


def equal(left: pa.Array, right: pa.Array) -> np.ndarray:
    """Where two arrays of one type hold one value; NaN equals NaN, and 0.0 does not equal -0.0."""
    if isinstance(left, pa.ExtensionArray):
        left, right = left.storage, right.storage
    if pa.types.is_floating(left.type):
        a, b = (array.to_numpy(zero_copy_only=False) for array in (left, right))
        same = np.where(np.isnan(a), np.isnan(b), (a == b) & (np.signbit(a) == np.signbit(b)))
        return same & ~(nulls_of(left) | nulls_of(right))
    return pc.equal(left, right).fill_null(False).to_numpy(zero_copy_only=False)
