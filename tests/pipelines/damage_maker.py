"""Stored JSON that is damaged, or of another release."""

from __future__ import annotations

import json
from collections.abc import Callable

# What may stand in the place of stored JSON, made of the JSON that was there.
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda text: b"",
    "truncated": lambda text: text[: len(text) // 2],
    "not text": lambda text: b"\xff\xfe\0" + text,
    "a later format": lambda text: json.dumps({**json.loads(text), "format": 99}).encode(),
    "no number of a format": lambda text: json.dumps({**json.loads(text), "format": "1"}).encode(),
    "a list": lambda text: b"[1]",
    "null": lambda text: b"null",
    "an empty object": lambda text: b"{}",
    "another object": lambda text: b'{"name": "x", "version": [1], "status": {}, "table": 7, "source": 1, "embed": {}}',
    "strings alone": lambda text: json.dumps(dict.fromkeys(json.loads(text), "x")).encode(),
    "nulls alone": lambda text: json.dumps(dict.fromkeys(json.loads(text))).encode(),
    "nested deeply": lambda text: b'{"a":' * 100_000,
}
