"""Commands that keep tables in order: maintain, rollback."""

from __future__ import annotations

import json
from typing import Annotated

import typer

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
    orphan_days: Annotated[
        float, typer.Option(min=0, help="Remove data files that nothing names once they are older.")
    ] = 1,
    wait: Wait = False,
    options: Options = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Compact a table, merge its indexes, remove old versions and orphans. Tags and unfinished runs are safe."""
    from datetime import timedelta

    from latentlake.storage import open_storage
    from latentlake.table import check_table_name
    from pipelines.upkeep.maintain import maintain_table

    check_table_name(table)
    lake = open_storage(uri, parse_options(options))
    keep, orphans = timedelta(days=keep_days), timedelta(days=orphan_days)
    done = maintain_table(lake, table, keep=keep, orphans=orphans, wait=wait)
    print(json.dumps(done)) if as_json else print_facts(done)


@app.command()
def rollback(
    uri: LakeUri,
    table: TableName,
    to: Annotated[
        int | None, typer.Option("--to", metavar="VERSION", help="The version; the one the tag marked before.")
    ] = None,
    tag: Annotated[str, typer.Option(help="The tag to take back.")] = "prod",
    wait: Wait = False,
    options: Options = [],  # noqa: B006
) -> None:
    """Take readers back to an earlier version. The next run builds on it."""
    from latentlake.storage import open_storage
    from latentlake.table import check_table_name
    from pipelines.upkeep.rollback import roll_back

    check_table_name(table)
    before, after = roll_back(open_storage(uri, parse_options(options)), table, tag, to, wait)
    print(f"{uri}/{table}: tag '{tag}' is at version {after}, it was at {before}.")
