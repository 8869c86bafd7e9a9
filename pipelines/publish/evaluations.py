"""What suites find of the versions of tables: each is measured once, and the lake remembers it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from latentlake.evaluation import Evaluation, Suite, evaluate, read_evaluations, record_evaluation
from latentlake.evaluation.evaluate import settings_of
from latentlake.storage import Storage
from latentlake.table import Table
from operators.errors import LatentLakeError

log = logging.getLogger(__name__)

Key = tuple[str, int, str, tuple[str, ...]]  # table, version, hash of the suite, columns


class Evaluations:
    """The evaluations of a lake's tables: those that were made for whoever asks again, and those that are in `_evals`."""

    def __init__(self, lake: Storage) -> None:
        self._lake = lake
        self._made: dict[Key, Evaluation] = {}

    def of(self, table: Table, suite: Suite, columns: Sequence[str]) -> Evaluation:
        """What a suite finds of those of a version's vector columns that are named. Raises what `evaluate` raises.

        It is taken from `_evals` where the same suite, with the same settings, has been recorded; else it is recorded there.
        """
        asked = tuple(column for column in columns if column in table.vector_columns)
        key = (table.name, table.version, suite.hash(), asked)
        if key not in self._made:
            self._made[key] = self._recorded(table, suite, asked) or self._evaluate(table, suite, asked)
        return self._made[key]

    def _recorded(self, table: Table, suite: Suite, columns: Sequence[str]) -> Evaluation | None:
        wanted, settings = suite.hash(), settings_of(table, suite, columns)
        try:
            found = read_evaluations(self._lake, table.name, table.version)
        except LatentLakeError as failure:
            log.warning("the recorded evaluations are left unused: %s", failure)
            return None
        return next((one for one in found[::-1] if (one.suite_hash, one.settings) == (wanted, settings)), None)

    def _evaluate(self, table: Table, suite: Suite, columns: Sequence[str]) -> Evaluation:
        made = evaluate(table, suite, columns=columns)
        try:
            record_evaluation(self._lake, made)
        except LatentLakeError as failure:  # a version is judged by what was found, whether or not that is kept
            log.warning("%s", failure)
        return made
