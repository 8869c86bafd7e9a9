"""The reports of a table's runs as files beside it: JSON, and Markdown for people who browse the lake.

The ledger has the same reports, and is what is read. Files are kept of the newest runs alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from latentlake.filters import sql_string
from latentlake.storage import Storage
from operators.errors import NotFound
from pipelines.state.ledger import REPORT, read_report, read_runs

REPORTS_FOLDER = "reports"  # in the table's folder of work
LAST = "last"
KEPT = 100  # runs whose reports stay
BESIDE = ("removed", "left_out", "forgotten")  # counts outside the equation, shown where there are some


def write_report(folder: Storage, report: Mapping[str, Any]) -> None:
    """Write a run's report into the table's folder of work, in place of the one it may have; the oldest go."""
    place, run_id = folder.child(REPORTS_FOLDER), report["run_id"]
    place.put(f"{run_id}.json", REPORT.write(dict(report)).encode())
    place.put(f"{run_id}.md", to_markdown(report).encode())
    for name in place.list_names()[: -2 * KEPT]:  # names sort by when the runs began
        place.remove(name)


def rewrite_report(folder: Storage, report: Mapping[str, Any]) -> None:
    """Write a report where there are files of its run."""
    place = folder.child(REPORTS_FOLDER)
    if place.fs.exists(place.path(f"{report['run_id']}.json")):
        write_report(folder, report)


def find_report(lake: Storage, table: str, run_id: str) -> dict[str, Any]:
    """The report of a run, or of the `last` one that has one, from the ledger. Raises `NotFound`."""
    lines = read_runs(lake, table, "true" if run_id == LAST else f"run_id = {sql_string(run_id)}")
    for line in lines:
        if report := read_report(line["report"]):
            return {"run_id": line["run_id"], "state": line["state"], **report}
    raise NotFound(
        f"no report of run '{run_id}' of table '{table}' in lake '{lake.uri}'.\n  List its runs: latentlake runs URI {table}"
    )


def to_markdown(report: Mapping[str, Any]) -> str:
    """A run's report (see docs/report.md) as a page."""
    return "\n".join(lines_of(report)) + "\n"


def lines_of(report: Mapping[str, Any]) -> Iterator[str]:
    """The lines of `to_markdown`. What a run that did not get far has not found out is left out."""
    yield f"# Run {report['run_id']}: {report.get('state', 'unknown')}"
    yield ""
    if "table" in report:
        tag = f", tag `{report['tag']}`" if report.get("tag") else ""
        yield f"Table `{report['table']}`, version {report.get('version')}{tag}. Runner: {report.get('runner')}."
    if "error" in report:
        yield from ("", "```", *str(report["error"]).replace("```", "'''").splitlines(), "```")
    if columns := report.get("columns"):
        yield from columns_table(columns)
    if gates := report.get("gates"):
        yield from ("", "| gate | held | why |", "| --- | --- | --- |")
        for gate in gates:
            yield f"| {gate['name']} | {'yes' if gate['held'] else 'no'} | {cell(gate['why'])} |"
    if indexes := report.get("indexes"):
        yield from ("", "| search of | index | rows | recall@10 |", "| --- | --- | --- | --- |")
        for index in indexes:
            yield f"| {index['column']} | {index['type']} | {index['rows']} | {shown(index['recall'])} |"
    if phases := report.get("phases"):
        yield from ("", "| phase | seconds |", "| --- | --- |")
        yield from (f"| {phase} | {seconds:.1f} |" for phase, seconds in phases.items())
    if "shards" in report:
        yield ""
        yield (
            f"{report['rows_written']} rows written in {report['shards']} shards ({report['shards_taken_over']} taken over), "
            f"{report['objects_read']} objects and {report['bytes_read']} bytes read, peak memory {shown(report['peak_memory_mb'])} MiB."
        )
    for column, fingerprint in report.get("fingerprints", {}).items():
        yield from ("", f"Fingerprint of `{column}`: `{fingerprint}`")


def columns_table(columns: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """What became of the objects, and how fast, by vector column."""
    counts = ["listed", "embedded", "reused", "unchanged", "filtered", "rejected"]
    names = [*counts, *(name for name in BESIDE if any(found.get(name) for found in columns.values()))]
    yield from ("", f"| column | {' | '.join(names)} | rows/s | model rows/s |", "| --- " * (len(names) + 3) + "|")
    for column, found in columns.items():
        values = [*(found.get(name) for name in names), found.get("rows_per_s"), found.get("model_rows_per_s")]
        yield f"| {column} | {' | '.join(map(shown, values))} |"


def shown(value: Any) -> str:
    """A number for people; a dash where there is none."""
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) and value < 100 else f"{value:.0f}"


def cell(text: str) -> str:
    """Text that stays in its cell."""
    return " ".join(str(text).replace("|", "\\|").split())
