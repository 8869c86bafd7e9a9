"""The manifest of a run: what a crash leaves to resume by."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import pyarrow as pa
import pytest
from damage_maker import DAMAGE
from hypothesis import given
from hypothesis import strategies as st
from job_maker import make_job, write_jsonl
from run_maker import cut_short, lake_of, manifest_of, resolved

from latentlake.storage import Storage, open_storage
from operators.errors import Unreadable
from pipelines.resume import plan_run
from pipelines.state.manifest import (
    MANIFEST,
    SHARDS_FOLDER,
    Manifest,
    described_runs,
    finished_shards,
    read_manifest,
    settle_maintenance,
    unfinished_runs,
    unreadable_runs,
    write_manifest,
)
from pipelines.values.hashing import HASH_SCHEME


@pytest.fixture
def lake(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "lake"))


def test_it_survives_json():
    manifest = manifest_of("r1")
    found = Manifest.from_json(manifest.to_json().encode())
    assert found == manifest
    assert found.schema.equals(manifest.schema, check_metadata=True)
    assert not found.schema.field("id").nullable
    assert found.shards == (2, 1)
    json.loads(manifest.to_json())
    nothing = replace(manifest, base_version=None, version=None, retry=None, shards=(), maintained=True)
    assert Manifest.from_json(nothing.to_json()) == nothing


names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=5)
kinds = st.sampled_from([pa.int64(), pa.string(), pa.list_(pa.float32(), 3), pa.timestamp("us", "UTC"), pa.bool_()])


@given(
    st.lists(st.builds(pa.field, names, kinds, st.booleans()), max_size=4, unique_by=lambda f: f.name),
    st.lists(st.integers(1, 2**40), max_size=5),
    st.none() | st.integers(1, 2**60),
)
def test_any_schema_survives_json(columns: list[pa.Field], shards: list[int], version: int | None):
    manifest = manifest_of("r1", schema=pa.schema(columns), shards=tuple(shards), version=version)
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_the_manifest_of_a_plan_holds_all_that_the_plan_does(tmp_path: Path):
    job = make_job(tmp_path, write_jsonl(tmp_path / "in.jsonl", [{"id": "a", "text": "x", "n": 1}], ["n"]))
    plan = cut_short(job, 0)
    (found,) = unfinished_runs(lake_of(job), "t")
    assert found.schema.equals(plan.schema, check_metadata=True)
    assert plan_run(resolved(job), plan.profile).changes == plan.changes
    again = plan_run(resolved(job), plan.profile)
    same = {f.name for f in fields(plan)} - {"resumed", "unpublished", "base_run", "pools"}
    assert {name: getattr(again, name) for name in same} == {name: getattr(plan, name) for name in same}
    assert again.resumed == found


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_manifest_that_cannot_be_read_is_told_of(lake: Storage, damage: str):
    manifest = manifest_of("r1")
    write_manifest(lake, manifest)
    place = manifest.place(lake)
    assert read_manifest(place) == manifest
    place.fs.pipe_file(place.path(MANIFEST), DAMAGE[damage](manifest.to_json().encode()))
    with pytest.raises(Unreadable, match="the manifest of the run"):
        read_manifest(place)
    assert list(unfinished_runs(lake, "t")) == []
    assert list(unreadable_runs(lake, "t")) == ["r1"]
    (line,) = described_runs(lake, "t", False)
    assert (line["run_id"], line["state"]) == ("r1", "killed, not resumable")


def test_a_folder_without_a_manifest_is_no_run(lake: Storage):
    assert read_manifest(lake.child("nowhere")) is None


@pytest.mark.parametrize("field", [f.name for f in fields(Manifest)])
def test_a_manifest_with_a_field_that_is_not_right_is_told_of(field: str):
    values = json.loads(manifest_of("r1").to_json())
    for wrong in ([{}], {"a": []}, 1.5):
        if (field, wrong) not in [("started_at", 1.5), ("spec", {"a": []})]:
            with pytest.raises(Unreadable):
                Manifest.from_json(json.dumps({**values, field: wrong}))
    with pytest.raises(Unreadable, match="unknown"):
        Manifest.from_json(json.dumps({**values, "unknown": 1}))


def test_a_manifest_is_of_the_run_in_whose_folder_it_lies(lake: Storage):
    for other in (manifest_of("r2"), manifest_of("r1", table="other")):
        place = manifest_of("r1").place(lake)
        place.put(MANIFEST, other.to_json().encode())
        with pytest.raises(Unreadable, match=r"is that of run 'r\d' of table"):
            read_manifest(place)


def test_a_manifest_of_an_earlier_release_has_no_number():
    values = json.loads(manifest_of("r1").to_json())
    assert values.pop("format") == 2 and values.pop("hash_scheme") == HASH_SCHEME
    assert Manifest.from_json(json.dumps(values)) == manifest_of("r1", hash_scheme=1)


def test_unfinished_runs_newest_first(lake: Storage):
    assert list(unfinished_runs(lake, "t")) == []
    # All of one second: their names do not say which is newest.
    for began, name in (
        (2.0, "20260101T000000-aaaaaa"),
        (1.0, "20260101T000000-cccccc"),
        (3.0, "20260101T000000-bbbbbb"),
    ):
        write_manifest(lake, replace(manifest_of(name), started_at=began))
    write_manifest(lake, manifest_of("20260104T000000-dddddd", table="other"))
    lake.child("_latentlake", "t", "lease").put_if_absent("000000000001.json", b"{}")
    lake.child("_latentlake", "t", "20260105T000000-eeeeee", "listing").put_if_absent("part-000000.parquet", b"x")
    found = [manifest.run_id for manifest in unfinished_runs(lake, "t")]
    assert found == ["20260101T000000-bbbbbb", "20260101T000000-aaaaaa", "20260101T000000-cccccc"]


def test_finished_shards(lake: Storage):
    place = manifest_of("r1").place(lake)
    assert finished_shards(place) == []
    for number in (10, 2, 0):
        place.child(SHARDS_FOLDER).put_if_absent(f"{number:09}.json", b"{}")
    place.child(SHARDS_FOLDER).put_if_absent(".000000003.json.0a1b", b"")  # a draft that a crash left
    assert finished_shards(place) == [0, 2, 10]


def test_upkeep_moves_the_runs_that_it_told(lake: Storage):
    write_manifest(lake, manifest_of("r1"))
    write_manifest(lake, manifest_of("r2").under_maintenance())
    settle_maintenance(lake, "t", 9)
    found = {m.run_id: (m.version, m.maintained) for m in unfinished_runs(lake, "t")}
    assert found == {"r1": (4, False), "r2": (9, False)}
