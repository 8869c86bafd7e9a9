"""Files of word vectors: word2vec, GloVe and fastText as text, word2vec as binary, each also as .gz.

A file is read once, to vectors and a vocabulary in the user's cache folder, which processes then share as mapped memory.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from io import BufferedIOBase
from pathlib import Path
from typing import Literal

import numpy as np

from operators.embedders._cache import made_folder
from operators.errors import ModelNotFound
from operators.model_files import check_pinned, sha256_of

Format = Literal["text", "binary"]

VERSION = 1  # of what lies in the cache
FASTTEXT_MAGIC = (793712314).to_bytes(4, "little")  # https://github.com/facebookresearch/fastText, src/fasttext.cc
LONGEST_LINE = 1 << 20


class WordVectors:
    """Vectors float32 (words, dim) in the file's order, and where a word's stands. Mapped memory, not read whole.

    The vocabulary is known by 64-bit hashes: of three million words two share one once in four million files.
    """

    def __init__(self, folder: Path, dim: int) -> None:
        self.vectors = np.memmap(folder / "vectors.f32", dtype="<f4", mode="r").reshape(-1, dim)
        self._hashes = np.load(folder / "hashes.npy", mmap_mode="r")
        self._rows = np.load(folder / "rows.npy", mmap_mode="r")

    def rows_of(self, words: Sequence[str]) -> np.ndarray:
        """Row of each word, int32; -1 where the file does not have it."""
        wanted = np.array([hash_of(word.encode()) for word in words], dtype=np.uint64)
        at = np.minimum(np.searchsorted(self._hashes, wanted), len(self._hashes) - 1)
        return np.where(self._hashes[at] == wanted, self._rows[at], -1).astype(np.int32)


@lru_cache(maxsize=4)
def open_vectors(path: Path, revision: str, layout: Format, dim: int) -> WordVectors:
    """The word vectors of a file whose sha256 is `revision`. Raises `ModelNotFound` if it is another, or broken."""

    def make(folder: Path) -> None:
        """Write the vectors, and where each word's is, into a folder of the cache."""
        check_pinned(f"the content of '{path}'", sha256_of(path), revision)
        with (folder / "vectors.f32").open("wb") as vectors, open_file(path) as file:
            hashes = []
            for word, values in (text_rows if layout == "text" else binary_rows)(file, path, dim):
                vectors.write(values)
                hashes.append(hash_of(word))
        if not hashes:
            raise ModelNotFound(f"'{path}' holds no word vectors.")
        known, rows = np.unique(np.array(hashes, dtype=np.uint64), return_index=True)  # of a word's lines the first
        np.save(folder / "hashes.npy", known)
        np.save(folder / "rows.npy", rows.astype(np.int32))

    return WordVectors(made_folder("vectors", f"{revision}-{layout}-{VERSION}", make), dim)


def hash_of(word: bytes) -> int:
    """64 bits that stand for a word."""
    return int.from_bytes(hashlib.blake2b(word, digest_size=8).digest(), "little")


@contextmanager
def open_file(path: Path) -> Iterator[BufferedIOBase]:
    """A file's content, unpacked where it is a .gz. Raises `ModelNotFound` if it cannot be unpacked."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield file
    except (gzip.BadGzipFile, EOFError, zlib.error) as failure:
        raise ModelNotFound(f"'{path}' is broken: {failure}.") from failure


def layout_of(path: Path) -> tuple[Format, int]:
    """How a file is laid out, and the length of its vectors, from its first lines. Raises `ModelNotFound`."""
    with open_file(path) as file:
        first, second = file.readline(LONGEST_LINE), file.readline(LONGEST_LINE)
    if first.startswith(FASTTEXT_MAGIC):
        raise ModelNotFound(
            f"'{path}' is fastText's own binary format, which has no vectors of words.\n  Give its .vec."
        )
    header = read_header(first)
    if header is None:
        dim = len(first.rstrip().split(b" ")) - 1
        if dim >= 2 and is_line(first, dim):
            return "text", dim
        raise ModelNotFound(
            f"'{path}' holds no word vectors: its first line is neither a header nor a word and numbers."
        )
    return ("text" if is_line(second, header[1]) else "binary"), header[1]


def read_header(line: bytes) -> tuple[int, int] | None:
    """Number and length of the vectors, where a first line says so."""
    parts = line.split()
    return (int(parts[0]), int(parts[1])) if len(parts) == 2 and all(part.isdigit() for part in parts) else None


def is_line(line: bytes, dim: int) -> bool:
    """Whether a line holds a word and `dim` numbers."""
    try:
        read_line(line, dim)
    except ValueError:
        return False
    return True


def read_line(line: bytes, dim: int) -> tuple[bytes, bytes]:
    """Word and vector (float32, little-endian) of a line. The word may hold spaces, as some of GloVe's do.

    Raises `ValueError` if these are not what the line holds.
    """
    word, *numbers = line.rstrip(b" \r\n").rsplit(b" ", dim)
    if len(numbers) != dim:
        raise ValueError(f"{len(numbers)} numbers")
    return word, np.array([float(number) for number in numbers], dtype="<f4").tobytes()


def text_rows(file: BufferedIOBase, path: Path, dim: int) -> Iterator[tuple[bytes, bytes]]:
    """Words and vectors of a text file."""
    header: tuple[int, int] | None = None
    count = 0
    for number, line in enumerate(file, 1):
        if number == 1 and (header := read_header(line)):
            continue
        try:
            yield read_line(line, dim)
        except ValueError as failure:
            raise ModelNotFound(f"'{path}' is broken: line {number} is not a word and {dim} numbers.") from failure
        count += 1
    if header and count != header[0]:
        raise ModelNotFound(f"'{path}' is cut off: it holds {count} of {header[0]} vectors.")


def binary_rows(file: BufferedIOBase, path: Path, dim: int) -> Iterator[tuple[bytes, bytes]]:
    """Words and vectors of a binary file of word2vec: a header; of each word its bytes, a space, its numbers."""
    header = read_header(file.readline(LONGEST_LINE))
    if header is None or header[1] != dim:
        raise ModelNotFound(f"'{path}' does not begin as a binary file of word2vec does.")
    buffer, at, width = b"", 0, 4 * dim
    for number in range(header[0]):
        while (end := buffer.find(b" ", at)) < 0 or len(buffer) < end + 1 + width:
            more = file.read(LONGEST_LINE)
            if not more:
                raise ModelNotFound(f"'{path}' is cut off: it holds {number} of {header[0]} vectors.")
            buffer, at = buffer[at:] + more, 0
        yield buffer[at:end].lstrip(b"\n"), buffer[end + 1 : end + 1 + width]
        at = end + 1 + width


def zipf_weights(words: int) -> np.ndarray:
    """SIF weights of words by their rank, float32 (words,): a / (a + p), with a = 1e-4, and p by Zipf's law.

    Arora et al. 2017, https://openreview.net/forum?id=SyK00v5xx; the numbers are model2vec's.
    """
    inverse_ranks = 1 / np.arange(2, words + 2)
    return (1e-4 / (1e-4 + inverse_ranks / inverse_ranks.sum())).astype(np.float32)


def read_idf(path: Path) -> dict[str, float]:
    """Inverse document frequencies of words, from lines `word<TAB>number`. Raises `ModelNotFound` naming a broken line."""
    return dict(idf_lines(path.read_text(encoding="utf-8").splitlines(), path))


def idf_lines(lines: Iterable[str], path: Path) -> Iterator[tuple[str, float]]:
    """Words and their weights."""
    for number, line in enumerate(lines, 1):
        word, _, value = line.rpartition("\t")
        try:
            idf = float(value)
        except ValueError:
            idf = 0
        if not word or not 0 < idf < float("inf"):
            raise ModelNotFound(f"'{path}' is broken: line {number} is not a word, a tab and a number above 0.")
        yield word, idf
