"""Commands that read tables."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pipelines.cli.options import (
    AllowDownloads,
    AllowHosts,
    AllowModels,
    AsJson,
    LakeUri,
    ModelPaths,
    Options,
    TableName,
    Tag,
    TrustCode,
    Version,
    app,
    open_lake,
    open_table,
    parse_options,
)
from pipelines.cli.printing import print_facts, print_hits, print_rows

if TYPE_CHECKING:
    from latentlake.building import IndexReport


@app.command()
def search(
    uri: LakeUri,
    table: TableName,
    query: Annotated[str | None, typer.Argument(help="The text to search for.")] = None,
    k: Annotated[int, typer.Option("-k", help="How many hits.")] = 10,
    column: Annotated[
        list[str], typer.Option(help="Vector column to search; needed if several fit. Repeat it to fuse several.")
    ] = [],  # noqa: B006
    where: Annotated[str | None, typer.Option(help="SQL filter, applied before the search.")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", metavar="FILE", help="Search with this file: a text, a picture or a sound.")
    ] = None,
    row: Annotated[
        list[str], typer.Option("--id", metavar="ID", help="Search for rows like this one; repeat it for several.")
    ] = [],  # noqa: B006
    exact: Annotated[bool, typer.Option(help="Do not use the index.")] = False,
    mode: Annotated[
        Literal["vector", "text", "hybrid"],
        typer.Option(help="Rank by vectors, by the words of the query, or by both."),
    ] = "vector",
    match: Annotated[
        Literal["any", "all", "phrase", "query"],
        typer.Option(help="How words match; 'query' reads +must -not \"a phrase\" word~1."),
    ] = "any",
    fuzzy: Annotated[int, typer.Option(help="Letters of a word that may differ, 0 to 2.")] = 0,
    offset: Annotated[int, typer.Option(help="Leave out so many of the first hits.")] = 0,
    group_by: Annotated[
        str | None,
        typer.Option("--group-by", metavar="COLUMN", help="The best hit only of each value, as of object_id."),
    ] = None,
    mmr: Annotated[
        float | None, typer.Option(help="Fewer hits of one kind: 0 is diversity alone, 1 the plain order.")
    ] = None,
    rerank: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Rank the best 100 again by this cross-encoder: a folder.")
    ] = None,
    bridge: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Embed the query by the model of this column, and map it: see `align`."),
    ] = None,
    models: ModelPaths = [],  # noqa: B006
    allow_downloads: AllowDownloads = False,
    trust_remote_code: TrustCode = False,
    allow_hosts: AllowHosts = [],  # noqa: B006
    allow_models: AllowModels = [],  # noqa: B006
    tag: Tag = None,
    version: Version = None,
    options: Options = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Search a table by text, file or row. Prints the score or distance, the id and a snippet of each hit."""
    trust = {
        "allow_downloads": allow_downloads,
        "trust_remote_code": trust_remote_code,
        "allow_hosts": allow_hosts,
        "allow_models": allow_models,
    }
    found = open_table(uri, table, tag, version, options, models=parse_options(models), **trust).search(
        query if file is None else file,
        id=one_or_all(row),
        k=k,
        offset=offset,
        column=one_or_all(column),
        where=where,
        exact=exact,
        mode=mode,
        match=match,
        fuzzy=fuzzy,
        group_by=group_by,
        mmr=mmr,
        rerank=rerank,
        bridge=bridge,
    )
    if as_json:
        print(json.dumps(found.to_list(), default=str))
    else:
        print_hits(found)


def one_or_all(given: list[str]) -> str | list[str] | None:
    """The values of an option that may be repeated, as `Table.search` takes them."""
    return None if not given else given[0] if len(given) == 1 else given


@app.command()
def tables(uri: LakeUri, options: Options = [], as_json: AsJson = False) -> None:  # noqa: B006
    """List the tables of a lake."""
    names = open_lake(uri, options).tables()
    print(json.dumps(names) if as_json else "\n".join(names) or "no tables")


@app.command()
def show(
    uri: LakeUri,
    table: TableName,
    tag: Tag = None,
    version: Version = None,
    options: Options = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Show a table: schema, where its vectors come from, counts, indexes, tags."""
    from latentlake.storage import open_storage
    from pipelines.publish.indexes import known_indexes

    found = open_table(uri, table, tag, version, options)
    known = known_indexes(open_storage(uri, parse_options(options)), found.name, found.version)
    described = {
        "table": found.name,
        "version": found.version,
        "tags": found.tags(),
        "rows": found.count(),
        "schema": {field.name: str(field.type) for field in found.schema},
        "columns": {column: describe_column(found, column, known.get(column)) for column in found.vector_columns}
        | {column: {"unreadable": why} for column, why in found.unreadable.items()},
        "indexes": [vars(index) for index in found.indexes()],
        "rejects": found.rejects().num_rows,
    }
    if as_json:
        print(json.dumps(described))
    else:
        print_facts(described)


@app.command()
def versions(uri: LakeUri, table: TableName, options: Options = [], as_json: AsJson = False) -> None:  # noqa: B006
    """List the versions of a table, with their tags and the runs that made them."""
    rows = [
        {
            "version": v.version,
            "time": v.timestamp.isoformat(timespec="seconds"),
            "rows": v.rows,
            "tags": ", ".join(v.tags),
            "run_id": v.run_id or "",
        }
        for v in open_table(uri, table, None, None, options).versions()
    ]
    print_rows(rows, as_json)


@app.command()
def rejects(
    uri: LakeUri,
    table: TableName,
    limit: Annotated[int, typer.Option(help="How many to print.")] = 50,
    options: Options = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """List the objects that are not in the table, and why. Includes those of a run that published nothing."""
    found = open_lake(uri, options).rejects(table)
    rows = found.slice(0, limit).to_pylist()
    print_rows(rows, as_json)
    if not as_json and found.num_rows > limit:
        print(f"… and {found.num_rows - limit} more (--limit).")


@app.command()
def runs(
    uri: LakeUri,
    table: TableName,
    report: Annotated[
        str | None, typer.Option(metavar="RUN", help="Print the report of this run, or of the `last` one, instead.")
    ] = None,
    options: Options = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """List the runs of a table: state, counts, versions. Includes the run under way and those that can be resumed."""
    from latentlake.names import check_table_name
    from latentlake.storage import open_storage
    from pipelines.state.lease import find_holder
    from pipelines.state.ledger import WORK_FOLDER
    from pipelines.state.manifest import described_runs
    from pipelines.state.reports import find_report, to_markdown

    check_table_name(table)
    lake = open_storage(uri, parse_options(options))
    if report is not None:
        found_report = find_report(lake, table, report)
        print(json.dumps(found_report) if as_json else to_markdown(found_report), end="\n" if as_json else "")
        return
    holder = find_holder(lake.child(WORK_FOLDER, table))
    found = described_runs(lake, table, holder is not None)
    if not found:
        open_lake(uri, options).open(table)  # raises `NotFound`, naming the tables that there are
    print_rows(found, as_json)


def describe_column(table: Any, column: str, known: IndexReport | None) -> dict[str, Any]:
    """What `show` says about a vector column. Vectors are those that a run has counted; null where none has."""
    from latentlake.building import describe_tuned
    from latentlake.tuning.settings import read_settings

    provenance, tuned = table.provenance(column), read_settings(table.schema, column)
    identity = dict(provenance.identity)
    return {
        "fingerprint": provenance.fingerprint,
        "dimension": provenance.dimension,
        "metric": provenance.metric,
        "vectors": None if known is None else known.rows,
        "run_id": provenance.run_id,
        **({} if tuned is None else {"index": describe_tuned(asdict(tuned))}),
        **{name: identity[name] for name in ("family", "model", "revision", "dtype", "preprocess") if name in identity},
    }
