"""What measured lines say of far more objects: a simulation, not a measurement. See `scaling.py`, which measures them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

BYTES_OF_A_NUMBER = 4  # float32
# Assumed, not measured: no GPU has run this code, and prices differ by provider, region and day. Give your own by `--gpu`.
ASSUMED_GPUS = ("L4=300:0.8", "A100=1500:3.5", "H100=3000:7")
PAGE_KEYS = 1_000  # keys in one answer of S3
# From one answer to the next, of stretches that are listed at once: as measured for a folder per day, on a server that is assumed
# to take 0.1 s per request (docs/sources.md). Hashed and numbered names took half of it.
PAGE_S = 0.055


@dataclass(frozen=True)
class Line:
    """A straight line through measurements: `start + slope * size`."""

    start: float
    slope: float

    @classmethod
    def through(cls, sizes: Sequence[float], values: Sequence[float]) -> Line:
        """The line through the two largest sizes: buffers that fill at the small ones say nothing of far larger ones."""
        (small, low), (large, high) = sorted(zip(sizes, values, strict=True))[-2:]
        slope = (high - low) / (large - small)
        return cls(high - slope * large, slope)

    def at(self, size: float) -> float:
        """The value at a size; never less than nothing."""
        return max(0.0, self.start + self.slope * size)


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU: rows that one embeds per second with the reader's model, and what its machine costs per hour."""

    name: str
    rows_per_s: float
    price_per_hour: float

    @classmethod
    def parse(cls, text: str) -> Gpu:
        """From `NAME=ROWS_PER_S:PRICE`. Raises `ValueError`."""
        name, _, figures = text.partition("=")
        rate, _, price = figures.partition(":")
        gpu = cls(name, float(rate), float(price))
        if not name or gpu.rows_per_s <= 0 or gpu.price_per_hour < 0:
            raise ValueError(f"'{text}' is not NAME=ROWS_PER_S:PRICE")
        return gpu

    def hours(self, rows: float, busy: float) -> float:
        """Hours of one GPU for so many rows, if it works for the share `busy` of them."""
        return rows / self.rows_per_s / busy / 3600

    def cost(self, rows: float, busy: float) -> float:
        """Its price for so many rows. It does not depend on how many GPUs share the work."""
        return self.hours(rows, busy) * self.price_per_hour


def simulate(
    lines: Mapping[str, Line],
    objects: float,
    shard_objects: int,
    dimension: int,
    gpus: Sequence[Gpu],
    rows_per_object: float = 1.0,
    busy: float = 0.9,
) -> dict[str, float]:
    """A first run over `objects`, each quantity by its line: those of `per_shard` by shards, the others by objects or rows."""
    rows, shards = objects * rows_per_object, objects / shard_objects
    found = {"objects": objects, "shards": shards, "vectors_tb": rows * dimension * BYTES_OF_A_NUMBER / 1e12}
    for name, line in lines.items():
        by = shards if name.startswith("shards:") else rows if name.startswith("rows:") else objects
        found[name] = line.at(by)
    found["listing_s3_s"] = objects / PAGE_KEYS * PAGE_S
    for gpu in gpus:
        found[f"{gpu.name} hours"], found[f"{gpu.name} cost"] = gpu.hours(rows, busy), gpu.cost(rows, busy)
    return found
