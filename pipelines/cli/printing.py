"""What the commands print: reports, facts and rows for people or as JSON."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latentlake import SearchResult

PIPE_WIDTH = 240


def print_report(report: dict[str, Any], table: str) -> None:
    """The report of a run, for people."""
    counts = report["counts"]
    if report["state"] == "unchanged" and not counts["embedded"]:
        print(f"{table}: nothing to embed; version {report['version']} stands.")
    else:
        print(f"{table}: version {report['version']}" + (f", tag '{report['tag']}'" if report["tag"] else ""))
    for column, found in report["columns"].items():
        told = ", ".join(f"{found[name]} {name}" for name in counts if found[name] or name in ("listed", "embedded"))
        print(f"  {column}: {told}")
        if found["rows_per_s"]:
            bare = f"; the model alone {found['model_rows_per_s']:.1f}" if found["model_rows_per_s"] else ""
            print(f"    {found['rows_per_s']:.1f} rows/s{bare}")
        if found["truncated"]:
            print(f"    {found['truncated']} rows hold more text than the model takes (see {column}_truncated)")
    if (found := report.get("deduplicated")) and found["rows_dropped"]:
        print(f"  {found['rows_dropped']} of {found['rows']} rows dropped as duplicates by {found['column']}")
    for index in report["indexes"]:
        recall = f", recall@10 {index['recall']:.3f}" if index["recall"] is not None else ""
        print(f"  search of {index['column']}: {index['type']}{recall}")
    times = ", ".join(f"{name} {value:.1f} s" for name, value in report["seconds"].items())
    if phases := report.get("phases"):
        print("  " + ", ".join(f"{name} {value:.1f} s" for name, value in phases.items()))
    print(f"  {times}; peak memory {report['peak_memory_mb']:.0f} MB")
    if counts["rejected"]:
        print("  rejected objects and why: latentlake rejects URI TABLE")


def print_facts(facts: dict[str, Any]) -> None:
    """Nested values as indented YAML."""
    import yaml

    print(yaml.safe_dump(facts, sort_keys=False, allow_unicode=True, width=120), end="")


def print_rows(rows: list[dict[str, Any]], as_json: bool) -> None:
    """Rows as JSON, or as a table of text."""
    if as_json:
        print(json.dumps(rows, default=str))
        return
    from rich.table import Table

    grid = Table(box=None, pad_edge=False)
    for name in rows[0] if rows else ():
        grid.add_column(name, overflow="fold")
    for row in rows:
        grid.add_row(*("" if value is None else str(value) for value in row.values()))
    if rows:
        print_rich(grid)
    else:
        print("none")


def print_hits(found: SearchResult) -> None:
    """The hits of a search, one line each: score, distance, id, and as much of the text, or of the other columns, as fits."""
    from latentlake.views import BM25, DISTANCE, PLAIN_WIDTH, SCORE, shown_names, text_table

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else PLAIN_WIDTH
    there = found.to_arrow().column_names
    first = [name for name in (SCORE, DISTANCE, "id") if name in there]
    told = (*first, BM25, *(name for name in there if name.startswith(f"{DISTANCE}_")))
    others = [name for name in shown_names(found.to_arrow()) if name not in told]
    rows = [{**{name: hit[name] for name in first}, "snippet": snippet_of(hit, others)} for hit in found]
    print(text_table(rows, [*first, "snippet"], width) if rows else "no hits")


def snippet_of(hit: Mapping[str, Any], columns: Sequence[str]) -> str:
    """The text of a hit; for one without a text, these columns of it."""
    if hit.get("text"):
        return str(hit["text"])
    return ", ".join(f"{name}: {hit[name]}" for name in columns if hit[name] is not None)


def print_rich(value: Any) -> None:
    """Print something that rich can draw; in a pipe lines may be 240 characters long."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else PIPE_WIDTH).print(value)
