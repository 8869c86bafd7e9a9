"""One page about a version of a table. See docs/exploring.md.

Everything is bounded: maps and outliers are of samples, clusters and rejects are counted as they stream by, lists are cut.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from latentlake.exploration.clusters import Cluster
from latentlake.exploration.pages import figure_json, render_page
from latentlake.exploration.plots import PICTURED, plot_table
from latentlake.exploration.points import rows_by_id
from latentlake.exploration.thumbnails import data_uris
from latentlake.opening import open_lance
from latentlake.results import rows_of
from latentlake.table import REJECTS_SUFFIX
from latentlake.tuning.settings import read_settings
from latentlake.views import show_cell
from operators.errors import LatentLakeError, NotFound, SpecError

if TYPE_CHECKING:
    from latentlake.evaluation.results import Evaluation
    from latentlake.table import Table

MAP_ROWS = 5000
CLUSTERS, SAMPLES, PICTURES = 8, 4, 8  # clusters; rows that are shown of each, and pictures
CLUSTER_SAMPLE, OUTLIER_SAMPLE = 20_000, 2_000
OUTLIERS = 12
REJECTS, RUNS = 50, 50  # that are listed
TAG = "prod"


@dataclass(frozen=True)
class Known:
    """What is known of a version besides its table: what the lake's ledger and evaluations say."""

    runs: Sequence[Mapping[str, Any]] = ()  # newest first, as `latentlake runs` has them
    report: Mapping[str, Any] = field(default_factory=dict)  # of the run that made the version
    indexes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # what was measured, by vector column
    evaluations: Sequence[Evaluation] = ()  # newest first


def report_page(
    table: Table, known: Known, *, column: str | None = None, color: str | None = None, method: str | None = None
) -> str:
    """The page, about 5 MB and more with pictures. `column` is mapped, the first vector column unless it is given.

    Raises `NotFound`, `SpecError` (a column or method that is not there), `MissingExtra`.
    """
    chosen = first_column(table, column)
    plot, map_note = tried(lambda: plot_table(table, color, chosen, method, None, MAP_ROWS, 200, 0), chosen)
    found, cluster_note = tried(lambda: table.cluster(clusters=CLUSTERS, column=chosen, sample=CLUSTER_SAMPLE), chosen)
    outliers, outlier_note = tried(lambda: table.outliers(rows=OUTLIERS, column=chosen, sample=OUTLIER_SAMPLE), chosen)
    drift, drift_note = drift_of(table)
    return render_page(
        "report.html",
        title=f"{table.name}, version {table.version}",
        table=table,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        facts=facts_of(table),
        report=known.report,
        columns=[column_facts(table, name) for name in table.vector_columns],
        unreadable=table.unreadable,
        indexes=index_facts(table, known.indexes),
        tuned=tuned_facts(table),
        evaluations=known.evaluations,
        drift=drift,
        drift_note=drift_note,
        column=chosen,
        plot=plot,
        figure=None if plot is None else figure_json(plot.figure),
        map_note=map_note,
        clusters=[] if found is None else cluster_facts(table, chosen, found.clusters, len(found.ids)),
        cluster_note=cluster_note,
        outliers=[] if outliers is None else shown_rows(table, chosen, outliers.to_arrow()),
        outlier_note=outlier_note,
        rejects=reject_facts(table),
        runs=known.runs[:RUNS],
        more_runs=max(len(known.runs) - RUNS, 0),
        cell=show_cell,
    )


def tried(make: Callable[[], Any], column: str | None) -> tuple[Any, str]:
    """What `make` makes, or why it cannot be made of this table: too few rows are no reason to have no page."""
    if column is None:
        return None, "The table has no vector column."
    try:
        return make(), ""
    except NotFound:
        raise
    except SpecError as failure:
        if type(failure) is not SpecError:  # an extra that is missing, a method that is unknown
            raise
        return None, str(failure)


def first_column(table: Table, column: str | None) -> str | None:
    """The column to look at. Raises `NotFound`."""
    if column is not None:
        table.provenance(column)
        return column
    return next(iter(table.vector_columns), None)


def facts_of(table: Table) -> list[tuple[str, str]]:
    """The first lines of the page."""
    version = next((v for v in table.versions() if v.version == table.version), None)
    tags = [tag for tag, number in table.tags().items() if number == table.version]
    return [
        ("rows", f"{table.count():,}"),
        ("vector columns", str(len(table.vector_columns))),
        ("version", str(table.version)),
        ("tags", ", ".join(tags) or "none"),
        ("made", "unknown" if version is None else f"{version.timestamp:%Y-%m-%d %H:%M} UTC"),
        ("by run", (version.run_id if version else None) or "none"),
    ]


def column_facts(table: Table, name: str) -> dict[str, Any]:
    """Where a vector column comes from."""
    made = table.provenance(name)
    identity = dict(made.identity)
    steps = [step.get("op", "") for step in made.chain.get("steps", [])]
    return {
        "name": name,
        "vectors": table.count(f"`{name}` IS NOT NULL"),
        "family": identity.get("family"),
        "model": identity.get("model"),
        "revision": identity.get("revision"),
        "numbers": made.dimension,
        "stored": made.dtype,
        "metric": made.metric,
        "modality": made.modality,
        "steps": " → ".join(map(str, steps)),
        "fingerprint": made.fingerprint,
        "run": made.run_id,
        "created": made.created_at,
    }


def index_facts(table: Table, known: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The indexes of the version, with what was measured of those of vectors; and columns that are searched exactly."""
    told: list[dict[str, Any]] = [vars(index) | {"measured": known.get(index.column, {})} for index in table.indexes()]
    indexed = {index["column"] for index in told if index["metric"]}
    exact = {"type": "none: searched exactly", "rows_indexed": None, "rows_unindexed": None, "segments": None}
    for name in table.vector_columns:
        if name not in indexed:
            told.append(
                {**exact, "column": name, "metric": table.provenance(name).metric, "measured": known.get(name, {})}
            )
    return told


def tuned_facts(table: Table) -> list[dict[str, Any]]:
    """What the searches of each tuned column were measured to find, without a filter and under filters."""
    told = []
    for name in table.vector_columns:
        settings = read_settings(table.schema, name)
        if settings is None:
            continue
        whole = {"filter": "no filter", "measured": settings.measured}
        parts = [
            {"filter": f"a filter that keeps {part.share:.0%}", "measured": part.measured} for part in settings.filtered
        ]
        told.append({"column": name, "settings": settings, "searches": [whole, *parts]})
    return told


def drift_of(table: Table) -> tuple[list[tuple[str, Any]], str]:
    """Drift of each vector column against the version that readers have, and why there is none."""
    from latentlake.comparison.drift import drift, sample_of

    marked = table.tags().get(TAG)
    if marked is None:
        return [], f"No tag '{TAG}': readers have the newest version."
    if marked == table.version:
        return [], f"Readers of '{TAG}' have this version."
    before = table.checkout(TAG)
    found, notes = [], [f"Against version {marked}, which '{TAG}' marks."]
    for name in table.vector_columns:
        if name not in before.vector_columns:
            notes.append(f"Column '{name}' is new.")
            continue
        try:
            found.append((name, drift(sample_of(before, name), sample_of(table, name))))
        except LatentLakeError as failure:
            notes.append(f"{name}: {failure}")
    return found, " ".join(notes)


def cluster_facts(table: Table, column: str | None, clusters: Sequence[Cluster], rows: int) -> list[dict[str, Any]]:
    """Each cluster with rows nearest to its centre."""
    pictured = column is not None and table.provenance(column).modality in PICTURED
    count = PICTURES if pictured else SAMPLES
    return [
        {
            "label": cluster.label,
            "rows": cluster.rows,
            "share": cluster.rows / rows,
            "samples": shown_rows(table, column, rows_by_id(table, list(cluster.examples)[:count])),
        }
        for cluster in clusters
    ]


def shown_rows(table: Table, column: str | None, found: Any) -> list[dict[str, Any]]:
    """Rows as the page shows them: id, picture, text, and score where they have one."""
    rows = rows_of(found)
    pictured = column is not None and table.provenance(column).modality in PICTURED and "uri" in found.column_names
    pictures = data_uris([row["uri"] for row in rows], table._storage.options) if pictured else [""] * len(rows)
    left_out = {"id", "object_id", "uri", "text", "outlier_score"}
    return [
        {
            "id": show_cell(row["id"]),
            "picture": picture,
            "text": show_cell(row.get("text")),
            "score": row.get("outlier_score"),
            "others": "; ".join(
                f"{name}: {show_cell(row[name])}"
                for name in list(row)[:12]
                if name not in left_out and row[name] is not None
            ),
        }
        for row, picture in zip(rows, pictures, strict=True)
    ]


def reject_facts(table: Table) -> dict[str, Any]:
    """How many objects were left out, by what became of them and where; and the first of them. Streams."""
    counts: Counter[tuple[str, str]] = Counter()
    first: list[dict[str, Any]] = []
    names = ["object_id", "column", "outcome", "stage", "error"]
    dataset = open_lance(table._storage.child(f"{table.name}{REJECTS_SUFFIX}.lance"))
    for batch in [] if dataset is None else dataset.to_batches(columns=names):
        rows = batch.to_pylist()
        counts.update((row["outcome"], row["stage"]) for row in rows)
        first += rows[: max(REJECTS - len(first), 0)]
    return {"counts": counts.most_common(), "first": first, "more": sum(counts.values()) - len(first)}
