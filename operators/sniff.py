"""What an object holds, by its first bytes rather than by its name."""

from __future__ import annotations

import codecs

from operators.decode.audio import form_of_head

SNIFF_BYTES = 4096
EMPTY = "inode/x-empty"
TEXT = "text/plain"
UNKNOWN = "application/octet-stream"
OGG = "application/ogg"  # which may hold a film, and holds a sound nearly always

# What `operators.decode.audio` tells by a signature that puremagic does not know.
SOUNDS = {
    "WAV": "audio/wav",
    "AIFF": "audio/aiff",
    "FLAC": "audio/flac",
    "OGG": "audio/ogg",
    "MP3": "audio/mpeg",
    "AAC": "audio/aac",
    "MP4": "video/mp4",
    "MATROSKA": "video/x-matroska",
    "AVI": "video/x-msvideo",
}


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
    """MIME type by puremagic's table of signatures; of sounds that it does not know, by those that are decoded."""
    import puremagic

    try:
        found = puremagic.from_string(head, mime=True) or UNKNOWN
    except (puremagic.PureError, ValueError):
        found = UNKNOWN
    return SOUNDS.get(form_of_head(head[:12]) or "", found) if found in (UNKNOWN, OGG) else found
