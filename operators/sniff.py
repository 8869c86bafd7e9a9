"""What an object holds, by its first bytes rather than by its name."""

from __future__ import annotations

import codecs

SNIFF_BYTES = 4096
EMPTY = "inode/x-empty"
TEXT = "text/plain"
UNKNOWN = "application/octet-stream"


def sniff(content: bytes | str | None) -> str:
    """MIME type of `content`, from its first 4 KiB. Never raises.

    str, and bytes that begin with valid UTF-8 without a NUL, are "text/plain"; nothing at all is "inode/x-empty"; what
    no signature fits is "application/octet-stream".
    """
    if not content:
        return EMPTY
    if isinstance(content, str):
        return TEXT
    head = bytes(content[:SNIFF_BYTES])
    if is_utf8(head, whole=len(content) <= SNIFF_BYTES):
        return TEXT
    return signature(head)


def is_utf8(head: bytes, *, whole: bool) -> bool:
    """Whether `head` is UTF-8 text; unless it is the `whole` content, its last character may be cut."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head, final=whole)
    except UnicodeDecodeError:
        return False
    return b"\0" not in head


def signature(head: bytes) -> str:
    """MIME type by puremagic's table of signatures."""
    import puremagic

    try:
        return puremagic.from_string(head, mime=True) or UNKNOWN
    except (puremagic.PureError, ValueError):
        return UNKNOWN
