"""Commands that keep tables in order: maintain, delete."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from operators.errors import InvalidSpec
from pipelines.cli.options import (
    AsJson,
    LakeUri,
    Options,
    TableName,
    Wait,
    app,
    parse_options,
)
from pipelines.cli.printing import print_facts


@app.command()
def maintain(
    uri: LakeUri,
    table: TableName,
    keep_days: Annotated[float, typer.Option(min=0, help="Remove untagged versions that are older.")] = 7,
    orphan_days: Annotated[float, typer.Option(min=0, help="Remove unreferenced data files that are older.")] = 1,
    wait: Wait = False,
    options: Options = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Compact a table, merge its indexes, remove old versions and orphans. Keeps tags and unfinished runs."""
    from datetime import timedelta

    from latentlake.names import check_table_name
    from latentlake.storage import open_storage
    from pipelines.upkeep.maintain import maintain_table

    check_table_name(table)
    lake = open_storage(uri, parse_options(options))
    keep, orphans = timedelta(days=keep_days), timedelta(days=orphan_days)
    done = maintain_table(lake, table, keep=keep, orphans=orphans, wait=wait)
    print(json.dumps(done)) if as_json else print_facts(done)


@app.command()
def delete(
    uri: LakeUri,
    table: TableName,
    ids: Annotated[
        Path | None,
        typer.Option("--ids", metavar="FILE", help="Objects to delete: a file with one object id per line."),
    ] = None,
    where: Annotated[
        str | None, typer.Option(metavar="SQL", help="Delete objects with a row for which this SQL filter holds.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--allow-again", help="Delete nothing: let the next run read the objects of --ids again.")
    ] = False,
    wait: Wait = False,
    options: Options = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Delete objects for good: from every version, from rejects and records. The next run does not bring them back."""
    from latentlake.names import check_table_name
    from latentlake.storage import open_storage
    from pipelines.job.jobfile import read_text
    from pipelines.upkeep.delete import allow_again, delete_objects

    check_table_name(table)
    if (ids is None) == (where is None) or (again and ids is None):
        raise InvalidSpec(["give --ids FILE or --where SQL, one of them; --allow-again takes --ids."], "options")
    names = [] if ids is None else [line for line in read_text(ids).splitlines() if line]
    lake = open_storage(uri, parse_options(options))
    if again:
        done = {"table": table, "objects_allowed_again": allow_again(lake, table, names, wait)}
    else:
        done = delete_objects(lake, table, names, where, wait)
    print(json.dumps(done)) if as_json else print_facts(done)
