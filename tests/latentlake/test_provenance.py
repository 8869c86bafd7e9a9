"""Fingerprints: what changes them, what does not, and what a mismatch says."""

from __future__ import annotations

import pytest

from latentlake.provenance import Provenance, check_fingerprint, fingerprint_of, identity_of
from operators.chain import Chain, Step
from operators.embedders.hashing import Config
from operators.errors import FingerprintMismatch

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
