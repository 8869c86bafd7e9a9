"""Looks that end badly, for a child process to take; and files that make a reader end badly."""

from __future__ import annotations

import base64
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe

import pipelines.sources.jsonl


def count(number: int) -> Iterator[int | None]:
    """Numbers, with signs of life between."""
    for n in range(number):
        yield None
        yield n


def process() -> Iterator[int]:
    yield os.getpid()


def environment(name: str) -> Iterator[str]:
    yield str(os.environ.get(name))


def folder() -> Iterator[str]:
    yield str(Path.cwd())


def modules() -> Iterator[list[str]]:
    yield sorted(sys.modules)


def abort(after: int) -> Iterator[int]:
    """Numbers, then SIGABRT with a word on stderr."""
    yield from range(after)
    print("terminate called: what(): it is encrypted", file=sys.stderr, flush=True)
    os.abort()


def abort_once(mark: str) -> Iterator[int]:
    """Three numbers; the first call dies behind two of them."""
    yield from range(2)
    if not Path(mark).exists():
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    yield 2


def sleep(seconds: float) -> Iterator[int]:
    yield 1
    time.sleep(seconds)
    yield 2


def hold_the_lock(_: int) -> Iterator[Any]:
    """A regular expression that never ends, and holds the interpreter's lock meanwhile."""
    yield re.match(r"(a+)+$", "a" * 40 + "b")


def fail(message: str) -> Iterator[int]:
    yield 1
    raise ValueError(message)


def fail_strangely() -> Iterator[int]:
    class Strange(Exception):
        """Of no module."""

    yield 1
    raise Strange("it cannot travel")


def talk() -> Iterator[int]:
    """Prints to both of its outputs, which must not be taken for an answer."""
    print("x" * 100_000, flush=True)
    print("y" * 100_000, file=sys.stderr, flush=True)
    yield 1


class Kms(pe.KmsClient):
    """Keys wrapped by nothing."""

    def __init__(self, config: Any) -> None:
        pe.KmsClient.__init__(self)

    def wrap_key(self, key: bytes, master: str) -> bytes:
        return base64.b64encode(key)

    def unwrap_key(self, wrapped: bytes, master: str) -> bytes:
        return base64.b64decode(wrapped)


def write_encrypted(path: Path, columns: list[str], plain_footer: bool = True) -> None:
    """A Parquet file, `id` and `text`, of which some columns are encrypted. See parquet-testing, arrow#51361."""
    factory = pe.CryptoFactory(Kms)
    how = pe.EncryptionConfiguration(footer_key="f", column_keys={"c": columns}, plaintext_footer=plain_footer)
    properties = factory.file_encryption_properties(pe.KmsConnectionConfig(), how)
    table = pa.table({"id": [f"secret {n}" for n in range(5)], "text": ["secret"] * 5})
    with pq.ParquetWriter(path, table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)


class Source(pipelines.sources.jsonl.Source):
    """JSON lines of a reader that dies of files whose name says so."""

    def scan(self, storage: Any, uri: str) -> Any:
        if "abort" in uri:
            os.abort()
        if "hang" in uri:
            hold = hold_the_lock(0)
            next(hold)
        return super().scan(storage, uri)
