"""Which encoding bytes are in, as far as two libraries agree on it."""

from __future__ import annotations

import codecs
import re
import unicodedata
from functools import lru_cache

# Of legacy encodings those that browsers decode (https://encoding.spec.whatwg.org/#names-and-labels), less the rarest:
# with EBCDIC and cp1006 among the candidates a lone "café" in Latin-1 comes out as "cafﻠ".
LEGACY = (
    *("cp1250", "cp1251", "cp1252", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp1258", "cp866", "cp874"),
    *("iso8859_2", "iso8859_5", "iso8859_6", "iso8859_7", "iso8859_8", "iso8859_15", "koi8_r", "koi8_u"),
    *("mac_roman", "mac_cyrillic", "gb18030", "big5", "big5hkscs", "cp932", "shift_jis", "euc_jp", "cp949", "euc_kr"),
)
WIDE = ("utf_16_le", "utf_16_be", "utf_32_le", "utf_32_be")
PREFERRED = "cp1252"  # among equal guesses, as in browsers

SAMPLE_BYTES = 65_536
# Words with what is inside them; apostrophes, dashes and the marks of quotations and of the Far East may stand between two.
WORDS = re.compile(
    r"[^\W_](?:[^\s\x00-\x2f\x3a-\x40\x5b-\x60\x7b-\x7f\xa0\xa1\xab\xb7\xbb\xbf\u2010-\u2015\u2019\u201c\u201d\u2028-\u202f"
    r"\u3000-\u3004\u3008-\u3020\uff00-\uff0f\uff1a-\uff20]*[^\W_])?"
)
EASTERN = frozenset(
    {"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "HANGUL", "BOPOMOFO", "FULLWIDTH", "HALFWIDTH"}
)
SHORT_BYTES = 200
FEW_BYTES, LETTERS = 12, re.compile(rb"[A-Za-z]")  # so few bytes without a letter of ASCII could be anything
MARGIN, SHORT_MARGIN = 1.005, 1.02  # how many times as likely a guess is as the best one that makes another text
# Encodings whose bytes are all ASCII's: what they begin with, and their names.
ESCAPES = re.compile(rb"\x1b(?:\$[@A-C()]|\([IJ]|\.[AF])")
ISO_2022 = ("iso2022_jp", "iso2022_jp_2", "iso2022_jp_3", "iso2022_jp_2004", "iso2022_jp_ext", "iso2022_kr")
SHIFTS = {"hz": re.compile(rb"~\{[\x21-\x77][\x21-\x7e]"), "utf_7": re.compile(rb"\+[A-Za-z0-9+/]{3}")}


def guess_encodings(sample: bytes, encodings: tuple[str, ...]) -> list[str]:
    """Those of `encodings` that charset_normalizer takes for likely, the best first."""
    from charset_normalizer import from_bytes

    matches = list(from_bytes(sample, cp_isolation=list(encodings), enable_fallback=False))
    if not matches:
        return []
    tied = [m for m in matches if (m.chaos, m.coherence) == (matches[0].chaos, matches[0].coherence)]
    first = [PREFERRED] if any(PREFERRED in m.could_be_from_charset for m in tied) else []
    return first + [m.encoding for m in matches]


def rival_of(encoding: str, sample: bytes) -> str | None:
    """An encoding that chardet takes for as likely as this one, or more so, and that makes another text; None: there is none.

    Rivals do not count that mix scripts or cases within words, where this one does not.
    """
    from chardet import detect_all

    if encoding not in WIDE:  # a word among pages of ASCII would count for nothing
        sample = b"\n".join(line for line in sample.splitlines() if not line.isascii())
    ours, likely = sample.decode(encoding, "replace"), None
    plain = has_plain_words(ours)
    if len(sample) < FEW_BYTES and not LETTERS.search(sample):
        return "another"
    without_nul = sample.replace(b"\0", b"")
    if encoding in WIDE and is_utf8(without_nul) and not without_nul.isascii():
        return "utf_8"  # with a NUL
    for found in detect_all(sample, ignore_threshold=True):
        name, confidence = found["encoding"], found["confidence"]
        if name is None:  # of no encoding that chardet knows, as UTF-16 without ASCII is
            return None if encoding in WIDE and plain and not without_nul.isascii() else "another"
        try:
            text = sample.decode(name, "strict" if encoding not in WIDE else "replace")
        except (UnicodeError, LookupError):
            continue
        if text == ours:
            likely = confidence if likely is None else likely
        elif not plain or has_plain_words(text):
            margin = SHORT_MARGIN if len(sample) < SHORT_BYTES else MARGIN
            return name if likely is None or likely < margin * confidence else None
    return None if likely is not None else "another"


def has_plain_words(text: str) -> bool:
    """Whether no word mixes scripts, or capitals into its small letters, or has a symbol inside, and every character is known."""
    for word in WORDS.findall(text):
        if word.isascii():
            continue
        kinds = {kind_of(letter) for letter in word if not letter.isascii() or letter.isalpha()}
        small = [letter.islower() for letter in word if letter.isalpha()]
        capital = any(
            was and letter.isupper() for was, letter in zip(small, filter(str.isalpha, word[1:]), strict=False)
        )
        if len(kinds) > 1 or "" in kinds or capital:
            return False
    return True


@lru_cache(maxsize=4096)
def kind_of(letter: str) -> str:
    """A letter's script, by the first word of its name; one for those of the Far East, and "" for what has none."""
    first = unicodedata.name(letter, "").partition(" ")[0]
    return (
        "EAST"
        if first in EASTERN
        else first
        if letter.isalpha() or unicodedata.combining(letter)
        else first and "SYMBOL"
    )


def shifting_encoding(content: bytes) -> str | None:
    """The encoding of ASCII bytes that are escapes to other letters; None if they are ASCII."""
    if ESCAPES.search(content):
        return next((name for name in ISO_2022 if makes_letters(content, name)), "iso2022_jp")
    for name, shift in SHIFTS.items():
        if shift.search(content) and makes_letters(content, name):
            from chardet import detect

            found = detect(content[:SAMPLE_BYTES])["encoding"]
            if found is not None and codecs.lookup(found).name == codecs.lookup(name).name:
                return name
    return None


def is_utf8(content: bytes) -> bool:
    """Whether bytes are valid UTF-8, but for a character that is cut at their end."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(content)
    except UnicodeDecodeError:
        return False
    return True


def makes_letters(content: bytes, encoding: str) -> bool:
    """Whether bytes decode to more than ASCII."""
    try:
        return not content.decode(encoding).isascii()
    except UnicodeDecodeError:
        return False
