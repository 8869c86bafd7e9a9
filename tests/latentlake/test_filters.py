"""SQL filters: refused by name where Lance would panic, die or leave a part unread, and nowhere else."""

from __future__ import annotations

import datetime
import decimal
import json
import subprocess
import sys
from bisect import bisect
from itertools import accumulate
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from lake_maker import LakeMaker

import latentlake
from latentlake.filters import MAX_TERM_TOKENS, check_filter, explain_filter, longest_term, plan, tokenise
from operators.errors import SpecError

ROWS = 12


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A dataset (pylance) with a column of each kind of type, and with names that need quotes."""
    rows = range(ROWS)
    table = pa.table(
        {
            "id": [f"r{row}" for row in rows],
            "text": [f"some text {row}" for row in rows],
            "n": pa.array(rows, pa.int64()),
            "f": [row / 3 for row in rows],
            "b": [row % 2 == 0 for row in rows],
            "s": [{"x": row, "y": {"z": str(row)}} for row in rows],
            "l": [[row, row + 1] for row in rows],
            "ts": pa.array([datetime.datetime(2024, 1, 1 + row) for row in rows], pa.timestamp("us")),
            "d": pa.array([datetime.date(2024, 1, 1 + row) for row in rows]),
            "dec": pa.array([decimal.Decimal(row) for row in rows], pa.decimal128(10, 2)),
            "bin": pa.array([b"x"] * ROWS),
            "we ird; ?": pa.array(rows, pa.int64()),
            "Upper": pa.array(rows, pa.int64()),
            "limit": pa.array(rows, pa.int64()),
            "a$1": pa.array(rows, pa.int64()),
        }
    )
    return lance.write_dataset(table, str(tmp_path_factory.mktemp("filters") / "t.lance"))


def count(dataset: Any, where: str) -> int:
    """Rows of a filter, read as the SDK reads."""
    check_filter(dataset, where)
    with explain_filter(where):
        return int(dataset.count_rows(where))


def verdicts(dataset: Any, where: str) -> tuple[str | None, bool]:
    """Why we refuse a filter (None: we do not), and whether Lance takes it."""
    try:
        check_filter(dataset, where)
    except SpecError as failure:
        return str(failure), plan(dataset, where) is None
    return None, plan(dataset, where) is None


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("id = 'r1';", 1),
        ("id = 'r1' ; ; -- a remark; ?", 1),
        ("/* ? ; $1 */ id = 'r1'", 1),
        ("id != 'a;b?$1:x' and text != \"it's ? ;\"", ROWS),
        ("`we ird; ?` = 3", 1),
        ("a$1 = 3 and UPPER = 3 and limit == 3", 1),
        ("s.x = 1 or s['x'] = 2 or s.y.z = '3'", 3),
        ("n::int = 1 and x'78' = bin", 1),
        ("'it''s' = 'it''s' and 'a\\' = 'a\\'", ROWS),
        ("is_valid(id) and l[1] = 3", 1),
        ("lower(case when b then 'A' else 'B' end) = 'b'", ROWS // 2),
        ("(n) > (1) and not (n > 2)", 1),
        ("not " * 46 + "b", ROWS // 2),
        ("(" * 46 + "n = 1" + ")" * 46, 1),
        (" or ".join(f"id = 'r{row}'" for row in range(5000)), ROWS),
        (" and ".join(["n between 1 and 3"] * 3000), 3),
        ("id in (" + ", ".join(f"'r{row}'" for row in range(20_000)) + ")", ROWS),
    ],
)
def test_what_lance_takes_is_taken(dataset: Any, where: str, rows: int):
    assert count(dataset, where) == rows


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("id = ?", r"\? begins a parameter"),
        ("id = $1", r"\$1 begins a parameter"),
        ("lower($name) = id", r"\$name begins a parameter"),
        ("id = :name", "begins a parameter"),
        ("n in (1, ?)", "begins a parameter"),
        ("id = N'r1'", "N'r1' is not text"),
        ('id = r"r1"', 'r"r1" is not text'),
        ("id = $tag$r1$tag$", "is not text"),
        ("is_valid()", "needs a column"),
        ("`is_valid` ( /* */ )", "needs a column"),
        ("count(*) > 1", "looks at one row"),
        ("sum(n) over (order by n) > 1 or b", "looks at one row"),
        ("text.x = 1", "column of type Utf8, which is not a struct"),
        ("s.x.y = 1", "column of type Int64, which is not a struct"),
        ("s.nope = 1", "Field nope not found"),
        ("nope = 1", "No field named nope"),
        ("id = 'r1'; id = 'zzz'", "what follows the semicolon"),
        ("id = 'r1'; drop table t;", "what follows the semicolon"),
        ("n > 1 n > 2", "a part of it only. Expected: its end, found: n$"),
        ("n > 1 limit 2", "found: limit"),
        ("n > 1 order by id", "found: order"),
        ("n > 1 group by id", "found: group"),
        ("id = 'r1' 'r2'", "found: 'r2'"),
        ("n > 1) or (n > 2", "closes nothing"),
        ("b)", "closes nothing"),
        ("b \x00 or true", "a part of it only"),
        ("not " * 60 + "b", "No field named not"),
        ("(" * 300 + "b" + ")" * 300, "recursion limit"),
        ("(" * 5000 + "b" + ")" * 5000, "too long"),
        ("", "an expression, found: EOF"),
        ("-- nothing", "an expression, found: EOF"),
        ("id = 'r1", "Unterminated string"),
        ("id = `r1", "close delimiter"),
        ("b /* and", "multi-line comment"),
        ("(n > 1", "found: EOF"),
        ("exists (select 1)", "not supported"),
        ("n = (select 1)", "not supported"),
        ("ts > now() - interval '1 day'", "not supported"),
        ("nope(id)", "Invalid function"),
        ("regexp_like(id, '(')", "unclosed group"),
        ("l = []", "."),
        ("n", "does not return a boolean"),
        ("cast(n as decimal(5, -1)) = 1", "panicked"),
        ("n / 0 = 1", "Divide by zero"),
        ("cast(text as int) = 1", "Cannot cast string"),
        ("chr(-1) = 'x'", "invalid Unicode"),
        ("id = '\ud800'", "Unicode"),
        (1, "a text of SQL"),
    ],
)
def test_what_lance_cannot_evaluate_is_one_clear_error(dataset: Any, where: str, message: str):
    with pytest.raises(SpecError, match=message) as raised:
        count(dataset, where)
    lines = str(raised.value).splitlines()
    assert len(lines) == 1 or message == "too long"
    assert ".rs:" not in lines[0]
    assert len(lines[0]) < 1000


COLUMNS = st.sampled_from(
    ["id", "n", "f", "text", "ts", "d", "dec", "s.x", "s.y.z", "`we ird; ?`", "l", "Upper", "bin"]
)
VALUES = (
    """1|-2|2.5|1e3|'r1'|"x;"|''''|null|true|x'61'|[1, 2]|id|n|now()|'?$1'|lower('A')|n + 1|(1)|date '2024-01-02'"""
    "|timestamp '2024-01-02 00:00:00'"
)
TYPES = st.sampled_from(
    ["int", "string", "double", "timestamp", "date", "decimal(5, 1)", "bigint", "boolean", "binary"]
)
SIGNS = st.sampled_from(["=", "!=", "<", ">=", "==", "<>", " is distinct from "])
GAPS = st.sampled_from(["", " ", "\n", " /* ' */ ", " -- ; ?\n"])


def conditions() -> st.SearchStrategy[str]:
    """Filters of the forms that Lance knows; some of them of types that it refuses to compare."""
    values = st.sampled_from(VALUES.split("|"))
    leaves = st.one_of(
        st.tuples(COLUMNS, GAPS, SIGNS, GAPS, values).map("".join),
        st.tuples(COLUMNS, st.lists(values, min_size=1, max_size=4)).map(lambda f: f"{f[0]} in ({', '.join(f[1])})"),
        st.tuples(COLUMNS, values, values).map(lambda f: f"{f[0]} not between {f[1]} and {f[2]}"),
        st.tuples(COLUMNS, st.sampled_from(["like", "ilike", "not like"]), values).map(" ".join),
        st.tuples(COLUMNS, TYPES, values).map(lambda f: f"cast({f[0]} as {f[1]}) = {f[2]}"),
        st.tuples(COLUMNS, TYPES, values).map(lambda f: f"{f[0]}::{f[1]} = {f[2]}"),
        COLUMNS.map(lambda column: f"{column} is not null"),
        COLUMNS.map(lambda column: f"is_valid({column})"),
        st.sampled_from(["b", "true", "regexp_like(text, 'so.e|;')", "array_has(l, 1)"]),
    )
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.tuples(inner, st.sampled_from([" and ", "\nOR "]), inner).map("".join),
            inner.map(lambda part: f"({part})"),
            inner.map(lambda part: f"not {part}"),
        ),
        max_leaves=6,
    )


WORDS = (
    "id n b s.x id.x 1 'r1' 'a;b?' N'x' b'1' null ( ) ( ) [ ] , . = == < + - * :: and or not is in between like case when"
    " then end cast as int count is_valid lower exists select from order by limit ; ? $1 :x @x -- /* */ ' ` \" { } ! ~ é 😀"
    " -> \\ \x00 any over escape _rowid $$x$$"
)


def closes_what_is_not_open(where: str) -> bool:
    """Whether a parenthesis is closed before it was opened."""
    depths = accumulate((mark == "(") - (mark == ")") for mark in where)
    return min(depths, default=0) < 0


@settings(max_examples=350, suppress_health_check=list(HealthCheck), deadline=None)
@example(words=[")", "("], start="b ", gap=" ")
@given(
    words=st.lists(st.sampled_from(WORDS.split(" ")), max_size=9),
    start=st.sampled_from(["", "b ", "n = 1 or "]),
    gap=st.sampled_from([" ", "", "\n"]),
)
def test_what_is_refused_lance_refuses_or_leaves_unread(dataset: Any, words: list[str], start: str, gap: str):
    where = start + gap.join(words)
    refused, taken = verdicts(dataset, where)
    if refused is None:
        assert taken
    elif taken:  # then Lance stopped before the end: it parses no whole expression, or only one of two parts
        assert plan(dataset, f"({where.split(';')[0]}\n)") is not None or closes_what_is_not_open(where) or ";" in where
    assert "panicked" not in (refused or "")


# Terms whose trees are as deep as they are long: each part makes one level.
DEEP = {
    "sum": lambda parts: "n = " + "+".join(["1"] * parts),
    "texts": lambda parts: "||".join(["id"] * parts) + " = 'r'",
    "call": lambda parts: "abs(" + "+".join(["n"] * parts) + ") = 1",
    "and in a call": lambda parts: "nullif(" + " and ".join(["b"] * parts) + ", true)",
    "or in a call": lambda parts: "coalesce((" + " or ".join(["b"] * parts) + "), b)",
    "equal": lambda parts: "b" + "=b" * parts,
    "cast": lambda parts: "n" + "::string" * parts + " = '1'",
    "is null": lambda parts: "n" + " is null" * parts,
    "like": lambda parts: "id" + " like id" * parts,
    "between": lambda parts: "n" + " between 1 and 2" * parts,
    "in": lambda parts: "b" + " in (true)" * parts,
    "subscript": lambda parts: "id" + "['x']" * parts + " = 1",
}


def test_no_filter_that_passes_ends_the_process(dataset: Any):
    filters = []
    for name, make in DEEP.items():
        long = make(5000)
        with pytest.raises(SpecError, match="too long"):
            check_filter(dataset, long)
        longest = bisect(range(1000), MAX_TERM_TOKENS, key=lambda parts: longest_term(tokenise(make(parts)) or [])) - 1
        assert longest > 100, name
        filters.append(make(longest))
    program = (
        "import sys, json, lance\n"
        "from latentlake.filters import check_filter\n"
        "from operators.errors import SpecError\n"
        "dataset = lance.dataset(sys.argv[1])\n"
        "for where in json.load(sys.stdin):\n"
        "    try:\n"
        "        check_filter(dataset, where)\n"
        "        dataset.count_rows(where)\n"
        "    except SpecError as failure:\n"
        "        assert 'too long' not in str(failure)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(dataset.uri)],
        input=json.dumps(filters),
        capture_output=True,
        text=True,
        cwd=Path(latentlake.__file__).parents[1],
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_every_way_to_read_checks_its_filter(shared_lake: str):
    notes = latentlake.connect(shared_lake).open("notes")
    for read in (
        lambda where: notes.count(where),
        lambda where: notes.to_arrow(where=where),
        lambda where: notes.search("compare", where=where),
        lambda where: notes.search(id="doc2", where=where),
    ):
        for where in ("id = ?", "id = 'doc1'; id = 'doc2'", "id = 'doc1' limit 1", "count(*) > 1", "text.x = 1"):
            with pytest.raises(SpecError, match="where = "):
                read(where)


def test_a_bad_filter_is_found_before_a_model_is_loaded(maker: LakeMaker, monkeypatch: pytest.MonkeyPatch):
    maker.write_texts()
    notes = latentlake.connect(maker.uri).open("notes")
    monkeypatch.setattr(notes, "_models", None)  # any use of it raises
    with pytest.raises(SpecError, match="begins a parameter"):
        notes.search("compare", where="id = ?")


def test_more_like_a_row_where_nothing_is_left_is_empty(shared_lake: str, maker: LakeMaker):
    notes = latentlake.connect(shared_lake).open("notes")
    for where in ("id = 'nobody'", "id = 'doc2'"):
        found = notes.search(id="doc2", where=where)
        assert len(found) == 0
        assert found.to_arrow().column_names[-1] == "_distance"
    maker.write_texts("alone", ["one row"])
    assert latentlake.connect(maker.uri).open("alone").search(id="doc0").to_list() == []
