"""The condition of `latentlake promote --if`: "ndcg@10 >= prod - 0.01 and rows >= 1000". Parsed, and asked of two versions."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from latentlake.evaluation import Evaluation, Result, Suite, compare
from latentlake.table import Table
from operators.errors import NotFound, SpecError
from pipelines.publish.gates import Gate
from pipelines.publish.subject import Subject
from pipelines.publish.suite_gates import lowest, matching, most_dropped, named, no_measure, not_asked

ROWS = "rows"  # the one measure that no suite is needed for
NUMBER = r"[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
CLAUSE = re.compile(
    rf"(?P<measure>[^<>=]+?)\s*(?P<sign>>=|<=|>|<)\s*"
    rf"(?:(?P<number>{NUMBER})|(?P<tag>[A-Za-z0-9][A-Za-z0-9_.-]*)(?:\s+(?P<way>[+-])\s*(?P<offset>{NUMBER}))?)"
)
SIGNS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt
}  # fmt: skip
EXAMPLE = "--if 'ndcg@10 >= prod - 0.01 and rows >= 1000'"


@dataclass(frozen=True)
class Clause:
    """One comparison: a measure of the version, and a number, or the same measure of the version at a tag plus an offset."""

    text: str
    measure: str
    sign: str
    tag: str | None
    number: float

    def holds(self, value: float, other: float | None) -> bool:
        """Whether it is true of a figure; `other` is the tag's."""
        return SIGNS[self.sign](value, self.limit(other))

    def limit(self, other: float | None) -> float:
        """What the figure is compared with."""
        return self.number if other is None else other + self.number


def parse_condition(text: str) -> list[Clause]:
    """The clauses of a condition, which `and` joins. Raises `SpecError`."""
    clauses = []
    for part in re.split(r"\s+and\s+", text.strip(), flags=re.IGNORECASE):
        found = CLAUSE.fullmatch(part.strip())
        if found is None:
            raise SpecError(
                f"cannot read '{part}' as a condition: write MEASURE, one of >= > <= <, and a NUMBER or TAG or TAG - NUMBER.\n"
                f"  For example: {EXAMPLE}"
            )
        offset = float(found["offset"] or 0) * (-1 if found["way"] == "-" else 1)
        number = offset if found["number"] is None else float(found["number"])
        clauses.append(Clause(part.strip(), found["measure"].strip(), found["sign"], found["tag"], number))
    return clauses


def ask_condition(
    clauses: Sequence[Clause], subject: Subject, tagged: Mapping[str, Table], suite: Suite | None
) -> list[Gate]:
    """A gate for each figure that a clause compares. `tagged` has the version of each tag that is named.

    Raises `SpecError` where a suite is needed and there is none, and what `evaluate` raises.
    """
    if suite is None and (measured := [clause.measure for clause in clauses if clause.measure != ROWS]):
        raise SpecError(
            f"'{measured[0]}' is measured by a suite, and the job of table '{subject.table.name}' has none: give --suite FILE."
        )
    gates: list[Gate] = []
    for clause in clauses:
        before = None if clause.tag is None else tagged[clause.tag]
        if clause.measure == ROWS:
            gates.append(row_gate(clause, subject.table, before))
        elif suite is not None:
            gates += figure_gates(clause, subject, before, suite)
    return gates


def row_gate(clause: Clause, table: Table, before: Table | None) -> Gate:
    """A clause on the number of rows."""
    other = None if before is None else float(before.count())
    return gate_of(clause, f"the table has {table.count()} rows", table.count(), other, table.version)


def figure_gates(clause: Clause, subject: Subject, before: Table | None, suite: Suite) -> Iterator[Gate]:
    """A clause on a measure of the suite: of each of its results."""
    after = subject.made.of(subject.table, suite, subject.columns)
    old = None if before is None else subject.made.of(before, suite, subject.columns)
    known = set() if old is None else {result.key for result in old.results}
    results = matching(after.results, clause.measure)
    if not results:
        yield not_asked("if", clause.measure, clause.number, no_measure(after, clause.measure))
    for result in results:
        if old is not None and result.key not in known:
            what = f"version {old.version}, at tag '{clause.tag}', has no {named(result)}"
            yield not_asked("if", clause.measure, clause.number, what)
        else:
            yield figure_gate(clause, after, old, result)


def figure_gate(clause: Clause, after: Evaluation, old: Evaluation | None, result: Result) -> Gate:
    """A clause on one result; next to a tag, both figures are over the queries that both versions were asked."""
    if old is None:
        told, value, other = f"{named(result)} is {result.value:.4f}", result.value, None
        worst = lowest(after, result)
    else:
        (found,) = compare(old, after, pairs=[(result.key, result.key)])
        told = f"{named(result)} is {found.after:.4f}, at '{clause.tag}' (version {old.version}) {found.before:.4f}"
        value, other, worst = found.after, found.before, most_dropped(old, after, result)
    return gate_of(clause, told, value, other, after.version, result, after.suite_hash, worst)


def gate_of(
    clause: Clause,
    why: str,
    value: float,
    other: float | None,
    version: int,
    result: Result | None = None,
    suite_hash: str | None = None,
    worst: tuple[Mapping[str, object], ...] = (),
) -> Gate:
    """A clause, asked."""
    held = clause.holds(value, other)
    return Gate(
        name="if",
        moment="tag",
        of="table" if result is None else "suite",
        value=value,
        limit=clause.limit(other),
        held=held,
        why=why,
        asks=f"; --if asks for {clause.text}.",
        remedy="",
        column=None if result is None else result.column,
        measured_at=version,
        measure=clause.measure if result is None else result.measure,
        suite_hash=suite_hash,
        worst=() if held else worst,
    )


def check_tags(clauses: Sequence[Clause], tags: Mapping[str, int], table: str) -> None:
    """Raise `NotFound` where a clause names a tag that the table does not have."""
    for clause in clauses:
        if clause.tag is not None and clause.tag not in tags:
            raise NotFound(
                f"'{clause.text}': table '{table}' has no tag '{clause.tag}' to compare with.\n"
                f"  Tags: {', '.join(sorted(tags)) or 'none'}. Compare with a number, or promote without --if."
            )
