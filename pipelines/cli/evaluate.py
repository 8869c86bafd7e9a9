"""Commands that measure how good a table is: eval, evals."""

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
    open_table,
    parse_options,
)
from pipelines.cli.printing import print_rows

JOB_SUFFIXES = (".yaml", ".yml")


@app.command("eval")
def evaluate(
    place: Annotated[
        str, typer.Argument(metavar="JOB_OR_URI", help="The lake: a folder, or s3://bucket/prefix; or a job.")
    ],
    table: Annotated[str | None, typer.Argument(metavar="TABLE", help="The table's name; a job names its own.")] = None,
    suite: Annotated[Path | None, typer.Option(metavar="FILE", help="The suite, see docs/evaluation.md.")] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option("--column", metavar="NAME", help="Evaluate only this vector column; may be repeated."),
    ] = None,
    record: Annotated[bool, typer.Option("--record/--no-record", help="Keep the results in the lake.")] = True,
    resamples: Annotated[int, typer.Option(help="Bootstrap resamples that an interval stands on.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of samples, splits and resamples.")] = 0,
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
    """Evaluate a table with a suite: figures with their intervals, kept in the lake by version."""
    if suite is None:
        raise InvalidSpec(["--suite is missing; name the file with the tasks."], "options")
    uri, name, given = find_table(place, table, options)
    import latentlake

    lake = latentlake.connect(
        uri,
        given,
        parse_options(models),
        trust_remote_code=trust_remote_code,
        allow_downloads=allow_downloads,
        allow_hosts=allow_hosts,
        allow_models=allow_models,
    )
    found = lake.open(name, tag=tag, version=version).evaluate(
        suite, columns=columns or None, resamples=resamples, seed=seed, record=record
    )
    print(found.to_json() if as_json else found)


@app.command()
def evals(
    uri: LakeUri,
    table: TableName,
    version: Annotated[int | None, typer.Option(help="Of this version only.")] = None,
    options: Options = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """List what `eval` kept of a table, the latest last."""
    found = open_table(uri, table, None, None, options).evaluations(version)
    if as_json:
        print(json.dumps([json.loads(one.to_json()) for one in found]))
        return
    rows = [{"version": one.version, "suite": one.suite, **row} for one in found for row in one.to_cells()]
    print_rows(rows, False)


def find_table(place: str, table: str | None, options: list[str]) -> tuple[str, str, dict[str, Any]]:
    """Lake, name and storage options of a table, named by its lake or by the job that writes it. Raises `InvalidSpec`."""
    if not place.endswith(JOB_SUFFIXES):
        if table is None:
            raise InvalidSpec(["TABLE is missing; a lake needs the table's name."], "options")
        return place, table, parse_options(options)
    from pipelines.job.jobfile import load_job

    spec = load_job(place).table
    if table not in (None, spec.name):
        raise InvalidSpec([f"the job writes table '{spec.name}', not '{table}'; leave TABLE out."], place)
    return spec.uri, spec.name, {**spec.storage_options, **parse_options(options)}
