"""Cross-validated predictions from vectors, by scikit-learn, with splits that keep groups whole."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from latentlake.evaluation.base import Measured, Subject
from latentlake.evaluation.rows import Drawn, Facts, draw_rows, only
from latentlake.evaluation.statistics import Sample
from operators.errors import SpecError


def group_codes(drawn: Drawn) -> np.ndarray | None:
    """Groups as codes from 0; rows without one are each their own."""
    if drawn.groups is None:
        return None
    names = [f"row {place}" if group is None else f"group {group}" for place, group in enumerate(drawn.groups)]
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def draw_classes(
    subject: Subject, labels: Facts, groups: str | None, rows: int, folds: int
) -> tuple[Drawn, np.ndarray, list[str]]:
    """Rows, the code of each one's class, int64 (n,), and the classes. Classes of fewer than `folds` rows are left out, and noted.

    Raises `SpecError` where fewer than two classes are left.
    """
    drawn = draw_rows(subject, rows, labels, groups)
    names = np.array([str(label) for label in only(drawn.facts)], dtype=object)
    classes, codes, counts = np.unique(names.astype(str), return_inverse=True, return_counts=True)
    kept = counts[codes] >= folds
    if not kept.all():
        subject.note(
            f"{int((~kept).sum())} rows of {int((counts < folds).sum())} classes with fewer than {folds} rows are left out"
        )
        places = np.flatnonzero(kept)
        grouped = None if drawn.groups is None else drawn.groups[places]
        drawn = Drawn(drawn.ids[places], drawn.vectors[places], drawn.facts[places], grouped)
        classes, codes = np.unique(names[places].astype(str), return_inverse=True)
    if len(classes) < 2:
        raise SpecError(
            f"labels of '{labels.source}' tell {len(classes)} class with {folds} rows or more; a probe needs two.\n"
            "  Name other labels, or fewer `folds`."
        )
    return drawn, codes.astype(np.int64), classes.tolist()


def classify(
    subject: Subject, model: Any, labels: Facts, groups: str | None, rows: int, folds: int
) -> Iterator[Measured]:
    """Accuracy, macro F1 and AUC of a classifier's predictions for rows that it was not fitted on."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    drawn, codes, classes = draw_classes(subject, labels, groups, rows, folds)
    grouped = group_codes(drawn)
    split = StratifiedKFold(folds, shuffle=True, random_state=subject.seed)
    if grouped is not None:
        check_groups(grouped, folds)
        split = StratifiedGroupKFold(folds, shuffle=True, random_state=subject.seed)
    scores = np.zeros((len(codes), len(classes)))
    for train, test in split.split(drawn.vectors, codes, grouped):
        fitted = fit(model, drawn.vectors[train], codes[train], subject)
        scores[np.ix_(test, fitted.classes_)] = fitted.predict_proba(drawn.vectors[test])
    predicted = scores.argmax(axis=1)
    shown = scores[:, 1:] if len(classes) == 2 else scores
    for measure, statistic, data in (
        ("accuracy", "mean", (predicted == codes)[:, None]),
        ("F1", "macro_f1", np.column_stack([codes, predicted])),
        ("AUC", "auc", np.column_stack([codes, shown])),
    ):
        yield Measured(measure, Sample(statistic, drawn.ids, data.astype(np.float64), grouped))


def regress(
    subject: Subject, model: Any, target: Facts, groups: str | None, rows: int, folds: int
) -> Iterator[Measured]:
    """R2 and mean absolute error of a regressor's predictions for rows that it was not fitted on."""
    from sklearn.model_selection import GroupKFold, KFold

    drawn = draw_rows(subject, rows, target, groups)
    truth = to_numbers(only(drawn.facts), target.source)
    grouped = group_codes(drawn)
    if len(truth) < folds:
        raise SpecError(f"{len(truth)} rows have a number in '{target.source}'; {folds} folds need as many.")
    if grouped is not None:
        check_groups(grouped, folds)
    split = KFold(folds, shuffle=True, random_state=subject.seed) if grouped is None else GroupKFold(folds)
    predicted = np.zeros(len(truth))
    for train, test in split.split(drawn.vectors, truth, grouped):
        predicted[test] = fit(model, drawn.vectors[train], truth[train], subject).predict(drawn.vectors[test])
    yield Measured("R2", Sample("r2", drawn.ids, np.column_stack([truth, predicted]), grouped))
    yield Measured("MAE", Sample("mean", drawn.ids, np.abs(truth - predicted)[:, None], grouped))


def fit(model: Any, vectors: np.ndarray, target: np.ndarray, subject: Subject) -> Any:
    """A fitted copy of a model; that it did not converge is a note."""
    from sklearn.base import clone
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", ConvergenceWarning)
        fitted = clone(model).fit(vectors, target)
    if any(issubclass(one.category, ConvergenceWarning) for one in told):
        subject.note("a probe stopped before it converged; its figures may be low")
    return fitted


def check_groups(codes: np.ndarray, folds: int) -> None:
    """Raise `SpecError` for fewer groups than folds."""
    if (found := len(np.unique(codes))) < folds:
        raise SpecError(
            f"the rows are of {found} groups; {folds} folds need as many. Name other `groups`, or fewer `folds`."
        )


def to_numbers(values: Iterable[Any], source: str) -> np.ndarray:
    """Values as finite float64 (n,). Raises `SpecError`."""
    try:
        numbers = np.array([float(value) for value in values])
    except (TypeError, ValueError) as failure:
        raise SpecError(f"'{source}' holds something that is not a number: {failure}") from failure
    if not np.isfinite(numbers).all():
        raise SpecError(f"'{source}' holds numbers that are not finite.")
    return numbers
