from __future__ import annotations

import numpy as np

from operators.batch import RowError, RowFiltered, live_rows, make_batch, map_rows, object_array, take_rows


def test_make_batch() -> None:
    batch = make_batch(["a", "b"], [b"1", "2"])
    assert list(batch) == ["id", "object_id", "content", "error", "filtered"]
    assert list(batch["id"]) == list(batch["object_id"]) == ["a", "b"]
    batch["error"][0] = "x: y"
    assert batch["filtered"][0] is None


def test_object_array_keeps_sequences_whole() -> None:
    array = object_array([[1, 2], [3, 4]])
    assert array.shape == (2,) and array[0] == [1, 2]


def test_live_rows_are_neither_rejected_nor_filtered() -> None:
    batch = make_batch("abcd", [b""] * 4)
    batch["error"][1] = "decode: empty"
    batch["filtered"][3] = "drop_short_text: 1 character, fewer than 20"
    assert live_rows(batch).tolist() == [0, 2]
    assert live_rows(make_batch([], [])).tolist() == []


def test_take_rows_orders_and_repeats() -> None:
    taken = take_rows(make_batch("abc", [1, 2, 3]), np.array([2, 0, 2]))
    assert list(taken["id"]) == ["c", "a", "c"] and list(taken["content"]) == [3, 1, 3]
    assert all(len(column) == 0 for column in take_rows(make_batch("abc", [1, 2, 3]), np.array([], dtype=int)).values())


def test_map_rows_accounts_for_every_row() -> None:
    def double(value: int) -> int:
        if value == 2:
            raise RowError("two\n is bad")
        if value == 3:
            raise RowFiltered("three is small")
        if value == 4:
            raise KeyError("four")
        if value == 5:
            raise ZeroDivisionError
        return value * 2

    batch = make_batch("abcdef", [1, 2, 3, 4, 5, 6])
    batch["error"][5] = "source: gone"
    out = map_rows(batch, double, column="content", into="doubled", stage="double")
    assert list(out["doubled"]) == [2, None, None, None, None, None]
    assert list(out["error"]) == [
        *(None, "double: two is bad", None, "double: KeyError: 'four'", "double: ZeroDivisionError", "source: gone")
    ]
    assert list(out["filtered"]) == [None, None, "double: three is small", None, None, None]
    assert "doubled" not in batch and list(batch["error"][:5]) == [None] * 5 and list(batch["filtered"]) == [None] * 6


def test_map_rows_in_place_of_a_column_leaves_the_input() -> None:
    batch = make_batch("ab", [1, 2])
    batch["error"][1] = "source: gone"
    out = map_rows(batch, lambda value: value + 1, column="content", into="content", stage="add")
    assert list(out["content"]) == [2, 2] and list(batch["content"]) == [1, 2]


def test_reasons_are_one_short_line() -> None:
    def fail(_: object) -> None:
        raise RowError("word\n" * 500)

    error = map_rows(make_batch("a", [1]), fail, column="content", into="content", stage="fail")["error"][0]
    assert "\n" not in error and len(error) == len("fail: ") + 300
