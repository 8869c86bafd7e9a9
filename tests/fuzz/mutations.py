"""Seeded damage to files: what disks, networks and other people's writers do to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

Mutation = Callable[[Random, bytearray], bytearray]

NUMBERS = [
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    (1 << 63) - 1,
    (1 << 64) - 1,
]
# What has a meaning in one format or another.
WORDS = [
    b'"', b"'", b",", b"\n", b"\r", b"\r\n", b"\0", b"{", b"}", b"[", b"]", b"\\", b"\\u0000", b"\\ud800", b"null", b"NaN", b"-Infinity",
    b"1e999", b"1" * 400, b"-0", b"0" * 30, b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xff\xfe", b"PAR1", b"[" * 2000,
    b'{"a":' * 2000, b"\x1b$B", b"\xe2\x80\xae", b"RIFF", b"IDAT", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"OggS", b"ID3",
]  # fmt: skip


def flip(random: Random, data: bytearray) -> bytearray:
    """Some bits, anywhere."""
    for _ in range(random.choice([1, 1, 2, 8, 64])):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return data


def number(random: Random, data: bytearray) -> bytearray:
    """A number at its limits in place of some bytes, in either order."""
    width = random.choice([1, 2, 4, 8])
    value = random.choice(NUMBERS) & ((1 << 8 * width) - 1)
    at = random.randrange(len(data))
    data[at : at + width] = value.to_bytes(width, random.choice(["big", "little"]))
    return data


def cut(random: Random, data: bytearray) -> bytearray:
    """The file ends early, or begins late."""
    at = random.randrange(len(data))
    return data[:at] if random.random() < 0.8 else data[at:]


def drop(random: Random, data: bytearray) -> bytearray:
    """A piece is missing."""
    at = random.randrange(len(data))
    del data[at : at + random.choice([1, 2, 7, 64, 512])]
    return data


def repeat(random: Random, data: bytearray) -> bytearray:
    """A piece stands twice, or very often."""
    at = random.randrange(len(data))
    piece = data[at : at + random.choice([1, 4, 32, 256])]
    data[at:at] = piece * random.choice([1, 1, 2, 50])
    return data


def blank(random: Random, data: bytearray) -> bytearray:
    """A block that was never written."""
    at, size = random.randrange(len(data)), random.choice([4, 64, 512, 4096])
    data[at : at + size] = bytes(len(data[at : at + size]))
    return data


def word(random: Random, data: bytearray) -> bytearray:
    """Something that has a meaning, where it does not belong."""
    at = random.randrange(len(data) + 1)
    data[at:at] = random.choice(WORDS)
    return data


def swap(random: Random, data: bytearray) -> bytearray:
    """Two blocks in each other's place."""
    size = random.choice([4, 64, 512])
    first, second = sorted((random.randrange(len(data)), random.randrange(len(data))))
    one, two = data[first : first + size], data[second : second + size]
    data[second : second + size], data[first : first + size] = one, two
    return data


def end(random: Random, data: bytearray) -> bytearray:
    """A byte near the end, where some formats keep what describes the rest."""
    at = len(data) - 1 - random.randrange(min(len(data), 600))
    data[at] = random.randrange(256)
    return data


MUTATIONS: Sequence[Mutation] = (flip, number, cut, drop, repeat, blank, word, swap, end)


def mutate(random: Random, content: bytes, other: bytes) -> bytes:
    """A file, damaged in a few ways; now and then it continues as another one does."""
    data = bytearray(content)
    for _ in range(random.choice([1, 1, 1, 2, 3, 6])):
        if not data:
            break
        data = random.choice(MUTATIONS)(random, data)
    if random.random() < 0.05:
        data = data[: random.randrange(len(data) + 1)] + other[random.randrange(len(other) + 1) :]
    return bytes(data)
