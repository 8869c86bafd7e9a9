"""What `latentlake try` prints."""

from __future__ import annotations

from collections import Counter
from typing import Any

SNIPPET = 60  # characters of a text


def print_trial(found: dict[str, Any]) -> None:
    """A sample's counts, columns, rejects, some rows with their nearest, and what the whole would take."""
    counts = found["report"]["counts"]
    print(", ".join(f"{counts[name]} {name}" for name in ("listed", "embedded", "reused", "filtered", "rejected")))
    for column, facts in found["columns"].items():
        told = f"{column}: {facts['dimension']} numbers per vector"
        if "tokens" in facts:
            tokens = facts["tokens"]
            told += f"; {tokens['min']} to {tokens['max']} tokens per text (median {tokens['median']:.0f}), "
            told += f"{facts['truncated']} of {facts['rows']} cut to the model's window"
        print(told)
    for (stage, error), number in Counter((one["stage"], one["error"]) for one in found["rejects"]).most_common():
        first = next(one["object_id"] for one in found["rejects"] if (one["stage"], one["error"]) == (stage, error))
        print(f"rejected, {stage}: {error} ({number}, the first is {first})")
    for row in found["rows"]:
        print(f"nearest to {row['id']}{snippet(row)}")
        for one in row["nearest"]:
            print(f"  {one['distance']:.4f}  {one['id']}{snippet(one)}")
    if whole := found["whole"]:
        (fast, slow), (least, most) = whole["seconds"], whole["mb"]
        print(
            f"the whole: {whole['objects']} objects, {whole['bytes'] / 2**20:.1f} MB; about {fast:.0f} to {slow:.0f} s of embedding on this "
            f"machine, and {least:.1f} to {most:.1f} MB in the lake"
        )
    print("Nothing was kept.")


def snippet(row: dict[str, Any]) -> str:
    """The beginning of a row's text, if it has one."""
    text = " ".join((row["text"] or "").split())
    return f": {text[:SNIPPET]}{'…' if len(text) > SNIPPET else ''}" if text else ""
