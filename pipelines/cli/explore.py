"""Commands that look at a table as a whole: duplicates, explore, project, report."""

from __future__ import annotations

import json
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.options import (
    AsJson,
    LakeUri,
    Options,
    TableName,
    Tag,
    Version,
    Wait,
    app,
    open_table,
    parse_options,
)
from pipelines.cli.printing import print_facts, print_rows

if TYPE_CHECKING:
    from latentlake.exploration.report import Known
    from latentlake.storage import Storage
    from latentlake.table import Table

PAIRS_SHOWN = 20

Column = Annotated[str | None, typer.Option(help="Vector column to look at. Default: the first.")]
Color = Annotated[str | None, typer.Option(help="Color the map by this column.")]
Method = Annotated[
    str | None, typer.Option(help="Make the map by umap, tsne or pca. Default: the map that the table keeps, or umap.")
]


@app.command()
def project(
    uri: LakeUri,
    table: TableName,
    store: Annotated[
        str, typer.Option("--store", metavar="NAME", help="Keep the map as the columns NAME_x and NAME_y.")
    ],
    column: Annotated[str | None, typer.Option(help="Vector column to map; needed if there are several.")] = None,
    method: Annotated[str, typer.Option(help="umap, tsne or pca.")] = "umap",
    fit_rows: Annotated[
        int | None, typer.Option(help="Fit the map on so many rows. Default: 50,000; tsne 10,000.")
    ] = None,
    neighbors: Annotated[int, typer.Option(help="How many neighbors a row is placed by.")] = 15,
    seed: Annotated[int, typer.Option(help="The same seed makes the same map.")] = 0,
    wait: Wait = False,
    options: Options = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Map the vectors of the newest version, and keep the map in the table. Rows that change later have none until it is made again."""
    from latentlake.names import check_table_name
    from latentlake.storage import open_storage
    from pipelines.upkeep.maps import store_map

    check_table_name(table)
    lake = open_storage(uri, parse_options(options))
    done = store_map(
        lake, table, store, column=column, method=method, fit_rows=fit_rows, neighbors=neighbors, seed=seed, wait=wait
    )
    print(json.dumps(done)) if as_json else print_facts(done)


@app.command()
def report(
    uri: LakeUri,
    table: TableName,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="The page to write.")],
    column: Column = None,
    color: Color = None,
    method: Method = None,
    tag: Tag = None,
    version: Version = None,
    options: Options = [],  # noqa: B006
) -> None:
    """Write a page (HTML) about a version of a table: counts, provenance, indexes, evaluation, drift, map, clusters, outliers, rejects, runs."""
    from latentlake.exploration.report import report_page
    from latentlake.storage import open_storage

    found = open_table(uri, table, tag, version, options)
    known = what_is_known(open_storage(uri, parse_options(options)), found)
    page = report_page(found, known, column=column, color=color, method=method)
    output.write_text(page, encoding="utf-8")
    print(f"{output}: {found.name} at version {found.version}, {output.stat().st_size / 2**20:.1f} MB")


@app.command()
def duplicates(
    uri: LakeUri,
    table: TableName,
    threshold: Annotated[
        float, typer.Option(min=0, help="How far apart a pair is at most, by the column's metric.")
    ] = 0.05,
    column: Annotated[
        str | None, typer.Option(help="Vector column to compare by; needed if there are several.")
    ] = None,
    where: Annotated[str | None, typer.Option(help="SQL filter: only rows that it keeps.")] = None,
    keep: Annotated[
        str, typer.Option(help="Of rows near each other keep the one nearest to, or farthest from, the centre.")
    ] = "nearest",
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="Write the rows one could do without: id, duplicate_of, distance (CSV).",
        ),
    ] = None,
    tag: Tag = None,
    version: Version = None,
    options: Options = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """List rows whose vectors are nearly equal, nearest first. Deletes nothing."""
    from pyarrow import csv

    found = open_table(uri, table, tag, version, options).duplicates(threshold, column=column, where=where, keep=keep)
    if output is not None:
        csv.write_csv(found.redundant, output)
    told = {
        "rows": found.rows,
        "pairs": len(found),
        "redundant": found.redundant.num_rows,
        "equal_content": found.equal_content.num_rows,
        "all_pairs_compared": found.is_exhaustive,
    }
    if as_json:
        print(json.dumps(told | {"nearest": found.pairs.slice(0, PAIRS_SHOWN).to_pylist()}))
    else:
        print_facts(told)
        print_rows(found.pairs.slice(0, PAIRS_SHOWN).to_pylist(), False)


@app.command()
def explore(
    uri: LakeUri,
    table: TableName,
    column: Column = None,
    method: Method = None,
    where: Annotated[str | None, typer.Option(help="SQL filter: only rows that it keeps.")] = None,
    rows: Annotated[int, typer.Option(min=5, help="Show so many rows at most, taken at random.")] = 20_000,
    port: Annotated[int, typer.Option(help="Port on this machine.")] = 5055,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write the rows (Parquet), and open nothing.")
    ] = None,
    tag: Tag = None,
    version: Version = None,
    options: Options = [],  # noqa: B006
) -> None:
    """Open a table in Apple's embedding-atlas, in an environment of its own (needs uv; 6 GB at the first time)."""
    from latentlake.exploration.atlas import atlas_command, write_atlas

    with tempfile.TemporaryDirectory(prefix="latentlake-") as folder:
        path = output or Path(folder) / f"{table}.parquet"
        command = [] if output else atlas_command(path, [], port)  # before the work, in case that uv is missing
        found = open_table(uri, table, tag, version, options)
        named = write_atlas(found, path, column=column, method=method, where=where, rows=rows)
        if output:
            print(f"{output}: open it with\n  {shlex.join(['embedding-atlas', str(output), *named])}")
            return
        command = atlas_command(path, named, port)
        print(f"opening {found.name} at version {found.version}; Ctrl-C ends it")
        raise typer.Exit(subprocess.call(command))


def what_is_known(lake: Storage, table: Table) -> Known:
    """What the ledger and the evaluations say of a version."""
    from latentlake.evaluation.records import read_evaluations
    from latentlake.exploration.report import Known
    from pipelines.publish.indexes import known_indexes
    from pipelines.state.lease import find_holder
    from pipelines.state.ledger import WORK_FOLDER, read_report, read_runs
    from pipelines.state.manifest import described_runs

    name, version = table.name, table.version
    holder = find_holder(lake.child(WORK_FOLDER, name))
    lines = read_runs(lake, name, f"head = {version} OR version = {version}")
    made = next((found.run_id for found in table.versions() if found.version == version), None)
    lines.sort(
        key=lambda line: line["run_id"] != made
    )  # the run that committed it, else the latest that left it as it was
    reports = [{"run_id": line["run_id"], **read_report(line["report"])} for line in lines]
    return Known(
        runs=described_runs(lake, name, holder is not None),
        report=next((found for found in reports if found.get("columns")), {}),
        indexes={column: vars(index) for column, index in known_indexes(lake, name, version).items()},
        evaluations=read_evaluations(lake, name, version)[::-1],
    )
