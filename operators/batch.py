"""The unit operators work on: a `Batch`, columns of equal length.

Columns every batch of objects carries, whatever its modality:

    id          str     row id: the object's id, or `object_id#k` once an object has fanned out
    object_id   str     what the source listed
    content     bytes | str   what the source holds
    error       None, or "<stage>: <reason>": the row is rejected
    filtered    None, or "<operator>: <reason>": an operator dropped the row

`decode` adds `text` (str), `image` (PIL.Image in RGB) or `audio` (`Waveform`). Operators never drop a row that failed: it keeps its id and
gets an `error`, so that the job can account for it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from operators.errors import Unavailable, redact_url
from operators.pulse import beat

Batch = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Waveform:
    """Sound: `samples` float32 (n,), mono, from -1 to 1, `rate` of them a second."""

    samples: np.ndarray
    rate: int

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.samples) / self.rate


DEBUG = "\n\nDebug source:"  # what obstore shows of its insides, behind the message


def object_array(values: Sequence[Any]) -> np.ndarray:
    """One-dimensional object array of `values`, which may themselves be sequences."""
    array = np.empty(len(values), dtype=object)
    for index, value in enumerate(values):
        array[index] = value
    return array


def make_batch(ids: Sequence[str], contents: Sequence[Any]) -> Batch:
    """Batch of freshly read objects, one row each, none of them rejected."""
    empty = np.full(len(ids), None, dtype=object)
    return {
        "id": object_array(ids),
        "object_id": object_array(ids),
        "content": object_array(contents),
        "error": empty,
        "filtered": empty.copy(),
    }


def held_bytes(value: Any) -> int:
    """About how much memory a decoded value takes; a part of a sound counts as if it were a copy."""
    if isinstance(value, Waveform):
        return int(value.samples.nbytes)
    if isinstance(value, np.ndarray):
        return int(value.nbytes)
    if hasattr(value, "getbands"):  # of Pillow, which keeps whole words of more than one channel
        width, height = value.size
        return int(width * height * (4 if len(value.getbands()) > 1 or value.mode in ("I", "F") else 1))
    return sys.getsizeof(value)


def live_rows(batch: Batch) -> np.ndarray:
    """Indices of the rows that are neither rejected nor filtered, int64."""
    return np.flatnonzero([e is None and f is None for e, f in zip(batch["error"], batch["filtered"], strict=True)])


def take_rows(batch: Batch, rows: np.ndarray) -> Batch:
    """The rows at the indices `rows`, in that order; an index may repeat."""
    return {name: column[rows] for name, column in batch.items()}


class RowError(ValueError):
    """Raised for one row by a function given to `map_rows`; its text becomes the reason."""


class ReadError(RowError):
    """Why an object cannot be read now; it may be later."""


class RowFiltered(Exception):
    """Raised for one row by a function given to `map_rows`: the row is dropped, with its text as the reason."""


def map_rows(batch: Batch, fn: Callable[[Any], Any], *, column: str, into: str, stage: str) -> Batch:
    """Write `fn(batch[column][i])` to `into` for each live row; a row whose `fn` raises is rejected, not dropped.

    `error` becomes `"<stage>: <reason>"`. The input is not changed.
    """
    out = dict(batch)
    values = out[into].copy() if into in out else np.full(len(batch["id"]), None, dtype=object)
    errors, filtered = out["error"].copy(), out["filtered"].copy()
    for row in live_rows(batch):
        beat(batch["object_id"][row])
        try:
            values[row] = fn(batch[column][row])
        except Unavailable:  # no fault of the row's
            raise
        except RowFiltered as reason:
            filtered[row] = f"{stage}: {reason}"
        except Exception as failure:  # a bad row of any kind is a reject: what it raised becomes the reason
            errors[row] = f"{stage}: {describe(failure)}"
    beat()
    out[into], out["error"], out["filtered"] = values, errors, filtered
    return out


def describe(failure: BaseException) -> str:
    """One line, of 300 characters at most, that says what failed, without secrets."""
    text = " ".join(redact_url(str(failure).partition(DEBUG)[0]).split())
    if not isinstance(failure, RowError):
        text = f"{type(failure).__name__}: {text}" if text else type(failure).__name__
    return text[:300]
