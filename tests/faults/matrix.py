"""The matrix of faults: which cases of it are run, and the table of what was survived. Hooks of pytest, for `conftest`."""

from __future__ import annotations

import random
from collections import Counter

import pytest

SEED = 0  # draws the sample
MARK = "fault(name, promise, sample=0): a case of the matrix; without --faults only `sample` cases of each name are run"
PROPERTY = "fault"  # of a case's report, which comes from another process where several run the matrix


class Matrix:
    """The faults that were met, each by its name, what is promised, and the test; and how their cases went."""

    def __init__(self) -> None:
        self.terminal: pytest.TerminalReporter | None = None  # where failures are told at once, of a run of hours
        self.tried: Counter[tuple[str, ...]] = Counter()
        self.survived: Counter[tuple[str, ...]] = Counter()
        self.skipped: Counter[tuple[str, ...]] = Counter()

    def lines(self) -> list[str]:
        """A table in Markdown, in the order of the tests' names."""
        head = ["| fault | what is promised | test | survived / tried |", "| --- | --- | --- | --- |"]
        faults = sorted(self.tried.keys() | self.skipped.keys(), key=lambda fault: fault[::-1])
        return head + [
            f"| {fault[0]} | {fault[1]} | `{fault[2]}` | {self.survived[fault]} / {self.tried[fault]}"
            f"{f' ({self.skipped[fault]} skipped)' if self.skipped[fault] else ''} |"
            for fault in faults
        ]


MATRIX = Matrix()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option that `make faults` gives."""
    parser.addoption("--faults", action="store_true", help="run the whole matrix of faults, which takes hours")


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark known."""
    config.addinivalue_line("markers", MARK)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Find where failures are told, unless this process only runs the cases that another hands out."""
    if session.config.getoption("--faults", default=False) and not hasattr(session.config, "workerinput"):
        MATRIX.terminal = session.config.pluginmanager.get_plugin("terminalreporter")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Note in each case which fault it is of, and leave out those that are not in the sample."""
    by_fault: dict[str, list[pytest.Item]] = {}
    for item in items:
        mark = item.get_closest_marker("fault")
        if mark is not None:
            name, promise = mark.args
            item.user_properties.append((PROPERTY, (name, promise, item.nodeid.partition("[")[0].rpartition("/")[2])))
            by_fault.setdefault(name, []).append(item)
    if config.getoption("--faults", default=False):
        return
    left_out: set[pytest.Item] = set()
    for cases in by_fault.values():
        mark = cases[0].get_closest_marker("fault")
        sample = mark.kwargs.get("sample", 0) if mark else 0
        left_out |= set(cases) - set(random.Random(SEED).sample(cases, min(sample, len(cases))))
    if left_out:
        config.hook.pytest_deselected(items=[item for item in items if item in left_out])
        items[:] = [item for item in items if item not in left_out]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count a case, and tell of one that failed."""
    if report.failed and MATRIX.terminal is not None:
        MATRIX.terminal.write_line(f"\n{report.nodeid} ({report.when})\n{report.longreprtext}")
    fault = next((tuple(value) for name, value in report.user_properties if name == PROPERTY), None)
    if fault is None:
        return
    if report.skipped:
        MATRIX.skipped[fault] += 1
    elif report.when == "call" or report.failed:
        MATRIX.tried[fault] += 1
        MATRIX.survived[fault] += report.passed


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table."""
    if MATRIX.tried or MATRIX.skipped:
        terminalreporter.section("faults")
        for line in MATRIX.lines():
            terminalreporter.line(line)
