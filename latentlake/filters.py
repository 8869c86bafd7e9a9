"""SQL filters: what Lance would die of or leave unread is refused by name, and what Lance says of the rest is one line.

Lance parses and plans a filter itself, and its own planner is the judge here; no other parser reads exactly its dialect
(names in backticks, texts in either quote). What it does badly, as of pylance 14.0.2:

- A parameter (`?`, `$1`, `:x`), a literal such as `N'x'` and `is_valid()` are panics, and a panic writes to stderr.
- It stops reading where a condition could end: `a = 1 b = 2`, `a = 1 LIMIT 3`, `a = 1) OR (b = 2`, `a = 1; b = 2`.
- A term of some 1,100 tokens (`1 + 1 + …`) overflows the stack of its thread, which ends the process.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from operators.errors import SpecError

# The dialect's tokens. A word may begin with # or @ and hold $; block comments do not nest; a backslash means nothing.
TOKEN = re.compile(
    r"""(?P<blank>\s+|--[^\n]*|/\*.*?\*/)
      | (?P<literal>[nbr]'(?:[^']|'')*'|[br]"(?:[^"]|"")*"|\$(?:\w*\$.*?\$\w*\$|\w*))
      | (?P<text>x?'(?:[^']|'')*'|"(?:[^"]|"")*")
      | (?P<name>`(?:[^`]|``)*`)
      | (?P<word>(?:[^\W\d]|[#@])[\w@$#]*)
      | (?P<number>\d[\w.]*|\.\d\w*)
      | (?P<symbol>::|.)""",
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)
QUOTES = ("'", '"', "`")
# A term is what AND, OR, a comma or CASE's words part; it becomes a tree about half as deep as it has tokens. The
# least deep ones that overflow Lance's stack have 562 levels.
MAX_TERM_TOKENS = 800
PARTING = {"when", "then", "else"}
BEFORE_PARENTHESES = {"and", "or", "not", "in", "like", "ilike", "between", "case", "is", "from", *PARTING}
# No table has it, so that a filter which Lance reads to its end is refused with it behind.
NOWHERE = "`__latentlake: no such column`"

# Lance ends its messages with the place in its own source, and repeats the filter before it says what is wrong with it.
PLACE = re.compile(r",? ?/\S+\.rs:\d+:\d+")
REASONS = (
    re.compile(r"\(sql parser error: (.+)\)$"),
    re.compile(r"^Error tokenizing statement: .* \((.+)\)$"),
    re.compile(r"^Error optimizing sql filter: .*? \((?:LanceError\(\w+\): )?(.+)\)$"),
    re.compile(r"^Error resolving filter expression .*: (Received .+)$"),
    re.compile(r"Error applying filter expression to batch: (?:Execution error: )?(.+)$"),
    re.compile(
        r"^(?:Query Execution error: |Execution error: |Error parsing function: |Error during planning: )+(.+)$"
    ),
)
# What Lance's messages about a filter have in common.
ABOUT_FILTERS = (
    "Invalid user input",
    "filter expression",
    "Query Execution error",
    "Not supported",
    "Task was aborted",
)


def sql_string(value: str) -> str:
    """A string literal of SQL."""
    return "'" + value.replace("'", "''") + "'"


def check_filter(dataset: Any, where: str | None) -> None:
    """Raise `SpecError` for a filter that the dataset (pylance) cannot be read with, or of which a part would be ignored."""
    if where is None:
        return
    if not isinstance(where, str):
        raise SpecError(f"where is a text of SQL, not {type(where).__name__}.")
    try:
        where.encode()
    except UnicodeEncodeError as failure:
        raise bad_filter(where, f"not a text of Unicode: {failure}") from failure
    tokens = tokenise(where)
    if tokens is not None:
        check_tokens(where, tokens)
    read = where if tokens is None else until_semicolon(where, tokens)
    refused = plan(dataset, where)
    if refused is not None:
        raise bad_filter(where, filter_reason(refused)) from refused
    if plan(dataset, f"{read}\nAND {NOWHERE}") is None:
        raise bad_filter(where, f"Lance would read a part of it only. {leftover(dataset, read)}")


@contextmanager
def explain_filter(where: str | None) -> Iterator[None]:
    """Turn what Lance raises about the filter `where` as it reads rows, a panic too, into a `SpecError` with its reason."""
    try:
        yield
    except BaseException as failure:  # a panic is no `Exception`
        about = isinstance(failure, Exception) and any(words in str(failure) for words in ABOUT_FILTERS)
        if where is None or not (about or is_panic(failure)):
            raise
        raise bad_filter(where, filter_reason(failure)) from failure


def bad_filter(where: str, reason: str) -> SpecError:
    """The error for a filter; a long one is cut in the message."""
    shown = where if len(where) <= 200 else f"{where[:150]} … {where[-40:]}"
    return SpecError(f"where = {shown!r}: {reason}")


def tokenise(where: str) -> list[re.Match[str]] | None:
    """Tokens of a filter without blanks and comments; None if a quote or comment is not closed, which Lance tells well."""
    tokens = [token for token in TOKEN.finditer(where) if token.lastgroup != "blank"]
    opened = any(first[0] + then[0] == "/*" and then.start() == first.end() for first, then in pairwise(tokens))
    return None if opened or any(token[0] in QUOTES for token in tokens) else tokens


def check_tokens(where: str, tokens: Sequence[re.Match[str]]) -> None:
    """Raise `SpecError` for what ends in a panic, or the process, and for what follows a semicolon."""
    for place, token in enumerate(tokens):
        text, following = token[0], [then[0] for then in tokens[place + 1 : place + 3]]
        if text in ("?", ":") or (text.startswith("$") and (text == "$" or not text.endswith("$"))):
            raise bad_filter(where, f"{text} begins a parameter, and none are given; write the value itself.")
        if token.lastgroup == "literal":
            raise bad_filter(where, f"{text} is not text in Lance's SQL; write it as '…', with '' for a quote in it.")
        if text.strip("`") == "is_valid" and following == ["(", ")"]:
            raise bad_filter(where, "is_valid() needs a column between its parentheses.")
        if text == ";" and any(then[0] != ";" for then in tokens[place + 1 :]):
            raise bad_filter(where, "a filter is one condition; Lance would ignore what follows the semicolon.")
    longest = longest_term(tokens)
    if longest > MAX_TERM_TOKENS:
        raise bad_filter(
            where,
            f"a term of {longest} words and signs is too long (at most {MAX_TERM_TOKENS}).\n"
            "  Alternatives may be many: use `IN (…)`, or conditions with AND and OR between them.",
        )


def longest_term(tokens: Sequence[re.Match[str]]) -> int:
    """Tokens of the longest term. In the arguments of a function AND and OR do not part: DataFusion nests them."""
    terms = [Term(False)]
    for place, token in enumerate(tokens):
        text, term = token[0].lower(), terms[-1]
        if text in ("(", "["):
            before = tokens[place - 1] if place else None
            called = before and before.lastgroup in ("word", "name") and before[0].lower() not in BEFORE_PARENTHESES
            terms.append(Term(term.in_call or bool(called)))
            continue
        if text in (")", "]") and len(terms) > 1:
            terms.pop()
            terms[-1].size += term.close() + 2
            continue
        if text == "between":
            term.betweens += 1
        if text == "and" and term.betweens:
            term.betweens -= 1
        elif text == "," or text in PARTING or (text in ("and", "or") and not term.in_call):
            term.close()
            continue
        term.size += 1
    return max(term.close() for term in terms)


class Term:
    """The term that is being read at one level of parentheses, and the longest before it there."""

    def __init__(self, in_call: bool) -> None:
        self.in_call = in_call
        self.betweens = 0
        self.size = 0
        self._longest = 0

    def close(self) -> int:
        """End the term; the size of the longest so far."""
        self._longest = max(self._longest, self.size)
        self.size = self.betweens = 0
        return self._longest


def until_semicolon(where: str, tokens: Sequence[re.Match[str]]) -> str:
    """A filter without the semicolon at its end."""
    return where[: next((token.start() for token in tokens if token[0] == ";"), len(where))]


def plan(dataset: Any, where: str) -> BaseException | None:
    """Have Lance parse and plan a filter, without reading rows; what is wrong with the filter, None if nothing is."""
    try:  # `explain_plan` would take aggregates
        dataset.scanner(columns=[], filter=where, with_row_id=True, limit=0).to_table()
    except BaseException as failure:  # a panic is no `Exception`
        if isinstance(failure, (ValueError, RuntimeError)) or is_panic(failure):
            return failure
        raise
    return None


def leftover(dataset: Any, where: str) -> str:
    """Where Lance stops reading a filter: what its parser finds where it needs the parenthesis that closes the whole."""
    failure = plan(dataset, f"({where}\n)")
    if failure is None:
        return "One ) closes nothing."
    return filter_reason(failure).replace("Expected: ), found:", "Expected: its end, found:")


def is_panic(failure: BaseException) -> bool:
    """Whether a panic of Rust code is what was raised; pyo3 has it derive from `BaseException`."""
    return type(failure).__name__ == "PanicException" or "Task was aborted" in str(failure)


def filter_reason(failure: BaseException) -> str:
    """Why Lance refuses a filter, one line."""
    if is_panic(failure):
        return "Lance cannot evaluate it (its code panicked)."
    text = reason_of(failure)
    if "does not support logical expression" in text and ("AggregateFunction" in text or "WindowFunction" in text):
        return "a filter looks at one row; aggregate and window functions, such as count(*), look at many."
    found = re.search(r"Cannot access field at argument \d+: type (.+) is not Struct", text)
    if found:
        return f"it reads a field (`a.b`) of a column of type {found[1]}, which is not a struct."
    return next((found[1] for pattern in REASONS if (found := pattern.search(text))), text)


def reason_of(failure: BaseException) -> str:
    """The message of a failure inside Lance, one line, without the places in Lance's source."""
    return " ".join(PLACE.sub("", str(failure)).replace("Invalid user input: ", "").split())
