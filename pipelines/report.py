"""What a run tells: counts, times, throughput beside the model's bare rate, actors over time. One JSON object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pipelines.accounting import Counts
from pipelines.plan import Plan

Record = Mapping[str, Any]


def stream_window(records: Sequence[Record]) -> tuple[float, float] | None:
    """From the first source read to the last fragment durable, in seconds since the epoch; None where nothing ran."""
    reads = [stage["began"] for record in records for stage in record["status"]["stages"] if stage["stage"] == "read"]
    writes = [stage["ended"] for record in records for stage in record["status"]["stages"] if stage["stage"] == "write"]
    return (min(reads), max(writes)) if reads else None


def stages_of(records: Sequence[Record], column: str) -> list[Mapping[str, Any]]:
    """What the actors of one column did, shard by shard."""
    return [stage for record in records for stage in record["status"]["stages"] if stage.get("column") == column]


def throughput(records: Sequence[Record], column: str, actors: int) -> dict[str, float | int | None]:
    """Rows of a column a second: the pipeline's, and the model's own in the same actors (see `embedding.bare_rate`)."""
    stages, window = stages_of(records, column), stream_window(records)
    rows = sum(stage["rows"] for stage in stages)
    rates = {stage["actor"]: stage["bare_rate"] for stage in stages if stage["bare_rate"]}
    bare = sum(rates.values()) / len(rates) * max(actors, 1) if rates else None
    return {
        "rows_embedded": rows,
        "rows_per_s": round(rows / (window[1] - window[0]), 2) if window and rows else None,
        "model_rows_per_s": round(bare, 2) if bare and rows else None,
    }


def actors_over_time(lives: Mapping[str, tuple[float, float | None]], began: float) -> list[dict[str, float | int]]:
    """How many actors there were, whenever that changed: seconds since `began`, and the count.

    `lives` has begin and end of each actor, in seconds since the epoch; an end of None is not yet.
    """
    changes = sorted(
        [(start, 1) for start, _ in lives.values()] + [(end, -1) for _, end in lives.values() if end is not None]
    )
    count, line = 0, []
    for moment, change in changes:
        count += change
        line.append({"t_s": round(moment - began, 1), "actors": count})
    return line


def most_actors(line: Sequence[Mapping[str, float | int]]) -> int:
    """The most actors there were at once."""
    return max((int(point["actors"]) for point in line), default=0)


def build_report(
    plan: Plan,
    state: str,
    totals: Mapping[str, Counts],
    records: Sequence[Record],
    actors: Mapping[str, list[dict[str, float | int]]],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """The report of a run, but for what only the end knows (version, tag, indexes, memory)."""
    columns, removed = plan.spec.columns, len(plan.changes.gone)
    counts = {column: {**asdict(totals[column]), "removed": removed} for column in columns}
    rates = {column: throughput(records, column, most_actors(actors.get(column, []))) for column in columns}
    truncated = {column: sum(record["truncated"].get(column, 0) for record in records) for column in columns}
    first = columns[0]
    return {
        "run_id": plan.run_id,
        "state": state,
        "table": plan.spec.table.name,
        "version": plan.base_version,
        "tag": None,
        "counts": counts[first],
        "columns": {
            column: {
                **counts[column],
                **rates[column],
                "truncated": truncated[column],
                "actors": actors.get(column, []),
            }
            for column in columns
        },
        "rows_written": sum(record["rows"] for record in records),
        "truncated": truncated[first],
        "objects_read": sum(record["status"]["reads"] for record in records),
        "bytes_read": sum(record["status"]["read_bytes"] for record in records),
        "shards": len(records),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "rows_per_s": rates[first]["rows_per_s"],
        "model_rows_per_s": rates[first]["model_rows_per_s"],
        "indexes": [],
        "peak_memory_mb": None,
        "fingerprints": plan.fingerprints(),
    }
