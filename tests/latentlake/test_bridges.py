"""Bridges between two models: the maps against scipy and closed forms, and queries that cross one. Hashed words, no weights."""

from __future__ import annotations

import io
import json
import shlex
from pathlib import Path
from typing import Any

import boto3
import lance
import numpy as np
import pyarrow as pa
import pytest
from command_line import latentlake_here
from doc_commands import commands
from hypothesis import given, settings
from hypothesis import strategies as st
from lake_maker import LakeMaker
from scipy.linalg import orthogonal_procrustes

import latentlake
from latentlake.bridges import maps
from latentlake.bridges.fitting import Space, fit
from latentlake.bridges.store import check_arrays, folder_of, header_of, name_of, read_bridge
from latentlake.storage import open_storage
from operators.chain import Chain
from operators.embedders.hashing import Config
from operators.errors import FingerprintMismatch, NotFound, SpecError, Unreadable

COSINE = Space("cosine", False)
WORDS = [f"w{n}" for n in range(400)]
ROWS = 600
LINEAR = ("procrustes", "ridge")


def normal(rows: int, dim: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, dim))


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 12), st.integers(0, 2**31), st.booleans())
def test_procrustes_recovers_a_rotation_and_a_shift(dim: int, seed: int, few: bool):
    turn, shift = np.linalg.qr(normal(dim, dim, seed))[0], normal(1, dim, seed + 1)[0]
    x = normal(dim // 2 + 1 if few else 4 * dim, dim, seed + 2)
    y = x @ turn + shift
    np.testing.assert_allclose(maps.apply_map(maps.fit_procrustes(x, y), x), y, atol=1e-3)


def test_procrustes_is_scipy_s():
    x, y = normal(100, 6), normal(100, 6, 1)
    expected, _ = orthogonal_procrustes(x - x.mean(axis=0), y - y.mean(axis=0))
    np.testing.assert_allclose(maps.fit_procrustes(x, y)["weight"], expected, atol=1e-4)


@pytest.mark.parametrize(("dim", "other"), [(6, 3), (3, 6)])
def test_procrustes_between_dimensions_keeps_lengths_of_what_it_maps(dim: int, other: int):
    weight = maps.fit_procrustes(normal(100, dim), normal(100, other, 1))["weight"]
    smaller = weight.T @ weight if dim > other else weight @ weight.T
    np.testing.assert_allclose(smaller, np.eye(3), atol=1e-5)


def test_directions_that_few_pairs_do_not_tell_of_stay_as_they_are():
    x = np.zeros((8, 5))
    x[:, :2] = normal(8, 2)
    y = x.copy()
    y[:, :2] = x[:, [1, 0]]  # the pairs tell of a swap of two axes
    weight = maps.fit_procrustes(x, y)["weight"]
    np.testing.assert_allclose(weight, np.eye(5)[[1, 0, 2, 3, 4]], atol=1e-4)


def test_a_ridge_lies_between_least_squares_and_what_it_shrinks_to():
    x, y = normal(80, 5), normal(80, 5, 1)
    exact = np.linalg.lstsq(x - x.mean(axis=0), y - y.mean(axis=0), rcond=None)[0]
    np.testing.assert_allclose(maps.fit_ridge(x, y, 1e-9)["weight"], exact, atol=1e-5)
    np.testing.assert_allclose(maps.fit_ridge(x, y, 1e9)["weight"], 0, atol=1e-5)
    np.testing.assert_allclose(maps.fit_ridge(x, y, 1e9, maps.fit_nothing)["weight"], np.eye(5), atol=1e-5)
    rotation = maps.fit_procrustes(x, y)["weight"]
    np.testing.assert_allclose(maps.fit_ridge(x, y, 1e9, maps.fit_procrustes)["weight"], rotation, atol=1e-5)
    centred = x - x.mean(axis=0)
    strength = 0.3 * (centred**2).sum() / 5
    closed = np.linalg.solve(centred.T @ centred + strength * np.eye(5), centred.T @ (y - y.mean(axis=0)))
    np.testing.assert_allclose(maps.fit_ridge(x, y, 0.3)["weight"], closed, atol=1e-5)


def test_low_rank_is_the_ridge_on_its_main_directions():
    x, y = normal(200, 8), normal(200, 6, 1)
    ridge = maps.fit_ridge(x, y, 0.01)
    whole = maps.fit_low_rank(x, y, 6, 0.01)
    np.testing.assert_allclose(maps.apply_map(whole, x), maps.apply_map(ridge, x), atol=1e-4)
    low = maps.fit_low_rank(x, y, 2, 0.01)
    assert low["down"].shape == (8, 2) and low["up"].shape == (2, 6)
    fitted = maps.apply_map(ridge, x) - y.mean(axis=0)
    left, values, right = np.linalg.svd(fitted, full_matrices=False)
    best = left[:, :2] * values[:2] @ right[:2]  # Eckart and Young
    np.testing.assert_allclose(maps.apply_map(low, x) - y.mean(axis=0), best, atol=1e-3)


def test_the_mlp_learns_what_no_ridge_can_and_nothing_where_there_is_nothing():
    x = normal(1500, 4)
    y = np.abs(x) @ normal(4, 3, 1)

    def base(x: np.ndarray, y: np.ndarray) -> maps.Arrays:
        return maps.fit_ridge(x, y, 1e-3)

    errors = [
        float(((maps.apply_map(found, x[1000:]) - y[1000:]) ** 2).mean())
        for found in (base(x[:1000], y[:1000]), maps.fit_mlp(x[:1000], y[:1000], base))
    ]
    assert errors[1] < errors[0] / 4
    assert maps.fit_mlp(x[:300], normal(300, 3, 2), base).keys() == {"weight", "bias"}  # there is only noise


def test_the_best_map_is_chosen_and_measured_on_pairs_that_took_no_part():
    old = normal(500, 10)
    new = old @ np.linalg.qr(normal(10, 10, 1))[0] + 0.2
    spaces = (COSINE, COSINE)
    found = fit(COSINE.scale(new), COSINE.scale(old), spaces, k=5)
    assert found.recall.value > 0.9 and found.without is not None and found.without.value < 0.3
    assert (found.pairs, found.recall.rows, found.pool) == (450, 50, 500)
    assert {one.kind for one in found.tried} == {"procrustes", "ridge", "rotation_ridge", "identity_ridge", "mlp"}
    assert max(one.recall for one in found.tried) == next(
        one.recall for one in found.tried if (one.kind, one.setting) == (found.kind, found.setting)
    )
    plain = fit(COSINE.scale(normal(200, 4)), COSINE.scale(normal(200, 6, 1)), spaces, k=5, methods=["procrustes"])
    assert (
        plain.kind == "procrustes" and plain.without is None and plain.recall.value < 0.3
    )  # they have nothing in common


def test_a_bridge_of_a_column_to_itself_loses_nothing():
    values = COSINE.scale(normal(100, 8))
    assert fit(values, values, (COSINE, COSINE), k=3, methods=["procrustes"]).recall.value == 1


@pytest.mark.parametrize(
    ("pairs", "methods", "told"),
    [(49, ("ridge",), "50 at least; there are 49"), (60, ("rigde",), "no method 'rigde'"), (60, (), "name a method")],
)
def test_what_cannot_be_fitted_is_refused(pairs: int, methods: tuple[str, ...], told: str):
    values = normal(pairs, 4)
    with pytest.raises(SpecError, match=told):
        fit(values, values, (COSINE, COSINE), methods=methods)


def texts(rows: int, seed: int = 0) -> list[str]:
    """Texts of eight words, a few of which are common."""
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, len(WORDS) + 1)
    return [" ".join(rng.choice(WORDS, 8, p=weights / weights.sum())) for _ in range(rows)]


OLD, NEW = Config(dim=64), Config(dim=128)  # hashes to 64 are those to 128, folded: a map that can be learned


def write(
    maker: LakeMaker,
    name: str,
    configs: dict[str, Config],
    rows: list[str],
    *,
    dtype: str = "float32",
    mode: str = "create",
    no_vector: tuple[int, ...] = (),
) -> None:
    data = {
        "id": pa.array([f"r{n}" for n in range(len(rows))]),
        "content_hash": pa.array(rows),
        "text": pa.array(rows),
    }
    columns = {
        column: (
            maker.vector_field(column, config, Chain("text"), dtype, "cosine"),
            maker.embed(config, Chain("text"), rows),
        )
        for column, config in configs.items()
    }
    maker.write(name, data, columns, mode, no_vector)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A lake of `both` (columns `old` and `new`), `only_old`, and `few` (column `new`, of some of the same texts, and others)."""
    maker = LakeMaker(str(tmp_path_factory.mktemp("bridges") / "lake"))
    write(maker, "both", {"old": OLD, "new": NEW}, texts(ROWS), no_vector=(3, 4))
    write(maker, "only_old", {"old": OLD}, texts(ROWS))
    changed = ["another text" if n % 10 == 0 else text for n, text in enumerate(texts(ROWS)[:300])]
    write(maker, "few", {"new": NEW}, changed)
    return maker.uri


def open_table(uri: str, name: str) -> latentlake.Table:
    return latentlake.connect(uri).open(name)


def hits(found: Any) -> list[str]:
    return [row["id"] for row in found]


def test_queries_of_the_new_model_search_the_old_column(lake: str):
    table = open_table(lake, "both")
    bridge = table.align("old", "new", methods=LINEAR)
    assert bridge.recall > 0.8 and bridge.low <= bridge.recall <= bridge.high and bridge.without is None
    assert (bridge.pairs + bridge.measured, bridge.pool, bridge.k) == (ROWS - 2, ROWS - 2, 10)
    fresh = open_table(lake, "both")  # what was fitted is read from the lake
    assert [one.facts() for one in fresh.bridges()] == [bridge.facts()]
    kept = [
        len({*hits(fresh.search(text, column="old", bridge="new"))} & {*hits(fresh.search(text, column="old"))})
        for text in texts(20, seed=1)
    ]
    assert np.mean(kept) > 8
    question = texts(1, seed=2)[0]
    vector = fresh.embed([question], "new")[0]
    by_text = hits(fresh.search(question, column="old", bridge="new"))
    assert by_text == hits(fresh.search(vector, column="old", bridge="new"))
    assert by_text == hits(fresh.search_many([question], column="old", bridge="new")[0])
    many = fresh.search_many(np.stack([vector, vector]), column="old", bridge="new")
    assert [hits(one) for one in many] == [by_text, by_text]
    like_a_row = hits(fresh.search(id="r7", column="old", bridge="new"))  # its vector is the column's own
    assert like_a_row == hits(fresh.search(id="r7", column="old"))
    fresh.align("old", "new", methods=["procrustes"])  # which takes the place of the one that was read
    again = hits(open_table(lake, "both").search(question, column="old", bridge="new"))
    assert hits(fresh.search(question, column="old", bridge="new")) == again != by_text
    with pytest.raises(SpecError, match=r"takes vectors of shape \(128,\)"):
        fresh.search(np.ones(64), column="old", bridge="new")  # a vector of the old model needs no bridge


def test_pairs_come_from_another_table_by_id_and_content(lake: str):
    """While the new column is being made: the table has none, and a small one of some objects has it."""
    table = open_table(lake, "only_old")
    with pytest.raises(NotFound, match=r"no vector column 'new'(.|\n)*--pairs OTHER_TABLE"):
        table.align("old", "new")
    bridge = table.align("old", "new", pairs=open_table(lake, "few"), methods=LINEAR)
    assert bridge.pairs + bridge.measured == 270 and (bridge.pairs_table, bridge.pairs_version) == ("few", 1)
    assert bridge.recall > 0.75  # texts of another content under the same id would spoil it
    found = table.search(texts(1, seed=3)[0], bridge="new")
    assert len({*hits(found)} & {*hits(table.search(texts(1, seed=3)[0]))}) >= 7


def test_pairs_of_another_old_model_are_refused(maker: LakeMaker):
    write(maker, "t", {"old": OLD}, texts(60))
    write(maker, "pairs", {"old": Config(dim=32), "new": NEW}, texts(60))
    with pytest.raises(FingerprintMismatch, match="column 'old' of 'pairs' holds vectors of"):
        open_table(maker.uri, "t").align("old", "new", pairs=open_table(maker.uri, "pairs"))
    with pytest.raises(SpecError, match="are of one model"):
        open_table(maker.uri, "t").align("old", "old")


def test_a_column_that_was_rebuilt_in_a_candidate_is_bridged_to_what_readers_have(maker: LakeMaker):
    write(maker, "t", {"v": OLD}, texts(200))
    dataset = lance.dataset(f"{maker.uri}/t.lance")
    dataset.tags.create("prod", 1)
    write(maker, "t", {"v": NEW}, texts(200), mode="overwrite")
    dataset.tags.create("candidate", 2)
    readers = open_table(maker.uri, "t")
    with pytest.raises(SpecError, match="are of one model"):
        readers.align("v", "v")
    bridge = readers.align("v", "v", pairs=readers.checkout("candidate"), methods=["ridge"])
    assert (bridge.pairs_version, bridge.version) == (2, 1) and bridge.recall > 0.6
    question = texts(1, seed=4)[0]
    assert len({*hits(readers.search(question, bridge="v"))} & {*hits(readers.search(question))}) >= 6
    with pytest.raises(FingerprintMismatch, match="at version 2 it holds those of"):
        readers.checkout("candidate").search(question, bridge="v")


def test_a_bridge_is_refused_where_a_column_is_of_another_model_by_now(maker: LakeMaker):
    write(maker, "t", {"old": OLD, "new": NEW}, texts(80))
    table = open_table(maker.uri, "t")
    with pytest.raises(NotFound, match=r"no bridge to column 'old' from 'new'(.|\n)*latentlake align"):
        table.search("w1", column="old", bridge="new")
    table.align("old", "new", methods=["ridge"])
    for configs, told in (
        ({"old": OLD, "new": Config(dim=96)}, "when column 'new' held vectors of"),
        ({"old": Config(dim=48), "new": NEW}, "when column 'old' held vectors of"),
    ):
        write(maker, "t", configs, texts(80), mode="overwrite")
        with pytest.raises(
            FingerprintMismatch, match=told + r"(.|\n)*Fit it again: latentlake align .* --from old --to new"
        ):
            open_table(maker.uri, "t").search("w1", column="old", bridge="new")
    assert hits(
        table.search("w1 w2", column="old", bridge="new")
    )  # the earlier version has the columns it was fitted for
    write(maker, "t", {"old": OLD}, texts(80), mode="overwrite")  # the new column is gone, or not there yet
    assert hits(open_table(maker.uri, "t").search("w1 w2", bridge="new"))


def test_searches_that_no_bridge_can_serve_are_refused(lake: str):
    table = open_table(lake, "both")
    table.align("old", "new", methods=["procrustes"])
    with pytest.raises(SpecError, match="a bridge leads to one column"):
        table.search("w1", bridge="new")
    with pytest.raises(SpecError, match="a bridge leads to one column"):
        table.search("w1", column=["old", "new"], bridge="new")
    with pytest.raises(SpecError, match="bridge"):
        table.search("w1", column="old", mode="text", bridge="new")


def test_columns_of_bits_are_bridged_too():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((400, 32))
    old = np.packbits(values > 0, axis=1)
    new = (values @ np.linalg.qr(normal(32, 32, 1))[0]).astype(np.float16)
    bits = Space("hamming", True)
    prepared = bits.prepare(old)
    assert set(np.unique(prepared)) == {-1.0, 1.0} and (bits.stored(prepared) == old).all()
    found = fit(COSINE.prepare(new), prepared, (COSINE, bits), k=5)
    assert found.recall.value > 0.4 and found.without is not None and found.without.value < 0.1


def test_what_lies_in_the_lake_is_read_with_care(maker: LakeMaker):
    write(maker, "t", {"old": OLD, "new": NEW}, texts(80))
    table = open_table(maker.uri, "t")
    bridge = table.align("old", "new", methods=["ridge"])
    place = open_storage(maker.uri)
    path = Path(maker.uri) / "_latentlake" / "t" / "bridges" / name_of("old", "new")
    good = path.read_bytes()
    with np.load(io.BytesIO(good), allow_pickle=False) as found:
        kept = {name: found[name] for name in found.files}
    header = json.loads(kept["header"].tobytes())
    assert header["format"] == 1 and header["recall"] == bridge.recall
    assert latentlake.connect(maker.uri).tables() == ["t"]

    def damaged(told: str, arrays: dict[str, Any] | None = None, content: bytes | None = None) -> None:
        file = io.BytesIO()
        np.savez(file, **({**kept, **(arrays or {})}))
        path.write_bytes(file.getvalue() if content is None else content)
        with pytest.raises(Unreadable, match=told):
            read_bridge(place, "t", "old", "new")

    def header_with(**changes: Any) -> dict[str, np.ndarray]:
        return {"header": np.frombuffer(json.dumps({**header, **changes}).encode(), np.uint8)}

    damaged("is not whole", content=good[:200])
    damaged("is not whole", content=b"")
    damaged("is not whole", {"weight": np.array([{"a": 1}], dtype=object)})  # a pickle is not opened
    damaged("later release", header_with(format=2))
    damaged("not what this release writes: recall", header_with(recall="high"))
    damaged("do not map 128 numbers to 64", {"weight": kept["weight"][:5]})
    damaged("do not map", {"bias": np.full_like(kept["bias"], np.nan)})
    damaged("do not map", {"up": kept["weight"]})
    path.write_bytes(good)
    assert header_of(read_bridge(place, "t", "old", "new")) == header_of(bridge)
    assert folder_of(place, "t").list_names() == [path.name]


def test_a_bridge_in_an_object_store(s3_endpoint: str):
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
    options = {"aws_endpoint": s3_endpoint, "aws_region": "us-east-1", "allow_http": "true", **keys}
    client = boto3.client("s3", "us-east-1", endpoint_url=s3_endpoint, **keys)
    client.create_bucket(Bucket="bridges")
    write(LakeMaker("s3://bridges/lake", options), "t", {"old": OLD, "new": NEW}, texts(60))
    table = latentlake.connect("s3://bridges/lake", options).open("t")
    assert table.bridges() == []
    with pytest.raises(NotFound, match="latentlake align s3://bridges/lake t --from old --to new"):
        table.search("w1", column="old", bridge="new")
    bridge = table.align("old", "new", methods=["procrustes"])
    assert [one.recall for one in table.bridges()] == [bridge.recall]
    assert len(hits(table.search("w1 w2", column="old", bridge="new", k=3))) == 3


def test_arrays_of_every_kind_of_map_are_known():
    x, y = normal(60, 6), normal(60, 4, 1)
    for found in (
        maps.fit_procrustes(x, y),
        maps.fit_low_rank(x, y, 2, 0.1),
        maps.fit_mlp(np.abs(x), np.abs(x[:, :4]) ** 2, lambda x, y: maps.fit_ridge(x, y, 10.0)),
    ):
        check_arrays(found, 6, 4)
        assert maps.apply_map(found, x).shape == (60, 4) and maps.apply_map(found, x).dtype == np.float32


def test_the_commands_of_the_page(tmp_path: Path):
    maker = LakeMaker(str(tmp_path / "lake"))
    write(maker, "notes", {"old": OLD, "new": NEW}, texts(100))
    write(maker, "sample", {"new": NEW}, texts(60))
    told = []
    for line in commands("docs/comparing.md", "A bridge between two models"):
        done = latentlake_here(*shlex.split(line)[1:], cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        told.append(done.stdout)
    assert "kind: procrustes" in told[0] and "pairs_table: sample" in told[1] and len(told[2].splitlines()) > 5
    assert lance.dataset(f"{maker.uri}/notes.lance").version == 1  # nothing is written into the table
    done = latentlake_here(
        *("align", "lake", "notes", "--from", "old", "--to", "new"),
        *("--pairs-at", "1", "--method", "ridge", "--json"),
        cwd=tmp_path,
    )
    found = json.loads(done.stdout)
    assert found["kind"] == "ridge" and {kind for kind, *_ in found["tried"]} == {"ridge"}
