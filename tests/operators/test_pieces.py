"""Long texts are tokenised piece by piece, to the same tokens and in bounded memory; spans are of the text as it was."""

from __future__ import annotations

import random
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from operators.batch import make_batch, object_array
from operators.embedders import _pieces as pieces
from operators.embedders import _tokens
from operators.embedders._pieces import Tokens, token_pieces
from operators.embedders._tokens import content_ids, token_ids, token_spans
from operators.embedders.hashing import WORD
from operators.embedders.hashing import Config as Hashing
from operators.preprocess.text import chunk_text

pytest.importorskip("tokenizers")

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

PROSE = ["the quick brown fox jumps over the lazy dog and runs away " * 20, Path(__file__).read_text(encoding="utf-8")]


def byte_level(**options: Any) -> Any:
    """As GPT-2's and RoBERTa's."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(**options)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(PROSE, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False))
    return made


def word_pieces(**options: Any) -> Any:
    """As BERT's."""
    made = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100))
    made.normalizer = normalizers.BertNormalizer(**options)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    made.train_from_iterator(PROSE, trainer)
    made.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return made


def whole_text(normalizer: Any = None) -> Any:
    """As Llama's: no words, spaces are letters, bytes where a letter is not known."""
    made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Replace(" ", "▁")
    special = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, max_token_length=8, show_progress=False)
    made.train_from_iterator(PROSE, trainer)
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return made


def unigram(normalizer: Any = None, **options: Any) -> Any:
    """As T5's and XLM-R's."""
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace(**options)
    if normalizer is not None:
        made.normalizer = normalizer
    trainer = trainers.UnigramTrainer(vocab_size=200, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False)
    made.train_from_iterator(PROSE, trainer)
    return made


TOKENIZERS = {
    "bert": lambda: word_pieces(),
    "bert_cased": lambda: word_pieces(lowercase=False),
    "gpt2": lambda: byte_level(add_prefix_space=False),
    "roberta": lambda: byte_level(add_prefix_space=True),
    "llama": lambda: whole_text(),
    "t5": lambda: unigram(),
    "first": lambda: unigram(prepend_scheme="first"),
    "nfkc": lambda: unigram(normalizers.Sequence([normalizers.NFKC(), normalizers.Strip(), normalizers.Lowercase()])),
}


@pytest.fixture(params=TOKENIZERS, scope="module")
def tokenizer(request: pytest.FixtureRequest) -> Any:
    # As models' are, read from their file: that rounds the scores of a tokenizer just trained, and may part words otherwise.
    return Tokenizer.from_str(TOKENIZERS[request.param]().to_str())


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("PIECE", 2000), ("MARGIN", 200), ("OVERLAP", 200), ("LONGEST_PIECE", 16_000)):
        monkeypatch.setattr(pieces, name, size)
    monkeypatch.setattr(_tokens, "PIECE", 2000)


ALPHABETS = ("ab c", "abcdefgh ijkl mnop.,!?-'  \n", "é日İßﬁ½ ab\u0301 \u200b", "0123456789.,[]- ", "ab😀🇩🇪👍🏽 ")
WORDS = ("the", "quick", "İstanbul", "don't", "[CLS]", "<unk>", "12.5", "…", "x" * 150, "日本語テキスト")


def odd_text(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.6:
        alphabet = rng.choice(ALPHABETS)
        return "".join(rng.choice(alphabet) for _ in range(rng.randint(2001, 8000)))
    if kind < 0.8:
        return " ".join(rng.choice(WORDS) for _ in range(600))
    return odd_text(rng)[:3000] + rng.choice([" ", "\n", "-", "a"]) * 500 + odd_text(rng)[:3000]


@pytest.mark.parametrize("seed", range(5))
def test_pieces_make_the_tokens_of_the_whole(tokenizer: Any, small_pieces: None, seed: int) -> None:
    text = odd_text(random.Random(seed))
    found, whole = list(token_pieces(tokenizer, text)), Tokens.of(tokenizer.encode(text, add_special_tokens=False))
    assert len(found) > 1
    assert np.array_equal(np.concatenate([piece.ids for piece in found]), whole.ids)
    spans = np.concatenate([piece.spans for piece in found])
    assert np.array_equal(spans[:, :2], whole.spans[:, :2])
    assert np.array_equal(np.diff(spans[:, 2]) != 0, np.diff(whole.spans[:, 2]) != 0)


@pytest.mark.parametrize("limit", [3, 64, 100_000])
def test_rows_are_those_of_the_tokenizer_alone(tokenizer: Any, small_pieces: None, limit: int) -> None:
    rng = random.Random(limit)
    texts = [part for _ in range(4) for part in (odd_text(rng), "a short one", "x" + " " * 1500 + "y " * 400)]
    cutting = Tokenizer.from_str(tokenizer.to_str())
    cutting.enable_truncation(limit)
    made = token_ids(tokenizer, cutting, texts)
    for at, text in enumerate(texts):
        assert made["input_ids"][at].tolist() == cutting.encode(text).ids
        assert made["tokens"][at] == len(tokenizer.encode(text).ids)
    assert made["truncated"].tolist() == (made["tokens"] > limit).tolist()
    rows, counts = content_ids(tokenizer, texts, limit)
    for row, count, text in zip(rows, counts, texts, strict=True):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert (row.tolist(), count) == (ids[:limit], len(ids))


def test_a_word_without_an_end_is_cut(small_pieces: None) -> None:
    text = "x" * 50_000 + " the end"
    bert = word_pieces()
    assert len(Tokens.of(bert.encode(text, add_special_tokens=False))) == sum(
        len(piece) for piece in token_pieces(bert, text)
    )
    found = sum(len(piece) for piece in token_pieces(byte_level(add_prefix_space=False), text))
    whole = len(byte_level(add_prefix_space=False).encode(text).ids)
    assert abs(found - whole) <= 50_000 // 1000


MEMORY = """
import random, resource, sys
import numpy as np
from operators.batch import object_array
from operators.embedders.{family} import Config
rng = random.Random(1)
text = "[" + ",".join("[%.5f,%.5f]" % (rng.uniform(-180, 180), rng.uniform(-90, 90)) for _ in range(25_000)) + "]"
config = {config}
short = {{"text": object_array(["a few words"])}}
config.prepare(short, "document"), config.spans(["a few words"])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
made = config.prepare({{"text": object_array([text])}}, "document")
prepared = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
text = text[:100_000]
spans = config.spans([text])[0]
tokens = config.prepare({{"text": object_array([text])}}, "document")["tokens"][0]
took = [(kb - before) // 1024 for kb in (prepared, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)]
print(int(made["tokens"][0]), int(tokens), len(spans), *took)
"""


@pytest.mark.parametrize(
    ("family", "config", "special"),
    [
        ("sentence_transformers", "Config(model={minilm!r}).resolve()", 2),
        ("hashing", "Config(max_words=100)", 0),
    ],
)
def test_a_long_text_takes_bounded_memory(minilm: str, family: str, config: str, special: int) -> None:
    """0.53 MB, of 368,000 tokens of MiniLM's. As one encoding 1.06 MB took 374 MB, 10 MB 7.3 GB."""
    pytest.importorskip("sentence_transformers")
    code = MEMORY.format(family=family, config=config.format(minilm=minilm))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    tokens, fewer, spans, prepared_mb, all_mb = map(int, done.stdout.split())
    assert tokens >= 100_000 and fewer == spans + special
    assert prepared_mb < 120
    assert all_mb < 150


# spans of texts that are lowered or normalised


def special_letters() -> list[str]:
    """Letters that become several, or fewer, in another case or normal form, and some that depend on their neighbours."""
    found = []
    for code in range(0x80, 0x30000):
        letter = chr(code)
        if unicodedata.category(letter) in ("Cs", "Cn", "Co"):
            continue
        forms = [letter.lower(), letter.upper(), letter.casefold(), letter.lower().upper()]
        forms += [unicodedata.normalize(form, letter) for form in ("NFC", "NFD", "NFKC", "NFKD")]
        if any(len(form) != 1 for form in forms):
            found.append(letter)
    return found


LETTERS = special_letters()


def lines_of_letters(seed: int) -> list[str]:
    """Texts in which every one of `LETTERS` stands at a word's start, within it, at its end, and alone."""
    letters = random.Random(seed).sample([c for c in LETTERS if not "가" <= c <= "힣"], 400)
    chosen = ["İ", "ẞ", "Σ", "ŉ", "ﬁ", "½", "\u0345", "Ω", *letters]
    return [f"{c}alpha {c} be{c}ta gamma{c} {c}{c} omega" for c in chosen] + ["İ" * 50 + " omega", "ΣΑΣ ΟΔΟΣ İİ omega"]


def check_spans(text: str, spans: np.ndarray) -> None:
    """Spans ascend within the text, the last word is where it is, and no character of a plain word is left out."""
    starts, ends, words = spans.T
    assert (starts >= 0).all() and (starts <= ends).all() and (ends <= len(text)).all(), text
    assert (starts[1:] >= starts[:-1]).all() and set(np.diff(words).tolist()) <= {0, 1}, text
    last = spans[words == words[-1]]
    assert (last[0, 0], last[:, 1].max()) == (len(text) - 5, len(text)), text
    covered = {place for start, end in spans[:, :2].tolist() for place in range(start, end)}
    assert {place for place, letter in enumerate(text) if letter in "alphbetgmo"} <= covered, text


def check_chunks(config: Any, text: str) -> None:
    """Chunks are slices of the text that share nothing, and the last ends with it."""
    batch = {**make_batch(["a"], [text]), "text": object_array([text])}
    out = chunk_text(batch, column="v", max_tokens=4, tokenizer=config)
    assert all(text[s:e] == chunk for s, e, chunk in zip(out["start"], out["end"], out["text"], strict=True)), text
    assert (out["start"][1:] >= out["end"][:-1]).all(), text
    assert out["end"][-1] == len(text) and out["text"][-1].endswith("omega"), text


def test_spans_of_a_model_that_lowers(minilm: str) -> None:
    pytest.importorskip("sentence_transformers")
    from operators.embedders.sentence_transformers import Config

    config = Config(model=minilm).resolve().model_copy(update={"lowercase": True})
    texts = lines_of_letters(1)
    for text, spans in zip(texts, config.spans(texts), strict=True):
        assert len(spans) == config.prepare({"text": object_array([text])}, "document")["tokens"][0] - 2
        check_spans(text, spans)
        check_chunks(config, text)


def test_spans_of_open_clips_own_tokenizer() -> None:
    open_clip = pytest.importorskip("open_clip")
    from operators.embedders._clip_tokens import spans_of_texts

    texts = lines_of_letters(2)
    for text, spans in zip(texts, spans_of_texts(open_clip.get_tokenizer("ViT-B-32"), texts), strict=True):
        check_spans(text, spans)


def test_spans_of_normalised_texts(tokenizer: Any) -> None:
    texts = lines_of_letters(3)
    for text, spans in zip(texts, token_spans(tokenizer, texts), strict=True):
        starts, ends, words = spans.T
        assert (starts <= ends).all() and (ends <= len(text)).all()
        reach = np.maximum.accumulate(ends)
        edges = np.flatnonzero(np.diff(words)) + 1
        assert (starts[edges] >= reach[edges - 1]).all(), "a word begins inside a character"


def test_words_of_hashing_are_those_of_its_pattern() -> None:
    texts = ["", " ", "a", " a  b_c, d! ", "...", "é日 İx\u0345½"]
    for limit in (None, 1, 2):
        made = Hashing(max_words=limit).prepare({"text": object_array(texts)}, "document")
        assert made["words"].tolist() == [" ".join(WORD.findall(text)[:limit]) for text in texts]
        assert made["tokens"].tolist() == [len(WORD.findall(text)) for text in texts]


def test_long_texts_of_open_clip(tmp_path: Path) -> None:
    open_clip = pytest.importorskip("open_clip")
    from operators.embedders._clip_tokens import prepare_text

    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    text = "A photo of İstanbul, with 12 cats & dogs. " * 2000
    row, count = prepare_text(tokenizer, text)
    assert row.tolist() == tokenizer([text])[0].tolist()
    assert count == len(tokenizer.encode(text)) + 2
