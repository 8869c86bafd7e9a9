"""Small pictures of rows, as data that a page holds itself."""

from __future__ import annotations

import base64
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from latentlake.views import make_thumbnail, read_image
from operators.batch import describe

log = logging.getLogger(__name__)

READERS = 8  # pictures read at a time


def data_uris(uris: Sequence[str | None], storage_options: Mapping[str, str]) -> list[str]:
    """JPEG of each picture as a data URI, 2 to 5 kB; empty where it cannot be read, which is logged once."""
    failures: list[str] = []

    def make(uri: str | None) -> str:
        try:
            data = base64.b64encode(make_thumbnail(read_image(uri, storage_options))).decode()
        except Exception as failure:  # a plot is drawn whatever its pictures do
            failures.append(describe(failure))
            return ""
        return f"data:image/jpeg;base64,{data}"

    with ThreadPoolExecutor(READERS) as pool:
        made = list(pool.map(make, uris))
    if failures:
        log.warning("%d of %d pictures cannot be shown, the first because of %s", len(failures), len(uris), failures[0])
    return made
