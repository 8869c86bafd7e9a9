"""What a lake remembers of evaluations: the table `_evals`, a row per result, with all that the figures depend on."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import lance
import numpy as np
import pyarrow as pa

from latentlake.evaluation.results import Evaluation, Key, Result
from latentlake.evaluation.statistics import Sample
from latentlake.filters import reason_of, sql_string
from latentlake.formats import StoredFormat
from latentlake.storage import Storage
from latentlake.table import open_lance
from operators.embedders.base import short_hash
from operators.errors import LatentLakeError

EVALS_TABLE = "_evals"
SETTINGS = StoredFormat("the settings of an evaluation")
SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),  # of the result: of two with one key the later stays
        pa.field("evaluation", pa.string(), nullable=False),  # hash of table, version, suite and settings
        pa.field("table", pa.string(), nullable=False),
        pa.field("version", pa.int64(), nullable=False),
        pa.field("suite", pa.string(), nullable=False),
        pa.field("suite_hash", pa.string(), nullable=False),
        pa.field("settings", pa.string(), nullable=False),  # JSON, with the notes
        pa.field("evaluated_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("place", pa.int32(), nullable=False),  # of the result in its evaluation
        pa.field("task", pa.string(), nullable=False),
        pa.field("measure", pa.string(), nullable=False),
        pa.field("column", pa.string(), nullable=False),
        pa.field("mode", pa.string(), nullable=False),
        pa.field("value", pa.float64()),
        pa.field("low", pa.float64()),
        pa.field("high", pa.float64()),
        pa.field("n", pa.int64(), nullable=False),
        pa.field("statistic", pa.string()),  # null: no values per unit
        pa.field("ids", pa.list_(pa.string())),
        pa.field("data", pa.list_(pa.float64())),  # of all units, row by row
        pa.field("groups", pa.list_(pa.int64())),
    ]
)


def record_evaluation(lake: Storage, evaluation: Evaluation) -> None:
    """Write an evaluation into `_evals`. The same table, version, suite and settings replace what they wrote before.

    Raises `LatentLakeError` where it cannot be written.
    """
    rows = pa.Table.from_pylist(rows_of(evaluation), schema=SCHEMA)
    try:
        records = open_records(lake)
        records = create_records(lake) if records is None else records
        records.merge_insert("key").when_matched_update_all().when_not_matched_insert_all().execute(rows)
    except (OSError, ValueError) as failure:  # Lance tells of the store by both
        raise LatentLakeError(
            f"the evaluation is made, but lake '{lake.uri}' cannot keep it: {reason_of(failure)}\n"
            "  Where you may not write, evaluate with `record=False`."
        ) from failure


def read_evaluations(lake: Storage, table: str, version: int | None = None) -> list[Evaluation]:
    """The evaluations of a table that the lake remembers, of one version or of all, the latest last."""
    records = open_records(lake)
    if records is None:
        return []
    condition = f"`table` = {sql_string(table)}" + ("" if version is None else f" AND version = {int(version)}")
    found: dict[str, list[dict[str, Any]]] = {}
    for batch in records.to_batches(filter=condition):
        for row in batch.to_pylist():
            found.setdefault(row["evaluation"], []).append(row)
    ordered = sorted(found.values(), key=lambda rows: max(row["evaluated_at"] for row in rows))
    return [evaluation_of(sorted(rows, key=lambda row: row["place"])) for rows in ordered]


def identity_of(evaluation: Evaluation) -> str:
    """What tells an evaluation from others: a hash of its table, version, suite and settings."""
    names = ("table", "version", "suite_hash", "settings")
    return short_hash({name: getattr(evaluation, name) for name in names})


def rows_of(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Rows of `_evals`."""
    identity, now = identity_of(evaluation), datetime.now(UTC)
    settings = SETTINGS.write({"settings": dict(evaluation.settings), "notes": list(evaluation.notes)})
    shared = {
        "evaluation": identity,
        "evaluated_at": now,
        "settings": settings,
        **{name: getattr(evaluation, name) for name in ("table", "version", "suite", "suite_hash")},
    }
    return [
        {
            **shared,
            **vars(result),
            "key": short_hash([identity, *result.key]),
            "place": place,
            **sample_columns(evaluation.samples.get(result.key)),
        }
        for place, result in enumerate(evaluation.results)
    ]


def sample_columns(sample: Sample | None) -> dict[str, Any]:
    """A sample as columns of `_evals`."""
    if sample is None:
        return dict.fromkeys(("statistic", "ids", "data", "groups"))
    return {
        "statistic": sample.statistic,
        "ids": sample.ids,
        "data": sample.data.ravel(),
        "groups": sample.groups,
    }


def evaluation_of(rows: list[dict[str, Any]]) -> Evaluation:
    """The evaluation that rows of `_evals` hold. Raises `Unreadable`."""
    first = rows[0]
    stored = SETTINGS.read(first["settings"])
    results, samples = [], dict[Key, Sample]()
    for row in rows:
        result = Result(**{name: row[name] for name in Result.__dataclass_fields__})
        results.append(result)
        if row["statistic"] is not None:
            ids = np.array(row["ids"], dtype=object)
            groups = None if row["groups"] is None else np.array(row["groups"], dtype=np.int64)
            samples[result.key] = Sample(row["statistic"], ids, np.array(row["data"]).reshape(len(ids), -1), groups)
    return Evaluation(
        table=first["table"],
        version=first["version"],
        suite=first["suite"],
        suite_hash=first["suite_hash"],
        settings=stored["settings"],
        results=results,
        samples=samples,
        notes=tuple(stored.get("notes", ())),
    )


def open_records(lake: Storage) -> Any:
    """`_evals`; None where nothing has been recorded yet."""
    return open_lance(lake.child(f"{EVALS_TABLE}.lance"))


def create_records(lake: Storage) -> Any:
    """`_evals`, made unless another process has just made it.

    Told to read version 0, Lance lets one of several creations land, where `mode="create"` lets a later one overwrite the first
    (measured, pylance 14.0.2: 6 at once, 40 times).
    """
    uri, options = f"{lake.lance_uri}/{EVALS_TABLE}.lance", lake.lance_options
    empty = lance.LanceOperation.Overwrite(SCHEMA, [])
    try:
        return lance.LanceDataset.commit(uri, empty, read_version=0, max_retries=0, storage_options=options)
    except (OSError, ValueError):
        if (records := open_records(lake)) is None:
            raise
        return records
