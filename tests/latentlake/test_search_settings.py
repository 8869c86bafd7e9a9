"""What a column remembers of its tuning: the JSON, the search parameters it gives, and what keeps it."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentlake.indexes import nearest
from latentlake.tuning.settings import (
    SEARCH_KEY,
    Effort,
    FilteredSearch,
    Measured,
    SearchSettings,
    read_settings,
    write_settings,
)

DIM = 8
FOUND = Measured(recall=0.97, low=0.96, high=0.98, queries=200, p50_ms=1.5, p95_ms=2.5)
TUNED = SearchSettings(
    index="ivf_hnsw_sq",
    effort=Effort(0.4, 2, 100),
    target_recall=0.95,
    k=10,
    measured=FOUND,
    measured_at=3,
    queries_from="file",
    exact_rows=500,
    filtered=(
        FilteredSearch(0.5, Effort(0.6, 2, 150), FOUND),
        FilteredSearch(0.1, Effort(0.9, 4, 200), FOUND),
        FilteredSearch(0.01, None, FOUND),
    ),
    build={"index_type": "IVF_HNSW_SQ", "metric": "l2"},
)

share = st.floats(0, 1)
efforts = st.builds(Effort, share, st.none() | st.integers(1, 100), st.none() | st.integers(1, 1000))
measured = st.builds(Measured, share, share, share, st.integers(0, 10**6), share, share)
tuned = st.builds(
    SearchSettings,
    index=st.sampled_from(["exact", "ivf_rq", "ivf_hnsw_flat"]),
    effort=st.none() | efforts,
    target_recall=share,
    k=st.integers(1, 100),
    measured=measured,
    measured_at=st.integers(1, 10**9),
    queries_from=st.sampled_from(["file", "log", "rows"]),
    exact_rows=st.integers(0, 10**6),
    filtered=st.lists(st.builds(FilteredSearch, share, st.none() | efforts, measured), max_size=3).map(tuple),
    max_p95_ms=st.none() | share,
    build=st.dictionaries(st.text(), st.text() | st.integers(), max_size=3),
    why=st.text(),
)


def make_rows(start: int, rows: int) -> pa.Table:
    vectors = np.random.default_rng(start).standard_normal((rows, DIM)).astype("f4")
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), DIM)
    return pa.table({"id": [f"r{start + row}" for row in range(rows)], "v": column})


@given(tuned)
@settings(max_examples=50)
def test_settings_are_read_as_they_were_written(written: SearchSettings):
    assert SearchSettings.from_json(written.to_json()) == written


def change(dataset: Any, name: str) -> None:
    """Change a dataset in one of the ways that tables are changed."""
    if name == "append":
        lance.write_dataset(make_rows(dataset.count_rows() + 1000, 50), dataset.uri, mode="append")
    elif name == "delete":
        dataset.delete(f"id = '{dataset.to_table(columns=['id'], limit=1)['id'][0].as_py()}'")
    elif name == "compact":
        dataset.optimize.compact_files()
    elif name == "index":
        dataset.create_index("v", index_type="IVF_FLAT", metric="l2", name="v_idx", replace=True)
    elif name == "extend":
        dataset.optimize.optimize_indices()
    elif name == "new column":
        dataset.add_columns(pa.schema([pa.field(f"c{dataset.version}", pa.int32())]))
    elif name == "drop column":
        added = [column for column in dataset.schema.names if column.startswith("c")]
        if added:
            dataset.drop_columns(added[:1])
    else:
        ids = dataset.to_table(columns=["id"], limit=5)
        dataset.merge_insert("id").when_matched_delete().execute(ids)


CHANGES = ["append", "delete", "compact", "index", "extend", "new column", "drop column", "upsert"]


@given(st.lists(st.sampled_from(CHANGES), min_size=1, max_size=6))
@settings(max_examples=15, deadline=None)
def test_settings_survive_whatever_changes_the_table(tmp_path_factory: pytest.TempPathFactory, changes: list[str]):
    dataset = lance.write_dataset(make_rows(0, 300), tmp_path_factory.mktemp("lake") / "t.lance")
    write_settings(dataset, "v", TUNED)
    for name in changes:
        change(lance.dataset(dataset.uri), name)
        assert read_settings(lance.dataset(dataset.uri).schema, "v") == TUNED, name


def test_a_version_has_the_settings_of_its_own_time_and_they_come_back_with_it(tmp_path: Any):
    dataset = lance.write_dataset(make_rows(0, 300), tmp_path / "t.lance")
    files = [fragment.metadata for fragment in dataset.get_fragments()]
    write_settings(dataset, "v", TUNED)
    assert [fragment.metadata for fragment in dataset.get_fragments()] == files  # no data was written
    write_settings(dataset, "v", None)
    seen = {v: read_settings(lance.dataset(dataset.uri, version=v).schema, "v") for v in (1, 2, 3)}
    assert seen == {1: None, 2: TUNED, 3: None}
    dataset.checkout_version(2).restore()
    assert read_settings(lance.dataset(dataset.uri).schema, "v") == TUNED


def test_settings_of_a_later_release_are_left_out_with_a_warning(tmp_path: Any, caplog: pytest.LogCaptureFixture):
    dataset = lance.write_dataset(make_rows(0, 10), tmp_path / "t.lance")
    dataset.update_field_metadata({"v": {SEARCH_KEY: '{"format": 99}'}})
    with caplog.at_level(logging.WARNING):
        assert read_settings(dataset.schema, "v") is None
    assert "column 'v' is searched with default settings" in caplog.text and "upgrade" in caplog.text


def test_a_search_takes_the_effort_that_was_tuned():
    vector = np.ones(DIM, "f4")

    def asked(k: int = 10, kept: tuple[int, int] | None = None) -> dict[str, Any]:
        return nearest("v", vector, k, "l2", kept=kept, settings=TUNED)

    assert {name: asked()[name] for name in ("use_index", "search_effort", "refine_factor", "ef")} == {
        "use_index": True,
        "search_effort": 0.4,
        "refine_factor": 2,
        "ef": 100,
    }
    assert asked(k=25)["ef"] == 250  # as many candidates per row that is wanted
    assert asked(kept=(1000, 1000))["ef"] == 100  # the filter keeps all
    assert asked(kept=(700, 1000))["ef"] == 150
    assert asked(kept=(4000, 10_000))["ef"] == 200
    assert asked(kept=(1000, 10_000))["ef"] == 200
    assert asked(kept=(900, 10_000))["use_index"] is False  # as under the filter of 1 %
    assert asked(kept=(499, 600))["use_index"] is False  # few rows
    assert asked(kept=(900, 1_000_000))["use_index"] is False  # no such filter was measured
    assert nearest("v", vector, 10, "l2", exact=True, settings=TUNED)["use_index"] is False


def test_an_index_without_a_graph_compares_all_of_few_rows():
    rq = replace(TUNED, index="ivf_rq", effort=Effort(0.4, 2), filtered=(FilteredSearch(0.01, Effort(1.0, 8), FOUND),))
    flat = replace(rq, index="ivf_flat", effort=Effort(0.4), filtered=())
    for kept, refined in {(499, 600): 50, (1900, 10**6): 190, (1, 10**6): 1}.items():  # few rows; a share not measured
        assert rq.effort_for(10, kept) == Effort(1.0, refined)
        assert flat.effort_for(10, kept) == Effort(1.0)
    assert rq.effort_for(10, (600, 1000)) == Effort(1.0, 8)
    assert rq.effort_for(10, (2001, 10**6)) is flat.effort_for(10, (2001, 10**6)) is None  # too many to read one by one


def test_settings_may_say_that_exact_search_is_better():
    exact = SearchSettings("exact", None, 0.95, 10, FOUND, 1, "rows")
    assert nearest("v", np.ones(DIM, "f4"), 10, "l2", settings=exact)["use_index"] is False
