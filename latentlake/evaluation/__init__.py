"""How good a table's vectors are: suites of tasks, their results with intervals, and what a lake remembers of them."""

from latentlake.evaluation.evaluate import evaluate
from latentlake.evaluation.measures import canonical_measure
from latentlake.evaluation.records import read_evaluations, record_evaluation
from latentlake.evaluation.results import Difference, Evaluation, Result, compare
from latentlake.evaluation.suite import Suite, load_suite, task_kinds

__all__ = [
    "Difference",
    "Evaluation",
    "Result",
    "Suite",
    "canonical_measure",
    "compare",
    "evaluate",
    "load_suite",
    "read_evaluations",
    "record_evaluation",
    "task_kinds",
]
