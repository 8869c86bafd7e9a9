"""Commands that set two models, versions or tables side by side: compare, align."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from operators.errors import InvalidSpec
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
    parse_options,
)


@app.command()
def compare(
    uri: LakeUri,
    table: TableName,
    other: Annotated[
        str | None, typer.Argument(metavar="OTHER", help="Another table of the lake, to compare with.")
    ] = None,
    versions: Annotated[
        tuple[str, str] | None,
        typer.Option("--versions", metavar="BEFORE AFTER", help="Versions or tags, one of each side."),
    ] = None,
    columns: Annotated[
        tuple[str, str] | None,
        typer.Option("--columns", metavar="BEFORE AFTER", help="Vector columns, one of each side."),
    ] = None,
    k: Annotated[int, typer.Option("-k", help="Neighbours per row.")] = 10,
    segment: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Tell neighbours and drift by the values of this column, too.")
    ] = None,
    suite: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Evaluate both sides on this suite, see docs/evaluation.md.")
    ] = None,
    page: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page (HTML), too.")] = None,
    models: ModelPaths = [],  # noqa: B006
    allow_downloads: AllowDownloads = False,
    trust_remote_code: TrustCode = False,
    allow_hosts: AllowHosts = [],  # noqa: B006
    allow_models: AllowModels = [],  # noqa: B006
    options: Options = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Compare two versions of a table, two of its columns, or two tables: rows, neighbours, drift, measures."""
    from latentlake.comparison.compare import compare as compare_tables

    if versions is None and columns is None and other is None:
        raise InvalidSpec(["name --versions BEFORE AFTER, --columns BEFORE AFTER, or another table."], "options")
    lake = open_lake(
        uri,
        options,
        models=parse_options(models),
        trust_remote_code=trust_remote_code,
        allow_downloads=allow_downloads,
        allow_hosts=allow_hosts,
        allow_models=allow_models,
    )
    names = (table, table if other is None else other)
    marks = versions or (None, None)
    sides = [open_at(lake, name, mark) for name, mark in zip(names, marks, strict=True)]
    column, other_column = columns or (None, None)
    found = compare_tables(*sides, column=column, other_column=other_column, k=k, segment=segment, suite=suite)
    if page is not None:
        found.write_page(page)
    print(json.dumps(found.to_json()) if as_json else found)


@app.command()
def align(
    uri: LakeUri,
    table: TableName,
    column: Annotated[str, typer.Option("--from", metavar="OLD", help="Vector column that queries are to search.")],
    new_column: Annotated[str, typer.Option("--to", metavar="NEW", help="Vector column whose model embeds them.")],
    pairs: Annotated[
        str | None, typer.Option(metavar="TABLE", help="Another table that has the new column, perhaps of few rows.")
    ] = None,
    pairs_at: Annotated[
        str | None, typer.Option("--pairs-at", metavar="VERSION", help="Version or tag that has the new column.")
    ] = None,
    sample: Annotated[int, typer.Option(help="Rows with both vectors to fit on, at most.")] = 20_000,
    methods: Annotated[
        list[str], typer.Option("--method", metavar="NAME", help="Try this kind of map only; repeat it for several.")
    ] = [],  # noqa: B006
    tag: Tag = None,
    version: Version = None,
    options: Options = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Fit a bridge: queries of a new model search the column of an old one. Measures it, and keeps it in the lake."""
    from pipelines.cli.printing import print_facts

    lake = open_lake(uri, options)
    source = None if pairs is None and pairs_at is None else open_at(lake, pairs or table, pairs_at)
    bridge = lake.open(table, tag=tag, version=version).align(
        column, new_column, pairs=source, sample=sample, methods=methods or None
    )
    print(json.dumps(bridge.facts())) if as_json else print_facts(bridge.facts())


def open_at(lake: Any, name: str, mark: str | None) -> Any:
    """A table at a version, where `mark` is a number, or at a tag."""
    if mark is None:
        return lake.open(name)
    return lake.open(name, version=int(mark)) if mark.isdecimal() else lake.open(name, tag=mark)
