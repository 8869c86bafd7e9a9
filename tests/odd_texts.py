"""Odd files of texts: encodings, sizes, and what happens to files. `python tests/odd_texts.py FOLDER [COUNT] [SEED]`.

What a file holds is told by Python's own codecs, which wrote it: a text, or nothing that is one. `GUESSED` before the text says that
its encoding can only be guessed, so that it may also be rejected; it may not become another text.
"""

from __future__ import annotations

import io
import sys
import unicodedata
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random

from languages import TEXTS, encodings_of
from PIL import Image

REJECT, GUESSED = "reject", "guessed: "
SUFFIXES = (".txt", ".TXT", ".md", "", ".csv", ".log", ".jpg", ".é", ".txt.gz")
MARKED = ("utf-8-sig", "utf-16", "utf-32")
WIDE = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
SHIFTING = ("iso2022_jp", "iso2022_jp_2", "iso2022_jp_ext", "iso2022_kr", "hz")
USUAL = {
    "cp1252": ("french", "german", "spanish", "portuguese", "danish", "icelandic"),
    "cp1251": ("russian", "ukrainian", "serbian"),
    "cp1253": ("greek",),
    "cp1256": ("arabic",),
    "shift_jis": ("japanese",),
    "euc_jp": ("japanese",),
    "gb18030": ("chinese",),
    "big5": ("taiwanese",),
    "cp949": ("korean",),
}
CODE_PAGES = (
    "cp437",
    "cp850",
    "cp852",
    "cp855",
    "cp866",
    "cp737",
    "cp037",
    "cp500",
    "mac_roman",
    "koi8_r",
    "hp_roman8",
)
NAUGHTY = (
    "\u202eright to left\u202c and \u2066isolated\u2069",
    "Z̮̞̠͙͔ͅḀ̗̞͈̻̗Ḷ͙͎̯̹̞͓G̻O̭̗̮",
    "👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇯🇵 e\u0301\u0323",
    "zero\u200bwidth\u2060joined\ufeff mark in the middle",
    "lines\u2028separated\u2029and\x85so\x0bon\x0c",
    "no characters \ufffe \uffff \U0001ffff, private \ue000 \U00100000",
    "'; DROP TABLE rows; -- \" \\ $(reboot) `id` {{7*7}} %s %n <script>alert(1)</script> &amp;",
    "NULL null None nan -1 1e309 0x00 Infinity TRUE",
    "İSTANBUL ısparta ẞ ﬁ ﬀ Ω Å ŉ ΣΑΣ",
    "tabs\t\tand\r\nline\rends\n\n\n",
    "\\u0000 \\x00 &#0; %00",
    "\x1b[31mred\x1b[0m and a bell \x07 and a backspace \x08 in a text that is otherwise plain",
    "ก็็็็็็ ด้้้้้็็็็็้้้้้ ⁰⁴⁵₀₁₂ ﷽ ꧅ 𒐫",
)  # fmt: skip

Made = tuple[bytes, str]


def write_odd_texts(folder: Path, count: int, seed: int) -> dict[str, str]:
    """Write so many files below `folder`; what each must become: its text (after `GUESSED`, or a reject), or `REJECT`."""
    random, expected = Random(seed), {}
    for at in range(count):
        kind = KINDS[at % len(KINDS)]
        content, verdict = kind(random)
        if verdict != REJECT and not verdict.removeprefix(GUESSED).strip():
            verdict = REJECT  # white space alone is no text
        name = f"{at:05}-{kind.__name__}{random.choice(SUFFIXES)}"
        name = name if random.random() < 0.9 else f"{random.choice(('sub', 'ü ß', '日本'))}/{name}"
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        expected[name] = verdict
    return expected


def agrees(expected: str, found: str | None) -> bool:
    """Whether what a file became, a text or None, is what it must be."""
    if expected.startswith(GUESSED):
        return found in (None, expected.removeprefix(GUESSED))
    return found is None if expected == REJECT else found == expected


def prose(random: Random) -> str:
    """A text of any size in any language."""
    text = TEXTS[random.choice(sorted(TEXTS))]
    size = random.choice(("word", "sentence", "paragraph", "page", "book"))
    if size == "word":
        return text.split()[0]
    if size == "sentence":
        return text[: random.randint(1, 80)].strip() or text
    return (text + random.choice("\n \t")) * {"paragraph": 1, "page": 5, "book": random.randint(50, 400)}[size]


def long_prose(random: Random) -> str:
    """A text of at least 60 characters."""
    while len(text := prose(random)) < 60:
        pass
    return text


def plain(random: Random) -> Made:
    """UTF-8."""
    text = prose(random)
    return text.encode(), text


def marked(random: Random) -> Made:
    """With a byte order mark."""
    text = prose(random)
    return text.encode(random.choice(MARKED)), text


def big_endian(random: Random) -> Made:
    """With the mark of the byte order that this machine has not."""
    text = prose(random)
    codec = random.choice(("utf-16-be", "utf-32-be", "utf-16-le"))
    return ("\ufeff" + text).encode(codec), text


def unmarked(random: Random) -> Made:
    """UTF-16 and UTF-32 without a mark; of one or two letters the bytes could be anything."""
    text = prose(random) + " 123456789."
    return text.encode(random.choice(WIDE)), GUESSED + text


def usual(random: Random) -> Made:
    """A page in the encoding that is usual for its language."""
    codec = random.choice(sorted(USUAL))
    text = (TEXTS[random.choice(USUAL[codec])] + "\n") * random.randint(3, 30)
    return text.encode(codec), text


def code_page(random: Random) -> Made:
    """An encoding that can be taken for others; of a few words one in fifty is."""
    found: dict[str, bytes] = {}
    while not found:
        text = long_prose(random)
        found = encodings_of(text, list(CODE_PAGES))
    codec = random.choice(sorted(found))
    ascii_alone = found[codec].isascii()
    return found[codec], found[codec].decode("ascii") if ascii_alone else GUESSED + text


def shifting(random: Random) -> Made:
    """ASCII bytes that are escapes to other letters."""
    found: dict[str, bytes] = {}
    while not found:
        text = prose(random)
        kinds = {c: b for c, b in encodings_of(text, list(SHIFTING)).items() if b.isascii() and b != text.encode()}
        found = {codec: content for codec, content in kinds.items() if len(text) > 10}
    return random.choice(sorted(found.values())), REJECT


def nothing(random: Random) -> Made:
    """Nothing, or white space."""
    return random.choice(
        (b"", b" ", b"\n\n\t", "\u3000\u2028".encode(), b"\xff\xfe", b"\xef\xbb\xbf", b"\r\n" * 999)
    ), REJECT


def broken(random: Random) -> Made:
    """UTF-8 with a byte, or a lone surrogate, that is none."""
    content = (TEXTS["french"] * random.randint(2, 20)).encode()
    at = content.index(b" ", random.randrange(len(content) // 2))
    return content[:at] + random.choice((b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf5")) + content[at:], REJECT


def truncated(random: Random) -> Made:
    """UTF-16 or UTF-32 that ends inside a character."""
    return prose(random).encode(random.choice(("utf-16", "utf-32")))[:-1], REJECT


def nul(random: Random) -> Made:
    """A text with a NUL."""
    text = prose(random) + " "
    at = random.randrange(len(text))
    return (text[:at] + "\0" + text[at:]).encode(random.choice(("utf-8", "utf-16", "utf-8-sig"))), REJECT


def binary(random: Random) -> Made:
    """Noise, pictures, archives."""
    noise = random.randbytes(random.randint(500, 20_000))
    picture = io.BytesIO()
    Image.frombytes("RGB", (12, 12), noise[:432]).save(picture, random.choice(("PNG", "JPEG", "GIF", "TIFF", "WEBP")))
    return random.choice(
        (noise + b"\0\1", b"\x1f\x8b" + zlib.compress(noise), picture.getvalue(), b"\0" * 4096)
    ), REJECT


def naughty(random: Random) -> Made:
    """Strings that have broken programs."""
    text = " ".join(random.sample(NAUGHTY, random.randint(1, 4)))
    return text.encode(), text


def any_letters(random: Random) -> Made:
    """Letters of all of Unicode."""
    letters = []
    while len(letters) < 200:
        letter = chr(random.randrange(0x20, 0x110000))
        if unicodedata.category(letter) not in ("Cs", "Cc"):
            letters.append(letter)
    text = "x" + "".join(letters)
    return text.encode(), text


def long_line(random: Random) -> Made:
    """One line, of one word or of many."""
    text = random.choice(("x", "word ", "日本語", "12.5,", "a👍🏽")) * random.randint(20_000, 60_000)
    return text.encode(), text


KINDS: tuple[Callable[[Random], Made], ...] = (
    *(plain, marked, big_endian, unmarked, usual, code_page, shifting, nothing, broken, truncated, nul, binary),
    *(naughty, any_letters, naughty, plain, code_page, unmarked, usual, long_line),
)


if __name__ == "__main__":
    found = write_odd_texts(Path(sys.argv[1]), *map(int, sys.argv[2:] or ["1000"]), *([0] if len(sys.argv) < 4 else []))
    print(len(found), "files,", sum(verdict == REJECT for verdict in found.values()), "of them no texts")
