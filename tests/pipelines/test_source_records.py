"""Sources whose rows are lines: JSON lines and CSV."""

from __future__ import annotations

from source_maker import ROWS, TABLE, Store, as_csv, as_jsonl, list_all, read_all

from operators.batch import RowError


def test_jsonl_lines_that_are_no_objects(disk: Store):
    lines = [
        b'{"id": "a", "body": "good", "year": 1}\n',
        b"\n",
        b"   \r\n",
        b'{"id": "b", "body": \n',
        b'["a", "list"]\n',
        b"17\n",
        b'{"id": "c", "body": "\xff"}\n',
        b'{"id": "\\ud800", "body": "surrogate"}\n',
        b"[" * 100_000 + b"\n",
        b'{"id": "d", "body": "last", "year": 2}',  # no line break at the end
    ]
    disk.put("x.jsonl", b"".join(lines))
    source = disk.source("jsonl", id="id", content="body", metadata=["year"])
    listing = list_all(source)
    offsets = [sum(len(line) for line in lines[:k]) for k in (0, 3, 4, 5, 6, 7, 8, 9)]
    assert listing["position"].to_pylist() == offsets
    broken = listing.filter(listing["error"].is_valid())
    assert broken["object_id"].to_pylist() == [f"x.jsonl:{offset}" for offset in offsets[1:-1]]
    reasons = broken["error"].to_pylist()
    assert [reason.split(":")[0] for reason in reasons] == [
        "the line is not JSON",
        "the line is not a JSON object",
        "the line is not a JSON object",
        "the line is not JSON",
        "no text in the id column 'id'",
        "the line is not JSON",
    ]
    contents, metadata = read_all(source)
    assert (contents["a"], contents["d"]) == ("good", "last")
    assert metadata["year"].to_pylist() == [1, *[None] * 6, 2]


def test_jsonl_byte_order_mark(disk: Store):
    disk.put("x.jsonl", b"\xef\xbb\xbf" + as_jsonl(ROWS[:2]))
    assert read_all(disk.source("jsonl", **TABLE))[0] == {row["id"]: row["body"] for row in ROWS[:2]}


def test_jsonl_a_line_may_lack_columns(disk: Store):
    disk.put(
        "x.jsonl",
        as_jsonl([{"id": "a"}, {"id": "b", "body": "x", "title": "t", "year": 1.5}, {"id": "c", "body": None}]),
    )
    contents, metadata = read_all(disk.source("jsonl", **TABLE))
    assert contents == {"a": None, "b": "x", "c": None}
    assert metadata.to_pydict() == {"title": [None, "t", None], "year": [None, 1.5, None]}


def test_jsonl_types_of_metadata(disk: Store):
    rows = [
        {"id": "a", "body": "x", "mixed": 1999, "numbers": 1, "tags": ["x"], "none": None, "huge": 2**70},
        {"id": "b", "body": "x", "mixed": "unknown", "numbers": 2.5, "tags": [], "none": None, "huge": 1},
    ]
    disk.put("x.jsonl", as_jsonl(rows))
    source = disk.source("jsonl", id="id", content="body", metadata=["mixed", "numbers", "tags", "none"])
    contents, metadata = read_all(source)
    assert [str(kind) for kind in metadata.schema.types] == ["string", "double", "list<item: string>", "string"]
    assert contents == {"a": "x", "b": "x"}
    assert metadata["mixed"].to_pylist() == ["1999", "unknown"]
    assert metadata["numbers"].to_pylist() == [1.0, 2.5]
    huge = disk.source("jsonl", id="id", content="body", metadata=["huge"])
    assert read_all(huge)[1]["huge"].to_pylist() == [str(2**70), "1"]


def test_jsonl_values_that_do_not_fit_behind_the_sample(disk: Store):
    rows = [{"id": str(k), "body": "x", "score": 4 if k < 1000 else 4.75} for k in range(1002)]
    disk.put("x.jsonl", as_jsonl(rows))
    contents, metadata = read_all(disk.source("jsonl", id="id", content="body", metadata=["score"]))
    assert str(contents["1001"]) == "metadata column 'score': 4.75 is not int64"
    assert metadata["score"].to_pylist()[999:] == [4, None, None]


def test_jsonl_metadata_that_cannot_be_stored(disk: Store):
    disk.put("x.jsonl", b'{"id": "a", "body": "x", "title": "t"}\n{"id": "b", "body": "y", "title": "\\ud800"}\n')
    contents, metadata = read_all(disk.source("jsonl", id="id", content="body", metadata=["title"]))
    assert contents["a"] == "x" and isinstance(contents["b"], RowError)
    assert metadata["title"].to_pylist() == ["t", None]


# CSV


def test_csv_quoting_line_breaks_and_byte_order_mark(disk: Store):
    text = 'id,body,title\r\n1,"a, b",x\r\n2,"two\r\nlines\nand ""quotes""",\r\n\r\n3,"last",z'
    disk.put("x.csv", b"\xef\xbb\xbf" + text.encode())
    source = disk.source("csv", id="id", content="body", metadata=["title"])
    contents, metadata = read_all(source)
    assert contents == {"1": "a, b", "2": 'two\r\nlines\nand "quotes"', "3": "last"}
    assert metadata["title"].to_pylist() == ["x", None, "z"]
    listing = list_all(source)
    data = b"\xef\xbb\xbf" + text.encode()
    cut = [data[p : p + s] for p, s in zip(listing["position"].to_pylist(), listing["size"].to_pylist(), strict=True)]
    assert cut == [b'1,"a, b",x\r\n', b'2,"two\r\nlines\nand ""quotes""",\r\n', b'3,"last",z']


def test_csv_delimiter_and_long_fields(disk: Store):
    disk.put("x.csv", f"id;body\n1;{'x' * 300_000}\n2;a,b\n".encode())
    contents, _ = read_all(disk.source("csv", id="id", content="body", delimiter=";"))
    assert contents == {"1": "x" * 300_000, "2": "a,b"}


def test_csv_records_that_do_not_fit_the_header(disk: Store):
    disk.put("x.csv", b"id,body\n1,a\n2,b,c\n3\n4,d\re\n5,f\n")
    listing = list_all(disk.source("csv", id="id", content="body"))
    errors = dict(zip(listing["object_id"].to_pylist(), listing["error"].to_pylist(), strict=True))
    assert errors["x.csv:12"] == "line 3: the record has 3 fields, the header 2"
    assert errors["x.csv:18"] == "line 4: the record has 1 fields, the header 2"
    assert errors["x.csv:20"] == "line 5: a carriage return alone, outside quotes"
    assert {name for name, error in errors.items() if error is None} == {"1", "5"}
    contents, _ = read_all(disk.source("csv", id="id", content="body"))
    assert (contents["1"], contents["5"]) == ("a", "f")


def test_csv_types_of_metadata_and_a_value_that_does_not_fit(disk: Store):
    head = "id,body,n,f,flag,day,time,zip,na,none\n"
    good = "a,x,1,1.5,true,2020-01-02,2020-01-02 03:04:05,12:30:00,NA,\n"
    disk.put("x.csv", (head + good + good.replace("a,x", "b,y")).encode())
    names = ["n", "f", "flag", "day", "time", "zip", "na", "none"]
    source = disk.source("csv", id="id", content="body", metadata=names)
    listing = list_all(source)
    fields = source.metadata_fields(iter([listing]))
    kinds = ["int64", "double", "bool", "string", "string", "string", "string", "string"]
    assert [str(field.type) for field in fields] == kinds
    row = source.read_objects(listing, fields).metadata.to_pylist()[0]
    assert (row["n"], row["f"], row["flag"], row["day"]) == (1, 1.5, True, "2020-01-02")
    assert (row["zip"], row["na"], row["none"]) == ("12:30:00", "NA", None)

    disk.put("x.csv", (head + good + good.replace("a,x,1", "b,y,many") + good.replace("a,x,1", "c,z,")).encode())
    listing = list_all(source)
    objects = source.read_objects(listing, fields)
    assert [objects.contents[0], objects.contents[2]] == ["x", "z"]
    assert isinstance(objects.contents[1], RowError)
    assert str(objects.contents[1]) == "metadata column 'n': 'many' is not int64"
    assert objects.metadata["n"].to_pylist() == [1, None, None]


def test_csv_of_more_than_the_sample_with_line_breaks_in_its_fields(disk: Store):
    body = "line\n" * 2000
    rows = [{"id": str(k), "body": body, "year": k} for k in range(150)]  # 1.5 MB
    disk.put("x.csv", as_csv(rows))
    source = disk.source("csv", id="id", content="body", metadata=["year"])
    contents, metadata = read_all(source)
    assert contents == {str(k): body for k in range(150)}
    assert metadata["year"].to_pylist() == list(range(150))


def test_records_far_apart_are_fetched_in_several_requests(disk: Store):
    rows = [{"id": str(k), "body": str(k) * 700_000} for k in range(4)]
    disk.put("x.jsonl", as_jsonl(rows))
    source = disk.source("jsonl", id="id", content="body")
    listing = list_all(source)
    assert list(source.read_objects(listing.take([3, 0]), []).contents) == [rows[3]["body"], rows[0]["body"]]
