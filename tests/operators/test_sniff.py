from __future__ import annotations

import gzip
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from operators.sniff import SNIFF_BYTES, sniff


def picture(form: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20), (1, 200, 3)).save(buffer, form)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "mime"),
    [
        (picture("JPEG"), "image/jpeg"),
        (picture("PNG"), "image/png"),
        (picture("GIF"), "image/gif"),
        (picture("WEBP"), "image/webp"),
        (picture("TIFF"), "image/tiff"),
        (picture("PDF"), "application/pdf"),
        (gzip.compress(b"words", mtime=0), "application/x-gzip"),
        (b"RIFF\x24\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00", "audio/wave"),
        (b"plain words", "text/plain"),
        ("words", "text/plain"),
        ("日本語".encode(), "text/plain"),
        (b"", "inode/x-empty"),
        ("", "inode/x-empty"),
        (None, "inode/x-empty"),
        (b"\0" * 100, "application/octet-stream"),
        (b"caf\xe9 au lait", "application/octet-stream"),
    ],
)
def test_types(content: bytes | str | None, mime: str) -> None:
    assert sniff(content) == mime


@pytest.mark.parametrize("pad", range(4))
def test_a_character_cut_at_the_end_of_the_head_is_text(pad: int) -> None:
    assert sniff(b"a" * pad + "日".encode() * SNIFF_BYTES) == "text/plain"


def test_a_character_cut_at_the_end_of_the_content_is_not() -> None:
    assert sniff("日".encode()[:2]) != "text/plain"


@given(st.binary(max_size=200), st.sampled_from([b"", b"\xff\xd8\xff", b"PK\x03\x04", b"RIFF", b"\x1f\x8b", b"ID3"]))
def test_never_raises(tail: bytes, head: bytes) -> None:
    assert "/" in sniff(head + tail)
