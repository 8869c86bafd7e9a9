"""The rules by which a listing is compared with a table, told once more and held against it."""

from __future__ import annotations

from typing import Any

from changes_maker import COLUMNS, carried, changes_of, duplicate, entry, reject
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.planning.changes import INCOMPLETE
from pipelines.state.manifest import Retry

names = st.one_of(
    st.sampled_from(["a", "b", "c", "d", "f:0", "f:1", "g:1", "f:None"]),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=2),
)


listings = st.lists(
    st.builds(
        entry,
        names,
        version=st.sampled_from([None, "1", "1", "2"]),
        uri=st.sampled_from(["f", "f", "g"]),
        position=st.sampled_from([None, 0, 1]),
    ),
    max_size=12,
)


faults = st.one_of(
    st.builds(reject, names, column=st.sampled_from(["a", "b", "o'ther"]), stage=st.sampled_from(["embed", "prepare"])),
    st.builds(reject, names, stage=st.sampled_from(["read", "list", "decode"])),
    st.builds(reject, names, outcome=st.just("filtered"), stage=st.just("op")),
)


def marked(listing: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The listing with duplicates marked."""
    first: dict[str, dict[str, Any]] = {}
    rows = []
    for row in listing:
        origin = first.setdefault(row["object_id"], row)
        if origin is not row:
            error = f"duplicate id '{row['object_id']}', first in {origin['uri']} at {origin['position']}"
            row = {**row, "object_id": f"{row['uri']}:{row['position']}", "error": error}
        rows.append({"error": None, **row})
    return rows


def verdict(
    row: dict[str, Any],
    before: list[dict[str, Any]] | None,
    table: dict[str, str],
    rejects: list[dict[str, Any]],
    retry: Retry | None,
) -> str | dict[str, str]:
    """What becomes of an entry: "work", or for each column what it is carried as."""
    mine = [r for r in rejects if r["object_id"] == row["object_id"]]
    of_all = [r for r in mine if r["column"] is None]
    if retry:
        ours = [r for r in mine if r["column"] in (None, *COLUMNS)]
        if any(r["stage"] == retry.stage or (retry.stage is None and r["outcome"] == "rejected") for r in ours):
            return "work"
    else:
        then = next((r for r in before or [] if r["object_id"] == row["object_id"]), None)
        if then is None or row["version"] is None or any(then[k] != row[k] for k in ("uri", "version", "position")):
            return "work"
        if any(r["stage"] == "read" for r in of_all):
            return "work"
    missing = {
        c: any(r["outcome"] == "rejected" for r in of_all) or any(r["column"] == c for r in mine) for c in COLUMNS
    }
    if row["object_id"] in table:
        return {c: "rejected" if missing[c] else "unchanged" for c in COLUMNS}
    if all(missing.values()):
        return dict.fromkeys(COLUMNS, "rejected")
    if any(r["outcome"] == "filtered" for r in of_all):
        return {c: "rejected" if missing[c] else "filtered" for c in COLUMNS}
    return "work"


@settings(max_examples=40, deadline=None)
@given(
    listings,
    st.none() | listings,
    st.booleans(),
    st.dictionaries(names, st.sampled_from(["h", "", "i"]), max_size=6),
    st.lists(faults, max_size=8),
    st.none() | st.builds(Retry, st.sampled_from([None, "read", "embed", "op"])),
)
def test_every_entry_is_judged_by_the_rules(
    now: list[dict[str, Any]],
    before: list[dict[str, Any]] | None,
    still: bool,
    table: dict[str, str],
    rejects: list[dict[str, Any]],
    retry: Retry | None,
):
    before = [*now[1:3], *now[:1], *now[3:]] if still else before
    found = changes_of(now, before, table, rejects, retry=retry)
    entries, then = marked(now), None if before is None else marked(before)
    assert found.entries.to_pylist() == entries
    verdicts = [verdict(row, then, table, rejects, retry) for row in entries]
    work = [row for row, said in zip(entries, verdicts, strict=True) if said == "work"]
    assert found.work.drop_columns("base_hash").to_pylist() == work
    for row in found.work.to_pylist():
        partly = any(r["object_id"] == row["object_id"] and r["column"] in COLUMNS for r in rejects)
        held = table.get(row["object_id"])
        assert row["base_hash"] == (INCOMPLETE if partly and held is not None else held)
    for column in COLUMNS:
        said = [v[column] for v in verdicts if isinstance(v, dict)]
        assert carried(found, column) == tuple(said.count(w) for w in ("unchanged", "rejected", "filtered"))
        assert sum(carried(found, column)) + found.changes.work == found.changes.listed == len(now)
    listed = {row["object_id"] for row in entries}
    assert sorted(found.gone) == ([] if retry else sorted(table.keys() - listed))
    assert sorted(found.left) == ([] if retry else sorted({r["object_id"] for r in rejects} - listed))
    assert found.changes.in_table == len(table)


LETTERS = "abcdef"


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(st.sampled_from(LETTERS), st.sampled_from("112"), min_size=1),
    st.sets(st.sampled_from(LETTERS)),
    st.lists(st.tuples(st.sampled_from(LETTERS), st.sampled_from(LETTERS)), max_size=6),
    st.booleans(),
)
def test_an_object_is_read_again_with_the_one_whose_row_its_own_duplicates(
    now: dict[str, str], table: set[str], pairs: list[tuple[str, str]], prune: bool
):
    """`pairs` are objects with a dropped row, and whose row that duplicates; all had version 1 before."""
    found = changes_of(
        [entry(name, version) for name, version in now.items()],
        [entry(name) for name in LETTERS],
        dict.fromkeys(table, "h"),
        [duplicate(name, of) for name, of in pairs],
        prune=prune,
    )
    dropped = {name for name, _ in pairs}
    moved = {name for name, version in now.items() if version == "2" or name not in table | dropped}
    moved |= (table - now.keys() if prune else set()) | {name for name, of in pairs if of not in table}
    while more := {name for name, of in pairs if of in moved} - moved:
        moved |= more
    read = {row["object_id"]: row["base_hash"] for row in found.work.to_pylist()}
    assert read == {
        name: (INCOMPLETE if name in dropped else "h") if name in table else None for name in moved & now.keys()
    }
    left = now.keys() - moved
    assert carried(found) == (len(left & table), 0, len(left - table))
