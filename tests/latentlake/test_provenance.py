"""Fingerprints: what changes them, what does not, and what a mismatch says."""

from __future__ import annotations

import json

import pytest
from damage_maker import DAMAGE

from latentlake.formats import StoredFormat
from latentlake.provenance import Provenance, check_fingerprint, fingerprint_of, identity_of
from operators.chain import Chain, Step
from operators.embedders.hashing import Config
from operators.errors import FingerprintMismatch, Unreadable

CHAIN = Chain("text", (Step("clean_text", {}), Step("truncate_text", {"max_chars": 100})))


def provenance_of(config: Config, chain: Chain = CHAIN) -> Provenance:
    return Provenance(
        fingerprint=fingerprint_of(config, chain, "float32"),
        identity=identity_of(config, chain, "float32"),
        embedder=config.model_dump(mode="json"),
        chain=chain.to_json(),
        dtype="float32",
    )


@pytest.mark.parametrize(
    ("config", "chain", "dtype"),
    [
        (Config(dim=32), CHAIN, "float32"),
        (Config(max_words=10), CHAIN, "float32"),
        (Config(normalize=True), CHAIN, "float32"),
        (Config(), CHAIN, "float16"),
        (Config(), Chain("image"), "float32"),
        (Config(), Chain("text"), "float32"),
        (Config(), Chain("text", CHAIN.steps[::-1]), "float32"),
        (Config(), Chain("text", (CHAIN.steps[0], Step("truncate_text", {"max_chars": 101}))), "float32"),
    ],
)
def test_what_changes_numbers_changes_the_fingerprint(config, chain, dtype):
    assert fingerprint_of(config, chain, dtype) != fingerprint_of(Config(), CHAIN, "float32")


def test_speed_does_not():
    assert fingerprint_of(Config(delay_ms=5), CHAIN, "float32") == fingerprint_of(Config(), CHAIN, "float32")


def test_json_round_trip():
    provenance = provenance_of(Config(dim=32))
    again = Provenance.from_json(provenance.to_json())
    assert again == provenance
    assert (again.dimension, again.modality, again.config) == (32, "text", Config(dim=32))
    assert fingerprint_of(again.config, Chain.from_json(again.chain), again.dtype) == again.fingerprint


def test_a_mismatch_says_what_differs():
    other = identity_of(Config(dim=32, normalize=True), CHAIN, "float32")
    with pytest.raises(FingerprintMismatch, match="this job makes") as caught:
        check_fingerprint("words", "notes", provenance_of(Config(dim=64)), other, verb="this job makes")
    assert "dim (64 -> 32)" in str(caught.value)
    assert "normalize (false -> true)" in str(caught.value)
    assert "preprocess" not in str(caught.value)


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_cannot_be_read_is_told_of(damage: str):
    with pytest.raises(Unreadable, match="the provenance of a vector column"):
        Provenance.from_json(DAMAGE[damage](provenance_of(Config(dim=32)).to_json().encode()))


def test_a_provenance_of_an_earlier_release_has_no_number_and_a_later_one_may_say_more():
    provenance = provenance_of(Config(dim=32))
    values = json.loads(provenance.to_json())
    assert values.pop("format") == 1
    assert Provenance.from_json(json.dumps(values)) == provenance
    assert Provenance.from_json(json.dumps({**values, "format": 1, "since": "later"})) == provenance


def test_formats_are_translated_one_by_one():
    steps = {1: lambda old: {"names": [old["name"]]}, 2: lambda old: {**old, "count": len(old["names"])}}
    format = StoredFormat("the note", 3, steps)
    for text in ('{"name": "a"}', '{"format": 1, "name": "a"}', '{"format": 2, "names": ["a"]}'):
        assert format.read(text) == {"names": ["a"], "count": 1}
    assert format.read(format.write({"names": []})) == {"names": []}
    with pytest.raises(Unreadable, match="the note has format 4, and this release reads formats up to 3"):
        format.read('{"format": 4}')


def test_a_model_of_which_this_release_knows_too_little_is_told_of():
    stored = provenance_of(Config(dim=32))
    later = Provenance.from_json(
        json.dumps({**json.loads(stored.to_json()), "embedder": {"family": "hashing", "new": 1}})
    )
    with pytest.raises(Unreadable, match="cannot be understood by this release"):
        _ = later.config
