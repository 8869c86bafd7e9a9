"""What a run tells: counts, times, throughput beside the model's bare rate, actors over time. One JSON object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pipelines.flow.counts import Counts
from pipelines.planning.plan import Plan, fingerprints_of
from pipelines.publish.pace import Pace
from pipelines.publish.tally import Tally


def throughput(tally: Tally, column: str, actors: int) -> dict[str, float | int | None]:
    """Rows of a column a second: the pipeline's, and the model's own in the same actors."""
    window, rows, rate = tally.window, tally.embedded_now[column], model_rate(tally, column)
    bare = rate * max(actors, 1) if rate else None
    return {
        "rows_embedded": tally.embedded[column],
        "rows_per_s": round(rows / (window[1] - window[0]), 2) if window and rows else None,
        "model_rows_per_s": round(bare, 2) if bare and rows else None,
    }


def model_rate(tally: Tally, column: str) -> float | None:
    """Rows per second of one actor's model: as it was timed alone (see `embedding.bare_rate`), else by its own seconds."""
    rates = tally.rates[column]
    return sum(rates.values()) / len(rates) if rates else tally.models[column].per_s


def calibration(tally: Tally, column: str, objects: int) -> dict[str, Any] | None:
    """How fast one actor's model was and where it ran, by which later runs are planned; `objects` were embedded.

    None where nothing was embedded.
    """
    rate, rows = model_rate(tally, column), tally.embedded[column]
    if not rate or not rows or not objects:
        return None
    return {**tally.places[column], "rows_per_s": round(rate, 3), "rows_per_object": round(rows / objects, 3)}


def stage_times(tally: Tally) -> dict[str, Any]:
    """Seconds of each stage, summed over the tasks of this process's shards, and what they worked on."""
    embedding = {column: {**seconds_of(pace), "rows": pace.done} for column, pace in tally.embedding.items()}
    return {
        "read": {**seconds_of(tally.reading), "objects": tally.reading.done, "bytes": tally.bytes_now},
        "embed": embedding,
        "write": {**seconds_of(tally.writing), "rows": tally.writing.done},
    }


def seconds_of(pace: Pace) -> dict[str, float]:
    """Seconds of a stage, and those among them that its workers needed once."""
    return {"seconds": round(pace.seconds, 3), "warm_s": round(pace.warm_s, 3)}


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
    tally: Tally,
    actors: Mapping[str, list[dict[str, float | int]]],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """The report of a run, but for what only the end knows (version, tag, indexes, memory)."""
    columns = plan.spec.columns
    beside = {"removed": plan.changes.gone, "left_out": plan.changes.left_out, "forgotten": plan.changes.forgotten}
    counts = {column: {**asdict(totals[column]), **beside} for column in columns}
    rates = {column: throughput(tally, column, most_actors(actors.get(column, []))) for column in columns}
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
                "truncated": tally.truncated[column],
                "measured": tally.measured[column],
                "calibration": calibration(tally, column, totals[column].embedded + tally.embedded_dropped[column]),
                "actors": actors.get(column, []),
            }
            for column in columns
        },
        **({} if tally.deduplicated is None else {"deduplicated": tally.deduplicated}),
        "rows_written": tally.rows + tally.patched,
        "truncated": tally.truncated[first],
        "objects_read": tally.objects_read,
        "bytes_read": tally.bytes_read,
        "shards": tally.shards,
        "shards_taken_over": tally.taken_over,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "stages": stage_times(tally),
        "rows_per_s": rates[first]["rows_per_s"],
        "model_rows_per_s": rates[first]["model_rows_per_s"],
        "indexes": [],
        "gates": [],
        "peak_memory_mb": None,
        "fingerprints": fingerprints_of(plan.spec),
    }
