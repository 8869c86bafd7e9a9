"""Commands that say what readers see: publish, promote, rollback, tags."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from operators.errors import GateRefused
from pipelines.cli.options import (
    AllowDownloads,
    AllowHosts,
    AllowModels,
    AsJson,
    GatesOf,
    LakeUri,
    ModelPaths,
    Options,
    TableName,
    TrustCode,
    Wait,
    app,
    open_table,
    parse_options,
    query_models,
)
from pipelines.cli.printing import print_rows

Why = Annotated[str, typer.Option("--why", metavar="TEXT", help="Why; the log of the tags keeps it.")]


@app.command()
def publish(
    uri: LakeUri,
    table: TableName,
    version: Annotated[int | None, typer.Option(help="Version to publish. Default: the newest.")] = None,
    tag: Annotated[str, typer.Option(help="Tag to move.")] = "prod",
    force: Annotated[
        bool, typer.Option("--force", help="Move the tag whatever the gates say; --why is needed then.")
    ] = False,
    why: Why = "",
    job: GatesOf = None,
    models: ModelPaths = [],  # noqa: B006
    allow_downloads: AllowDownloads = False,
    trust_remote_code: TrustCode = False,
    allow_hosts: AllowHosts = [],  # noqa: B006
    allow_models: AllowModels = [],  # noqa: B006
    wait: Wait = False,
    options: Options = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Ask a version's gates, and move the tag to it if they hold (exit code 3 if not)."""
    from latentlake.names import check_table_name
    from latentlake.storage import open_storage
    from pipelines.job.jobfile import load_job
    from pipelines.upkeep.publish import publish_version

    check_table_name(table)
    with told_if_refused(as_json):
        done = publish_version(
            open_storage(uri, parse_options(options)),
            table,
            version,
            tag,
            force=force,
            why=why,
            job=None if job is None else load_job(job),
            models=query_models(models, allow_downloads, trust_remote_code, allow_hosts, allow_models),
            wait=wait,
        )
    print_move(f"{uri}/{table}", done, as_json)


@app.command()
def promote(
    uri: LakeUri,
    table: TableName,
    source: Annotated[str, typer.Argument(metavar="FROM", help="Tag whose version is promoted, such as candidate.")],
    tag: Annotated[str, typer.Argument(metavar="TO", help="Tag to move there, such as prod.")],
    condition: Annotated[
        str | None,
        typer.Option("--if", metavar="CONDITION", help="Move only if this is true: 'ndcg@10 >= prod - 0.01'."),
    ] = None,
    suite: Annotated[
        Path | None, typer.Option("--suite", metavar="FILE", help="Measure by this suite. Default: that of the job.")
    ] = None,
    why: Why = "",
    job: GatesOf = None,
    models: ModelPaths = [],  # noqa: B006
    allow_downloads: AllowDownloads = False,
    trust_remote_code: TrustCode = False,
    allow_hosts: AllowHosts = [],  # noqa: B006
    allow_models: AllowModels = [],  # noqa: B006
    wait: Wait = False,
    options: Options = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Put one tag on the version that another marks, if a condition and the gates hold (exit code 3 if not)."""
    from latentlake.names import check_table_name
    from latentlake.storage import open_storage
    from pipelines.job.jobfile import load_job
    from pipelines.upkeep.promote import promote as promote_tag

    check_table_name(table)
    with told_if_refused(as_json):
        done = promote_tag(
            open_storage(uri, parse_options(options)),
            table,
            source,
            tag,
            condition,
            suite=None if suite is None else str(suite),
            why=why,
            job=None if job is None else load_job(job),
            models=query_models(models, allow_downloads, trust_remote_code, allow_hosts, allow_models),
            wait=wait,
        )
    print_move(f"{uri}/{table}", done, as_json)


@app.command()
def rollback(
    uri: LakeUri,
    table: TableName,
    to: Annotated[
        int | None,
        typer.Option(
            "--to", metavar="VERSION", help="Version to return to. Default: the one that the tag marked before."
        ),
    ] = None,
    tag: Annotated[str, typer.Option(help="Tag to move back.")] = "prod",
    why: Why = "",
    wait: Wait = False,
    options: Options = [],  # noqa: B006
) -> None:
    """Return readers to an earlier version. The next run builds on it."""
    from latentlake.names import check_table_name
    from latentlake.storage import open_storage
    from pipelines.upkeep.rollback import roll_back

    check_table_name(table)
    before, after = roll_back(open_storage(uri, parse_options(options)), table, tag, to, wait, why)
    print(f"{uri}/{table}: tag '{tag}' is at version {after}, it was at {before}.")


@app.command()
def tags(
    uri: LakeUri,
    table: TableName,
    history: Annotated[bool, typer.Option("--log", help="List every move of the tags instead, newest first.")] = False,
    options: Options = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """List a table's tags: where they are, since when, who moved them there and why."""
    found = open_table(uri, table, None, None, options)
    moves = found.tag_log()[::-1]
    if not history:
        newest = [next((m for m in moves if m.tag == tag), None) for tag in found.tags()]
        there = zip(found.tags().items(), newest, strict=True)
        rows = [{"tag": tag, "version": version, **told_of(move)} for (tag, version), move in there]
    else:
        rows = [{"tag": m.tag, "from": m.before, "to": m.version, **told_of(m)} for m in moves]
    print_rows(rows, as_json)


def told_of(move: Any) -> dict[str, Any]:
    """When a tag was moved, by whom, why; empty where that was before there was a log."""
    if move is None:
        return dict.fromkeys(("time", "who", "by", "why"))
    return {"time": move.time.isoformat(timespec="seconds"), "who": move.who, "by": move.by, "why": move.why}


@contextmanager
def told_if_refused(as_json: bool) -> Iterator[None]:
    """Print, as JSON, what the gates found where they refuse."""
    try:
        yield
    except GateRefused as refusal:
        if as_json and refusal.report is not None:
            print(json.dumps(refusal.report))
        raise


def print_move(table: str, done: dict[str, Any], as_json: bool) -> None:
    """What moving a tag came to."""
    if as_json:
        print(json.dumps(done))
        return
    for gate in done["gates"]:
        print(f"  {gate['name']}: {'holds' if gate['held'] else 'DOES NOT HOLD'}: {gate['why']}")
    was = "it is new" if done["version_before"] is None else f"it was at {done['version_before']}"
    print(f"{table}: tag '{done['tag']}' is at version {done['version']}, {was}.")
