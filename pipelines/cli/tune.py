"""The command that tunes the index of a table."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from operators.errors import SpecError
from pipelines.cli.options import (
    AllowDownloads,
    AllowHosts,
    AllowModels,
    AsJson,
    LakeUri,
    ModelPaths,
    Options,
    TableName,
    TrustCode,
    Wait,
    app,
    open_lake,
    parse_options,
    query_models,
)
from pipelines.cli.printing import print_facts


@app.command()
def tune(
    uri: LakeUri,
    table: TableName,
    column: Annotated[str | None, typer.Option(help="Vector column; needed if the table has several.")] = None,
    target: Annotated[float, typer.Option("--target", min=0.01, max=1, help="Recall that search has to meet.")] = 0.95,
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="Of so many nearest rows.")] = 10,
    max_p95_ms: Annotated[
        float | None, typer.Option("--max-p95-ms", min=0.1, help="Time that one query in twenty may exceed.")
    ] = None,
    type: Annotated[str, typer.Option("--type", help="Kind of index; auto chooses.")] = "auto",
    queries: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Queries: Parquet or JSON lines with a column text, file or vector."),
    ] = None,
    models: ModelPaths = [],  # noqa: B006
    allow_downloads: AllowDownloads = False,
    trust_remote_code: TrustCode = False,
    allow_hosts: AllowHosts = [],  # noqa: B006
    allow_models: AllowModels = [],  # noqa: B006
    wait: Wait = False,
    options: Options = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Choose and build the index that meets a recall at the lowest latency. Measured with queries that tuned nothing."""
    from latentlake.names import check_table_name
    from latentlake.storage import open_storage
    from latentlake.tuning.goal import Goal
    from pipelines.upkeep.tune import tune_table

    check_table_name(table)
    lake = open_storage(uri, parse_options(options))
    chosen = column or only_column(open_lake(uri, options).open(table).vector_columns, table)
    done = tune_table(
        lake,
        table,
        chosen,
        Goal(target, k, max_p95_ms),
        query_models(models, allow_downloads, trust_remote_code, allow_hosts, allow_models),
        type=type,  # type: ignore[arg-type]  # an unknown one is refused where it is looked up
        queries=queries,
        wait=wait,
    )
    print(json.dumps(done)) if as_json else print_facts(shown(done))


def only_column(columns: list[str], table: str) -> str:
    """The vector column of a table that has one. Raises `SpecError`."""
    if len(columns) != 1:
        raise SpecError(f"table '{table}' has {len(columns)} vector columns; name one: --column {'|'.join(columns)}")
    return columns[0]


def shown(done: dict[str, Any]) -> dict[str, Any]:
    """What was found, in few lines."""
    from latentlake.building import describe_tuned

    facts = {name: done[name] for name in ("table", "version_before", "version", "tags_moved", "seconds")}
    return facts | {"index": describe_tuned(done["indexes"][0]["tuned"])}
