"""What sources hold, on its way through whole runs to the table: kept, rejected by row, or refused at plan. Without Ray."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import lance
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from job_maker import make_job, open_table, rows_of, run
from PIL import Image
from run_maker import plan_of

import latentlake
from operators.errors import InvalidSpec, SchemaMismatch, SourceError

FAR = 253_402_300_800 * 10**6 * 3  # the year 26059, in microseconds
NOT_UTF8 = pa.array([b"one", b"caf\xe9", b"three"]).cast(pa.string(), safe=False)


def job_of(folder: Path, kind: str, *names: Any, modality: str = "text", content: str = "text") -> dict[str, Any]:
    """A job over the files in `folder/in`; all may be rejected."""
    source = {"kind": kind, "uri": str(folder / "in"), "id": "id", "content": content, "metadata": list(names)}
    return make_job(folder, source, modality=modality, gates={"max_reject_rate": 1.0})


def parquet(
    folder: Path, columns: Mapping[str, Any], *names: Any, file: str = "a.parquet", **more: Any
) -> dict[str, Any]:
    """A job over a Parquet file of columns; texts and ids are made up where they are not given."""
    (folder / "in").mkdir(exist_ok=True)
    rows = len(next(iter(columns.values())))
    given = {"id": [f"{file[0]}{n}" for n in range(rows)], "text": [f"{file} text {n}" for n in range(rows)]}
    pq.write_table(pa.table({**given, **columns}), folder / "in" / file)
    return job_of(folder, "parquet", *(names or [name for name in columns if name not in given]), **more)


def lines(folder: Path, *rows: Mapping[str, Any] | str, names: Any = ("m",)) -> dict[str, Any]:
    """A job over JSON lines; each row may be as it is written."""
    (folder / "in").mkdir(exist_ok=True)
    written = [
        row if isinstance(row, str) else json.dumps({"id": str(n), "text": f"text {n}", **row})
        for n, row in enumerate(rows)
    ]
    (folder / "in" / "a.jsonl").write_text("\n".join(written))
    return job_of(folder, "jsonl", *names)


def rejects_of(job: Mapping[str, Any]) -> dict[str, str]:
    return {row["object_id"]: row["error"] for row in latentlake.connect(job["table"]["uri"]).rejects("t").to_pylist()}


def values_of(job: Mapping[str, Any], column: str = "m") -> dict[str, Any]:
    return {name: row[column] for name, row in rows_of(job).items()}


# one bad value costs one row


def test_a_timestamp_beyond_python_is_kept(tmp_path: Path):
    when = pa.array([1_600_000_000_000_000, FAR, -FAR, None], pa.timestamp("us"))
    job = parquet(tmp_path, {"m": when, "zoned": when.cast(pa.timestamp("us", "Mars/Base"))})
    assert run(job)["counts"]["embedded"] == 4
    stored = open_table(job).to_arrow(columns=["id", "m", "zoned"]).sort_by("id")
    for name in ("m", "zoned"):
        assert stored[name].cast(pa.int64()).to_pylist() == when.cast(pa.int64()).to_pylist()


SECOND = 10**6
MICROSECONDS = {
    "near": [0, 1_600_000_000 * SECOND, None],
    "far": [253_402_300_799 * SECOND, -62_135_596_800 * SECOND, 9_145_440_000_000 * SECOND],  # 9999, 1, 291774
}


@pytest.mark.parametrize("name", MICROSECONDS)
def test_timestamps_in_int96_are_not_wrapped(tmp_path: Path, name: str):
    job = parquet(tmp_path, {"m": [1, 2, 3]})
    when = pa.array(MICROSECONDS[name], pa.timestamp("us"))
    table = pa.table({"id": ["a", "b", "c"], "text": ["x", "y", "z"], "m": when})
    pq.write_table(table, tmp_path / "in" / "a.parquet", use_deprecated_int96_timestamps=True)
    assert run(job)["counts"]["rejected"] == 0
    stored = open_table(job).to_arrow(columns=["id", "m"]).sort_by("id")["m"]
    assert stored.type == pa.timestamp("us") and stored.cast(pa.int64()).to_pylist() == MICROSECONDS[name]


def test_nanoseconds_in_int96_are_not_cut(tmp_path: Path):
    job = parquet(tmp_path, {"m": [1, 2]})
    table = pa.table({"id": ["a", "b"], "text": ["x", "y"], "m": pa.array([10**9 + 1, 10**9], pa.timestamp("ns"))})
    pq.write_table(table, tmp_path / "in" / "a.parquet", use_deprecated_int96_timestamps=True)
    run(job)
    assert rejects_of(job) == {"a": "metadata column 'm': 1970-01-01 00:00:01.000000001 is not timestamp[us]"}
    stated = {**job["source"], "metadata": [{"column": "m", "type": "timestamp[ns]"}]}
    run({**job, "source": stated, "table": {**job["table"], "mode": "rebuild"}})
    assert open_table(job).to_arrow(columns=["m"])["m"].cast(pa.int64()).to_pylist() == [10**9 + 1, 10**9]


@pytest.mark.parametrize("column", ["m", "text", "id"])
def test_a_text_that_is_not_utf8_is_one_reject(tmp_path: Path, column: str):
    job = parquet(tmp_path, {"m": pa.array(["x", "y", "z"]), column: NOT_UTF8}, "m")
    counts = run(job)["counts"]
    assert (counts["listed"], counts["embedded"], counts["rejected"]) == (3, 2, 1)
    (reason,) = rejects_of(job).values()
    assert {
        "m": r"metadata column 'm': 'caf\\xe9' is not string",
        "text": "the file says UTF-8",
        "id": r"no text in the id column 'id': 'caf\\xe9'",
    }[column] in reason.replace("\\\\", "\\").replace("\\", "\\\\")


def test_an_empty_object_that_php_writes_as_a_list(tmp_path: Path):
    job = lines(tmp_path, *({"m": {"a": n} if n % 2 else []} for n in range(6)))
    assert run(job)["counts"]["rejected"] == 3
    assert values_of(job) == {"1": {"a": 1}, "3": {"a": 3}, "5": {"a": 5}}
    assert rejects_of(job)["0"] == "metadata column 'm': [] is not struct<a: int64>"


def test_lines_that_name_a_column_twice_or_are_too_deep(tmp_path: Path):
    deep = "[" * 40 + "]" * 40
    job = lines(
        tmp_path,
        {"m": "x"},
        '{"id": "1", "text": "one", "m": "a", "m": "b"}',
        '{"id": "2", "text": "one", "other": 1, "other": 2, "m": "y"}',
        '{"id": "3", "text": "one", "m": ' + deep + "}",
    )
    run(job)
    assert values_of(job) == {"0": "x", "2": "y"}
    assert rejects_of(job) == {
        "1": "the line names 'm' twice",
        "3": "metadata column 'm': a value of more than 32 levels is not string",
    }


# nothing is changed in silence


def test_numbers_of_json_that_no_float_holds_stay_as_they_are_written(tmp_path: Path):
    digits = ["0.1234567890123456789", "1e400", "4.75", "10.50"]
    rows = [f'{{"id": "{n}", "text": "t{n}", "m": {number}}}' for n, number in enumerate(digits)]
    job = lines(tmp_path, *rows)
    run(job)
    assert values_of(job) == {"0": "0.1234567890123456789", "1": "1e400", "2": "4.75", "3": "10.5"}


def test_a_csv_column_is_a_number_only_where_its_texts_are_had_again(tmp_path: Path):
    (tmp_path / "in").mkdir()
    head = "id,text,zip,sku,hex,exp,inf,day,version,year,price\n"
    one = "1,house,01234,12345678901234567890,0x1F,1e5,inf,2020-01-02,1.10,2020,4.75\n"
    (tmp_path / "in" / "a.csv").write_text(head + one + one.replace("1,house", "2,flat").replace("4.75", "4"))
    names = head.strip().split(",")[2:]
    job = job_of(tmp_path, "csv", *names)
    run(job)
    row = rows_of(job)["1"]
    assert [row[name] for name in names] == [*one.strip().split(",")[2:9], 2020, 4.75]
    later = one.replace("1,house", "3,hut").replace("4.75", "4.50").replace("2020,", "02020,")
    (tmp_path / "in" / "b.csv").write_text(head + later)
    run(job)
    assert rejects_of(job) == {"3": "metadata column 'year': '02020' is not int64"}
    stated = [name if name != "price" else {"column": "price", "type": "float64"} for name in names]
    (tmp_path / "in" / "b.csv").write_text(head + later.replace("02020", "2021"))
    run(job_of(tmp_path, "csv", *stated))
    assert (rows_of(job)["3"]["price"], rows_of(job)["3"]["year"]) == (4.5, 2021)


def test_types_are_told_from_several_files(tmp_path: Path):
    parquet(tmp_path, {"m": pa.nulls(1)}, file="a.parquet")
    parquet(tmp_path, {"m": pa.array([1, 2])}, file="b.parquet")
    job = parquet(tmp_path, {"m": pa.array([0.5])}, file="c.parquet")
    assert run(job)["counts"]["rejected"] == 0
    assert values_of(job) == {"a0": None, "b0": 1.0, "b1": 2.0, "c0": 0.5}


def test_files_whose_types_do_not_meet_are_refused_with_the_remedy(tmp_path: Path):
    parquet(tmp_path, {"m": pa.array([[1]])}, file="a.parquet")
    job = parquet(tmp_path, {"m": pa.array([1])}, file="b.parquet")
    with pytest.raises(
        SchemaMismatch, match=r"'m' is list<item: int64> in one file .* and int64 in another.\n.*state a type"
    ):
        run(job)


SILENT = [(1, 1.0), (1, "1"), (1, True), (1.5, 1.25), (None, "absent"), ({"a": 1}, {"a": 1, "b": 2}), ([1], [1, 1])]


@pytest.mark.parametrize(("before", "after"), SILENT, ids=str)
def test_a_change_of_the_source_is_seen_whatever_the_table_makes_of_it(tmp_path: Path, before: Any, after: Any):
    """The table's column is a text; the other rows keep it so."""
    job = lines(tmp_path, {"m": before}, {"m": "x"}, {"m": "y"})
    run(job)
    lines(tmp_path, {} if after == "absent" else {"m": after}, {"m": "x"}, {"m": "y"})
    plan = plan_of(job)
    report = run(job)
    assert plan.changes.work == 3
    fate = report["rows_written"], report["counts"]["rejected"]
    # Only what fits a text is in the table; a list or an object is a reject before and after, which it stays.
    assert fate in ((1, 0), (0, 1)) and fate == ((0, 1) if isinstance(after, list | dict) else (1, 0))


def test_precision_and_zone_of_timestamps_are_part_of_what_changed(tmp_path: Path):
    for kind in (pa.timestamp("ms"), pa.timestamp("us")):
        job = parquet(tmp_path, {"m": pa.array([5, 6], pa.timestamp("s")).cast(kind)})
        assert run(job)["rows_written"] == 2
        assert run(job)["rows_written"] == 0
    zoned = parquet(tmp_path, {"m": pa.array([5, 6], pa.timestamp("ms", "UTC"))})
    with pytest.raises(
        SchemaMismatch, match=r"'m' is timestamp\[ms, tz=UTC\] in the source and timestamp\[ms\] in table"
    ):
        run(zoned)


# ids and contents

IDS = {
    "bytes": (pa.array([b"a1", b"b2"]), ["a1", "b2"]),
    "view": (pa.array(["a1", "b2"], pa.string_view()), ["a1", "b2"]),
    "dictionary": (pa.array(["a1", "b2"]).dictionary_encode(), ["a1", "b2"]),
    "unsigned": (pa.array([2**64 - 1, 0], pa.uint64()), ["18446744073709551615", "0"]),
    "decimal": (pa.array([150, 1]).cast(pa.decimal128(38, 10)), ["150.0000000000", "1.0000000000"]),
    "uuid": (
        pa.ExtensionArray.from_storage(pa.uuid(), pa.array([UUID(int=1).bytes, UUID(int=2).bytes], pa.binary(16))),
        ["00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002"],
    ),
    "timestamp": (pa.array([0, 1_500_000], pa.timestamp("us", "UTC")), ["1970-01-01 00:00:00+00:00", "1970-01-01 00:00:01.500000+00:00"]),
}  # fmt: skip


@pytest.mark.parametrize("name", IDS)
def test_ids_have_one_form_as_text(tmp_path: Path, name: str):
    array, expected = IDS[name]
    job = parquet(tmp_path, {"id": array, "m": ["x", "y"]})
    run(job)
    assert sorted(rows_of(job)) == sorted(expected)


@pytest.mark.parametrize(
    "array",
    [pa.array([[1], [2]]), pa.array([{"a": 1}] * 2), pa.array([1, 2], pa.duration("s"))],
    ids=lambda a: str(a.type),
)
def test_ids_that_name_nothing_are_refused(tmp_path: Path, array: pa.Array):
    with pytest.raises(SchemaMismatch, match=r"id column 'id' of '.*a\.parquet' is .*, which names no object"):
        plan_of(parquet(tmp_path, {"id": array, "m": ["x", "y"]}))


def test_contents_of_json_that_are_no_text_are_rejects(tmp_path: Path):
    values = ["1.5", "0.1234567890123456789", "[1]", '{"a": 1, "a": 2}', "[" * 40 + "]" * 40, "null", '"text"']
    job = lines(tmp_path, *(f'{{"id": "{n}", "text": {value}}}' for n, value in enumerate(values)), names=())
    run(job)
    assert list(rows_of(job)) == ["6"]
    kinds = [reason.removeprefix("not text: a ") for _, reason in sorted(rejects_of(job).items())]
    assert kinds == ["float", "float", "list", "dict", "list", "no content"]


def test_ids_of_json_that_are_lists_or_objects_are_rejects(tmp_path: Path):
    job = lines(tmp_path, {"id": ["a"]}, {"id": {"a": 1}}, {"id": 7}, {"id": "x"}, names=())
    run(job)
    assert sorted(rows_of(job)) == ["7", "x"]
    assert sorted(rejects_of(job).values()) == [
        "no text in the id column 'id': a list",
        "no text in the id column 'id': an object",
    ]


def test_contents_in_hugging_face_structs(tmp_path: Path):
    png = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 9, 9)).save(png, "PNG")
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [
        {"bytes": png.getvalue(), "path": "a.png"},
        {"bytes": None, "path": "b.png"},
        {"bytes": None, "path": None},
        None,
    ]
    job = parquet(tmp_path, {"image": pa.array(rows, kind), "m": [1, 2, 3, 4]}, "m", modality="image", content="image")
    assert run(job)["counts"]["embedded"] == 1
    found = rejects_of(job)
    assert found["a1"].startswith("the row has no bytes, only the path 'b.png'")
    assert found["a2"] == found["a3"] == "no content"


@pytest.mark.parametrize(
    "array", [pa.array([1, 2]), pa.array([["x"], ["y"]]), pa.array([{"path": "x"}] * 2)], ids=lambda a: str(a.type)
)
def test_contents_that_are_none_are_refused(tmp_path: Path, array: pa.Array):
    with pytest.raises(SchemaMismatch, match=r"content column 'text' of '.*' is .*: neither text, nor bytes"):
        plan_of(parquet(tmp_path, {"text": array, "m": ["x", "y"]}))


def test_a_column_that_a_file_has_twice_is_refused(tmp_path: Path):
    (tmp_path / "in").mkdir()
    columns = [pa.array(["a"]), pa.array(["t"]), pa.array([1]), pa.array([2])]
    pq.write_table(pa.Table.from_arrays(columns, ["id", "text", "m", "m"]), tmp_path / "in" / "a.parquet")
    with pytest.raises(SourceError, match="has more than one column 'm'"):
        plan_of(job_of(tmp_path, "parquet", "m"))


# layouts, types and names

TEXTS = ["one", None, "three"]
LAYOUTS = {
    "string_view": pa.array(TEXTS, pa.string_view()),
    "large_string": pa.array(TEXTS, pa.large_string()),
    "dictionary": pa.array(TEXTS).dictionary_encode(),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_texts_of_any_layout_are_content_and_metadata(tmp_path: Path, name: str):
    job = parquet(tmp_path, {"text": LAYOUTS[name], "m": LAYOUTS[name]})
    assert run(job)["counts"]["embedded"] == 2
    assert values_of(job) == {"a0": "one", "a2": "three"}


def test_a_type_that_lance_cannot_write_is_refused_by_name(tmp_path: Path):
    job = parquet(tmp_path, {"pair": pa.array([["x", "y"]] * 2, pa.list_(pa.string(), 2))})
    with pytest.raises(
        SchemaMismatch,
        match=r"'pair' is fixed_size_list<.*>\[2\].*cannot be written.*\n.*\{column: pair, type: 'list<string>'\}",
    ):
        run(job)
    job["source"]["metadata"] = [{"column": "pair", "type": "list<string>"}]
    run(job)
    assert rows_of(job)["a0"]["pair"] == ["x", "y"]


def test_a_stated_type_that_a_declared_one_cannot_become_is_refused(tmp_path: Path):
    job = parquet(tmp_path, {"m": pa.array([[1], None])}, {"column": "m", "type": "string"})
    with pytest.raises(SchemaMismatch, match=r"'m' is list<.*> in the source, and the job states string"):
        run(job)
    job = parquet(tmp_path, {"m": ["2020-01-02", "2021-02-29"]}, {"column": "m", "type": "date32"})
    run(job)
    assert rejects_of(job) == {"a1": "metadata column 'm': '2021-02-29' is not date32[day]"}


def test_objects_that_are_all_empty_have_no_type_that_lance_can_write(tmp_path: Path):
    with pytest.raises(SchemaMismatch, match=r"'m' is struct<>, which cannot be written to a Lance table"):
        run(lines(tmp_path, {"m": {}}, {"m": None}))


def test_the_tables_type_stays_and_a_job_that_states_another_is_refused(tmp_path: Path):
    run(lines(tmp_path, {"m": 1}, {"m": 2}))
    job = lines(tmp_path, {"m": 1}, {"m": 2.5}, {"m": "3"}, {"m": 4.0})
    run(job)
    assert values_of(job) == {"0": 1, "2": 3, "3": 4}
    assert rejects_of(job) == {"1": "metadata column 'm': 2.5 is not int64"}
    stating = {**job, "source": {**job["source"], "metadata": [{"column": "m", "type": "float64"}]}}
    with pytest.raises(SchemaMismatch, match="'m' is int64 in table 't', the job states double"):
        run(stating)
    run({**stating, "table": {**job["table"], "mode": "rebuild"}})
    assert values_of(job) == {"0": 1.0, "1": 2.5, "2": 3.0, "3": 4.0}


def test_a_metadata_column_that_states_no_type_has_the_identity_that_it_had(tmp_path: Path):
    plan = plan_of(parquet(tmp_path, {"m": [1], "n": [2]}))
    assert plan.spec.source.identity()["metadata"] == ["m", "n"]


NAMES = [
    "with space",
    "quo'te",
    'do"uble',
    "select",
    "NULL",
    "Title",
    "ü 世界",
    "1st",
    "a-b",
    "tab\tx",
    "a,b",
    "x" * 300,
    "ID",
    "$x",
]


def test_columns_of_odd_names_are_searched(tmp_path: Path):
    job = lines(tmp_path, {name: f"v{n}" for n, name in enumerate(NAMES)}, dict.fromkeys(NAMES, "other"), names=NAMES)
    run(job)
    table = open_table(job)
    for n, name in enumerate(NAMES):
        assert table.to_arrow(columns=[name], where=f"`{name}` = 'v{n}'").to_pylist() == [{name: f"v{n}"}]
        assert table.search("text 0", where=f"`{name}` = 'v{n}'", k=5).to_arrow().to_pylist()[0][name] == f"v{n}"


@pytest.mark.parametrize("name", ["", "a`b", "a.b", "a\0b", "_x", "uri", "h", "h_tokens"])
def test_columns_that_could_not_be_searched_are_refused(tmp_path: Path, name: str):
    with pytest.raises(InvalidSpec, match=r"source\.metadata\[0\]"):
        plan_of(lines(tmp_path, {name: "x"}, names=[name]))


def test_source_columns_of_odd_names(tmp_path: Path):
    (tmp_path / "in").mkdir()
    nested = pa.array([{"b": "no"}])
    pq.write_table(
        pa.table({"a": nested, "a.b": ["key"], "the `text`": ["words"], "": ["x"]}), tmp_path / "in" / "a.parquet"
    )
    job = job_of(tmp_path, "parquet", content="the `text`")
    run({**job, "source": {**job["source"], "id": "a.b"}})
    assert list(rows_of(job)) == ["key"]
    assert lance.dataset(f"{job['table']['uri']}/t.lance").count_rows() == 1
