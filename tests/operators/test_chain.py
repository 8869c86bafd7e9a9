from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest

from operators import preprocess
from operators.batch import Batch, make_batch, map_rows, object_array
from operators.chain import Chain, Step, apply_bisecting, concat_batches, reject_empty
from operators.embedders.hashing import Config
from operators.errors import SpecError, UnknownName
from operators.preprocess import operator, operators_by_name


@operator("text")
def shout_text(batch: Batch, *, poison: str = "poison") -> Batch:
    """Upper case; raises for the whole batch where a row holds `poison`."""
    if any(text and poison in text for text in batch["text"]):
        raise RuntimeError(f"there is {poison}")
    return map_rows(batch, str.upper, column="text", into="text", stage="shout_text")


@pytest.fixture(autouse=True)
def third_party(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make `shout_text` known, as an entry point would."""
    known = {**operators_by_name(), "shout_text": shout_text.__operator__}  # type: ignore[attr-defined]
    monkeypatch.setattr(preprocess, "operators_by_name", lambda: known)
    yield


def text_batch(*texts: str | None) -> Batch:
    return {**make_batch([f"doc{k}" for k in range(len(texts))], texts), "text": object_array(texts)}


@pytest.mark.parametrize("poisoned", [set(), {0}, {6}, {2, 3}, set(range(7))])
def test_only_the_rows_that_raise_are_rejected(poisoned: set[int]) -> None:
    out = apply_bisecting(
        Step("shout_text", {}), text_batch(*("poison" if k in poisoned else "ok" for k in range(7))), {}
    )
    assert list(out["id"]) == [f"doc{k}" for k in range(7)]
    assert list(out["text"]) == ["poison" if k in poisoned else "OK" for k in range(7)]
    reason = "shout_text: RuntimeError: there is poison"
    assert list(out["error"]) == [reason if k in poisoned else None for k in range(7)]


def test_rows_that_are_dead_keep_their_reason() -> None:
    batch = text_batch("poison", "poison", "ok")
    batch["error"][0], batch["filtered"][1] = "decode: empty", "drop_short_text: 6 characters, fewer than 20"
    out = apply_bisecting(Step("shout_text", {}), batch, {})
    assert list(out["error"]) == ["decode: empty", None, None]
    assert out["filtered"][1] == batch["filtered"][1]
    assert out["text"][2] == "OK"


def test_an_operator_that_raises_without_rows() -> None:
    @operator("text")
    def fail_text(batch: Batch) -> Batch:
        raise RuntimeError("no rows")

    preprocess.operators_by_name()["fail_text"] = fail_text.__operator__  # type: ignore[attr-defined]
    assert len(apply_bisecting(Step("fail_text", {}), text_batch(), {})["id"]) == 0


def test_a_wrong_spec_is_no_reject() -> None:
    with pytest.raises(SpecError, match="max_tokens"):
        apply_bisecting(Step("chunk_text", {"column": "v"}), text_batch("a", "b"), {"v": Config()})
    with pytest.raises(UnknownName):
        apply_bisecting(Step("shout", {}), text_batch("a"), {})


def test_poison_beside_a_fan_out() -> None:
    class Touchy(Config):
        def spans(self, texts):  # type: ignore[no-untyped-def]
            if "poison" in texts:
                raise RuntimeError("cannot tokenise")
            return super().spans(texts)

    batch = text_batch("a b c", "poison", "d")
    out = apply_bisecting(Step("chunk_text", {"column": "v", "max_tokens": 2}), batch, {"v": Touchy()})
    assert list(out["id"]) == ["doc0#0", "doc0#1", "doc1", "doc2#0"]
    assert list(out["error"]) == [None, None, "chunk_text: RuntimeError: cannot tokenise", None]


def test_run_decodes_then_applies_the_steps() -> None:
    chain = Chain(
        "text",
        (
            Step("clean_text", {}),
            Step("drop_short_text", {"min_chars": 4}),
            Step("chunk_text", {"column": "v", "max_tokens": 2}),
        ),
    )
    batch = make_batch(["a", "b", "c", "d"], [b"one  two three", b"\0", b"x", b""])
    out = chain.run(batch, {"v": Config()})
    assert chain.column == "text"
    assert list(out["id"]) == ["a#0", "a#1", "b", "c", "d"]
    assert list(out["text"][:2]) == ["one two", "three"]
    assert [e is None for e in out["error"]] == [True, True, False, True, False]
    assert out["filtered"][3] == "drop_short_text: 1 character, fewer than 4"

    query = chain.run(make_batch(["q"], ["x  y"]), {"v": Config()}, role="query")
    assert list(query["id"]) == ["q"] and list(query["text"]) == ["x y"] and "chunk" not in query


def test_json_round_trip() -> None:
    chain = Chain(
        "text", (Step("clean_text", {"fix_encoding": False}), Step("chunk_text", {"column": "v", "overlap": 3}))
    )
    assert Chain.from_json(json.loads(json.dumps(chain.to_json()))) == chain
    assert chain.to_json()["steps"][0] == {"op": "clean_text", "fix_encoding": False}
    assert Chain.from_json(Chain("image").to_json()) == Chain("image")


def test_fingerprint_fields_cover_versions_and_parameters() -> None:
    fields = Chain("text", (Step("truncate_text", {"max_chars": 9}),)).fingerprint_fields()
    assert json.loads(json.dumps(fields)) == {
        "modality": "text",
        "decode": 1,
        "preprocess": [{"op": "truncate_text", "version": 1, "params": {"max_chars": 9}}],
    }


def test_unknown_names_name_the_nearest() -> None:
    with pytest.raises(UnknownName, match=r"no operator 'chunk_texts'\. Did you mean 'chunk_text'\?\n  Available: "):
        Chain("text", (Step("chunk_texts", {}),)).fingerprint_fields()
    with pytest.raises(UnknownName, match=r"no modality 'images'\. Did you mean 'image'\?\n  Available: .*image.*text"):
        _ = Chain("images").column


def test_concat_fills_missing_columns() -> None:
    first, second = make_batch("a", [1]), {**make_batch("bc", [2, 3]), "chunk": np.array([0, 1])}
    joined = concat_batches([first, second])
    assert list(joined["chunk"]) == [None, 0, 1] and list(joined["id"]) == ["a", "b", "c"]


def test_reject_empty() -> None:
    batch = text_batch("a", " \n", None)
    batch["error"][2] = "decode: empty"
    assert list(reject_empty(batch)["error"]) == [None, "preprocess: empty", "decode: empty"]
    assert batch["error"][1] is None
