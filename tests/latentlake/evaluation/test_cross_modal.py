"""Cross-modal retrieval and zero-shot classification, against ranks that numpy counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from lake_maker import LakeMaker
from sklearn.feature_extraction.text import HashingVectorizer
from vectors_maker import figures, make_table

from latentlake.evaluation.tasks.cross_modal import ranks_of
from operators.chain import Chain
from operators.embedders.hashing import Config
from operators.errors import InvalidSpec, SpecError

DIM = 64
WORDS = ["red car", "blue car", "green tree", "old house", "tall tree", "car park"]


def hashed(texts: list[str]) -> np.ndarray:
    vectorizer = HashingVectorizer(n_features=DIM, norm="l2", alternate_sign=False, token_pattern=r"(?u)\w+")
    return vectorizer.transform(texts).toarray()


def test_ranks_are_counted_among_the_others():
    queries, gallery = np.eye(3), np.array([[1, 0.5, 0.2], [0.4, 0.5, 0.9], [0.7, 0.5, 0.1], [0.8, 0.1, 0]])
    # The first query's own items are the last two: one other is nearer than their best.
    ranks = ranks_of(queries, np.array([2, 1, 0]), gallery, np.array([0, 1, 2, 2]))
    assert ranks.tolist() == [2, 2, 2]  # the second's item ties with two others, and stands in their middle


def test_captions_of_a_column_and_of_a_file(maker: LakeMaker, tmp_path: Path):
    """The objects' vectors are noisy ones of their captions."""
    rng = np.random.default_rng(0)
    vectors = hashed(WORDS) + 0.25 * rng.normal(size=(len(WORDS), DIM))
    table = make_table(maker, vectors, {"caption": pa.array(WORDS)})
    found = figures(table, kind="cross_modal", captions="caption", cutoffs=[1, 3])
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    products = hashed(WORDS) @ units.T
    ranks = (products > np.diag(products)[:, None]).sum(axis=1) + 1
    assert found["text to object: R@1"] == pytest.approx((ranks == 1).mean())
    assert found["text to object: R@3"] == pytest.approx((ranks <= 3).mean())
    assert found["text to object: median rank"] == pytest.approx(np.median(ranks))
    other = (products > np.diag(products)[None]).sum(axis=0) + 1
    assert found["object to text: R@1"] == pytest.approx((other == 1).mean())
    assert found["CLIPScore"] == pytest.approx(2.5 * np.maximum(np.diag(products), 0).mean(), abs=1e-6)
    lines = [f"row{n:06},{caption}" for n, caption in enumerate(WORDS) for _ in range(2)]
    (tmp_path / "captions.csv").write_text("\n".join(["object_id,caption", *lines]))
    twice = table.evaluate(
        {"tasks": [{"kind": "cross_modal", "captions": {"file": tmp_path / "captions.csv"}}]}, resamples=20
    )
    assert [r.n for r in twice.results if r.measure == "R@1"] == [12, 6]
    assert twice.find("R@1", mode="object to text").value == pytest.approx(found["object to text: R@1"])


def test_against_the_vectors_of_another_column(maker: LakeMaker):
    rng = np.random.default_rng(0)
    first = rng.normal(size=(30, 8))
    second = first + rng.normal(size=(30, 8))
    fields = {n: maker.vector_field(n, Config(dim=8), Chain("text"), "float32", "cosine") for n in ("image", "words")}
    ids = pa.array([f"row{n}" for n in range(30)])
    maker.write("both", {"id": ids}, {"image": (fields["image"], first), "words": (fields["words"], second)})
    import latentlake

    table = latentlake.connect(maker.uri).open("both")
    found = figures(table, kind="cross_modal", against="words", columns=["image"])
    a, b = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (first, second))
    ranks = (b @ a.T > np.einsum("nd,nd->n", a, b)[:, None]).sum(axis=1) + 1
    assert found["text to object: R@5"] == pytest.approx((ranks <= 5).mean())


def test_zero_shot_equals_an_ensemble_in_numpy(maker: LakeMaker):
    labels = ["car", "tree", "house"] * 8
    rng = np.random.default_rng(0)
    vectors = hashed(labels) + 0.3 * rng.normal(size=(24, DIM))
    table = make_table(maker, vectors, {"label": pa.array(labels)})
    prompts = ["a photo of a {}.", "one {} alone"]
    found = figures(table, kind="zero_shot", labels="label", prompts=prompts, classes={"tree": ["tree", "wood"]})
    centres = []
    for words in (["car"], ["house"], ["tree", "wood"]):
        centres.append(hashed([p.replace("{}", word) for word in words for p in prompts]).mean(axis=0))
    centres = np.stack(centres) / np.linalg.norm(centres, axis=1, keepdims=True)
    told = np.array(["car", "house", "tree"])[(vectors @ centres.T).argmax(axis=1)]
    assert found["accuracy"] == pytest.approx(np.mean(told == np.array(labels)))
    assert 0.4 < found["accuracy"] < 1


def test_mistakes(maker: LakeMaker):
    table = make_table(maker, np.eye(3, 16), {"label": pa.array(["one"] * 3)})
    for task, message in (
        ({"kind": "cross_modal"}, "give `captions`, or the vector column `against`"),
        ({"kind": "cross_modal", "captions": "label", "prompt": "a photo"}, "`prompt` needs {}"),
        ({"kind": "zero_shot", "labels": "label", "prompts": ["a photo"]}, "each prompt needs {}"),
        ({"kind": "zero_shot", "labels": {"column": "a", "file": "b"}}, "one of `column`, `folder` and `file`"),
    ):
        with pytest.raises(InvalidSpec, match=message):
            table.evaluate({"tasks": [task]})
    with pytest.raises(SpecError, match="the labels tell one class, 'one'"):
        table.evaluate({"tasks": [{"kind": "zero_shot", "labels": "label"}]})
