"""Evaluations with a real model, beside what sentence-transformers, numpy, scipy and pytrec_eval compute without us.

`make acceptance` runs these; the other files of this folder compare the same figures of hashed words in `make test`.
"""

from __future__ import annotations

import os
from pathlib import Path

import oracles
import pytest

import latentlake

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "LATENTLAKE_ALL_DATA" not in os.environ, reason="`make acceptance` evaluates MiniLM on all data"
    ),
]


@pytest.fixture(scope="module")
def abstracts(data: Path, minilm: str, tmp_path_factory: pytest.TempPathFactory) -> latentlake.Table:
    return oracles.embed_cranfield(str(tmp_path_factory.mktemp("minilm")), data, minilm)


@pytest.mark.parametrize("check", [oracles.cranfield, oracles.stsb, oracles.wordsim, oracles.analogies, oracles.mteb])
def test_figures_equal_those_computed_without_us(abstracts: latentlake.Table, data: Path, minilm: str, check):
    if check is oracles.mteb:
        pytest.importorskip("mteb", reason="install 'latentlake[mteb]' to compare with MTEB")
    for measure, ours, expected in check(abstracts, data, minilm):
        assert ours == pytest.approx(expected, abs=oracles.ROUNDING if check is oracles.mteb else 1e-6), measure
