"""What the driver is told of a finished shard, beside how far the run is: a few numbers, whatever the shard's size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from operators.batch import Batch
from operators.batching import form_batches
from pipelines.flow.counts import OUTCOMES


def shard_facts(record: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a shard's record. JSON-able.

    `counts` of objects, by column and outcome; `rejects` by stage; `models`, by column: rows, tokens, seconds of the model, the
    fill of its batches; `stages`: who worked, from when to when.
    """
    status = record["status"]
    embedded = [stage for stage in status["stages"] if "column" in stage]
    return {
        "shard": status["shard"],
        "rows": record["rows"],
        "bytes_read": status["read_bytes"],
        "counts": {
            column: {outcome: count[outcome] for outcome in OUTCOMES} for column, count in record["counts"].items()
        },
        "rejects": Counter(reject["stage"] for reject in status["rejects"] if reject["outcome"] == "rejected"),
        "models": {
            stage["column"]: {name: stage[name] for name in ("rows", "tokens", "model_s", "fill")} for stage in embedded
        },
        "stages": [
            {name: stage[name] for name in ("stage", "column", "began", "ended") if name in stage}
            for stage in status["stages"]
        ],
    }


def fill_of(prepared: Batch, budget: int) -> float | None:
    """What the rows cost, as a share of what their batches (see `form_batches`) may cost; None without rows."""
    cost = prepared["cost"]
    room = sum(max(budget, int(cost[batch].max()) * len(batch)) for batch in form_batches(cost, budget))
    return round(float(cost.sum()) / room, 4) if room else None
