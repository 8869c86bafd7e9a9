"""The matrix of faults: which cases of it are run, and the table of what was survived. Hooks of pytest, for `conftest`."""

from __future__ import annotations

import random
from collections import Counter

import pytest

SEED = 0  # draws the sample
MARK = "fault(name, promise, sample=0): a case of the matrix; without --faults only `sample` cases of each name are run"


class Matrix:
    """The cases of each fault, and how they went."""

    def __init__(self) -> None:
        self.promises: dict[str, tuple[str, str]] = {}  # by fault: what is promised, and the test
        self.faults: dict[str, str] = {}  # by test's id
        self.tried: Counter[str] = Counter()
        self.survived: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()

    def lines(self) -> list[str]:
        """A table in Markdown."""
        head = ["| fault | what is promised | test | survived / tried |", "| --- | --- | --- | --- |"]
        return head + [
            f"| {name} | {promise} | `{test}` | {self.survived[name]} / {self.tried[name]}"
            f"{f' ({self.skipped[name]} skipped)' if self.skipped[name] else ''} |"
            for name, (promise, test) in self.promises.items()
            if self.tried[name] or self.skipped[name]
        ]


MATRIX = Matrix()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option that `make faults` gives."""
    parser.addoption("--faults", action="store_true", help="run the whole matrix of faults, which takes hours")


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark known."""
    config.addinivalue_line("markers", MARK)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Take note of the cases, and leave out those that are not in the sample."""
    by_fault: dict[str, list[pytest.Item]] = {}
    for item in items:
        mark = item.get_closest_marker("fault")
        if mark is not None:
            name, promise = mark.args
            MATRIX.promises.setdefault(name, (promise, item.nodeid.partition("[")[0].rpartition("/")[2]))
            MATRIX.faults[item.nodeid] = name
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
    """Count a case."""
    name = MATRIX.faults.get(report.nodeid)
    if name is None:
        return
    if report.skipped:
        MATRIX.skipped[name] += 1
    elif report.when == "call" or report.failed:
        MATRIX.tried[name] += 1
        MATRIX.survived[name] += report.passed


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table."""
    if MATRIX.tried or MATRIX.skipped:
        terminalreporter.section("faults")
        for line in MATRIX.lines():
            terminalreporter.line(line)
