"""STS, word similarity and analogies, against scipy on vectors that scikit-learn or numpy made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.metrics.pairwise import paired_cosine_distances

import latentlake
from latentlake.evaluation.pairs import read_word_pairs
from latentlake.evaluation.tasks.analogies import answer, read_questions
from operators.errors import SpecError


@pytest.fixture
def notes(shared_lake: str) -> latentlake.Table:
    return latentlake.connect(shared_lake).open("notes")


def hashed(texts: Sequence[str]) -> np.ndarray:
    vectorizer = HashingVectorizer(n_features=256, norm="l2", alternate_sign=False, token_pattern=r"(?u)\w+")
    return vectorizer.transform(texts).toarray()


def test_stsb_equals_scipy_and_scikit_learn(notes: latentlake.Table, data: Path):
    path = data / "stsb" / "dev.parquet"
    found = notes.evaluate({"tasks": [{"kind": "sts", "pairs": path}]}, resamples=200)
    rows = pq.read_table(path).to_pydict()
    cosines = 1 - paired_cosine_distances(hashed(rows["sentence1"]), hashed(rows["sentence2"]))
    for measure, expected in (("Spearman", spearmanr), ("Pearson", pearsonr)):
        result = found.find(measure)
        # Equal cosines, of which hashed words have many, may differ by rounding, and then do not share their rank.
        assert result.value == pytest.approx(expected(cosines, rows["score"])[0], abs=1e-4)
        assert result.low < result.value < result.high and result.n == 1500


def test_word_pairs_equal_scipy(notes: latentlake.Table, data: Path):
    path = data / "words" / "wordsim353.tsv"
    lines = [line.split("\t") for line in path.read_text().splitlines() if not line.startswith("#")]
    pairs = read_word_pairs(path)
    assert len(pairs.scores) == 353 == len(lines)
    assert (pairs.first[0], pairs.second[0], pairs.scores[0]) == ("love", "sex", 6.77)
    same = [float(a.lower() == b.lower()) for a, b, _ in lines]
    found = notes.evaluate({"tasks": [{"kind": "word_similarity", "pairs": path}]}, resamples=20)
    cosines = 1 - paired_cosine_distances(hashed([a for a, _, _ in lines]), hashed([b for _, b, _ in lines]))
    assert found.find("Pearson").value == pytest.approx(pearsonr(cosines, pairs.scores)[0], abs=1e-6)
    assert sum(same) >= 1 and found.find("Spearman").n == 353


@pytest.mark.parametrize(
    "content",
    [
        "# a comment\nsun\tlight\t8.0\nold\tnew\t1.58\n",
        "Word 1,Word 2,Human (mean)\nsun,light,8.0\nold,new,1.58\n",
        "word1\tword2\tPOS\tSimLex999\tconc(w1)\nsun\tlight\tN\t8.0\t2.7\nold\tnew\tA\t1.58\t2.7\n",
        "sun-n light-n 8.0\nold-j new-j 1.58\n",
        "sun light 8.0\nold new 1.58\n",
    ],
    ids=["tabs", "WordSim-353", "SimLex-999", "MEN lemmas", "MEN"],
)
def test_formats_of_word_pairs(tmp_path: Path, content: str):
    (tmp_path / "pairs.txt").write_text(content)
    pairs = read_word_pairs(tmp_path / "pairs.txt")
    assert (pairs.first, pairs.second, pairs.scores.tolist()) == (["sun", "old"], ["light", "new"], [8.0, 1.58])


@pytest.mark.parametrize("content", ["", "sun\tlight\tmuch\nold\tnew\tlittle\n", "sun light\n"])
def test_bad_word_pairs(tmp_path: Path, content: str):
    (tmp_path / "pairs.tsv").write_text(content)
    with pytest.raises(SpecError, match=r"holds no pair|not two words and a score"):
        read_word_pairs(tmp_path / "pairs.tsv")


def test_analogies_equal_3cosadd_in_plain_numpy(data: Path):
    asked = read_questions(data / "words" / "questions-words.txt")
    assert len(asked) == 15 and "capital-common-countries" in asked  # 14 headings, and what stands before the first
    questions = [question for section in asked.values() for question in section][::400]
    words = list(dict.fromkeys(word for question in questions for word in question))
    vectors = np.random.default_rng(0).normal(size=(len(words), 20))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    places = {word: place for place, word in enumerate(words)}
    numbers = np.array([[places[word] for word in question] for question in questions])
    for (a, b, c, _), found in zip(numbers.tolist(), answer(vectors, numbers[:, :3]).tolist(), strict=True):
        cosines = {
            w: vectors[w] @ (vectors[b] - vectors[a] + vectors[c]) for w in range(len(words)) if w not in (a, b, c)
        }
        assert found == max(cosines, key=cosines.__getitem__)


def test_analogies_of_a_table(notes: latentlake.Table, tmp_path: Path):
    # Of bags of words, "red car" is to "red bus" as "blue car" is to "blue bus": but each word here is one token.
    (tmp_path / "q.txt").write_text(": same\na b c d\n: other\na b d c\ne f a b\n")
    task = {"kind": "analogies", "questions": tmp_path / "q.txt", "sections": True}
    found = notes.evaluate({"tasks": [task]}, resamples=20)
    vectors = hashed(list("abcdef"))
    expected = []
    for line in ("abcd", "abdc", "efab"):
        a, b, c, d = ("abcdef".index(word) for word in line)
        scores = vectors @ (vectors[b] - vectors[a] + vectors[c])
        scores[[a, b, c]] = -9
        expected.append(float(np.argmax(scores) == d))
    assert found.find("accuracy").value == pytest.approx(np.mean(expected))
    assert [r.measure for r in found.results] == ["accuracy", "accuracy same", "accuracy other"]
    assert [r.n for r in found.results] == [3, 1, 2]
    with pytest.raises(SpecError, match="is not four words"):
        (tmp_path / "q.txt").write_text("a b c\n")
        notes.evaluate({"tasks": [task]})
