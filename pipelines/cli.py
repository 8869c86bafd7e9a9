"""The command line: `latentlake`, and `python -m pipelines`. Commands on jobs, and commands on the tables they made."""

from __future__ import annotations

import json
import logging
import signal
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from operators.errors import InvalidSpec, LatentLakeError
from pipelines.printing import ProgressLine, print_facts, print_report, print_rich, print_rows
from pipelines.wording import as_command

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Distributed embedding jobs that people can trust: objects in, versioned and searchable LanceDB tables out.",
    context_settings={"help_option_names": ["-h", "--help"]},
)

JobFile = Annotated[Path, typer.Argument(metavar="JOB", help="Job file (YAML).")]
Overrides = Annotated[list[str], typer.Option("--set", metavar="PATH=VALUE", help="Change one value of the job.")]
ClusterFile = Annotated[
    Path | None, typer.Option("--cluster", metavar="FILE", help="Cluster profile (YAML), see docs/job.md.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
LakeUri = Annotated[str, typer.Argument(metavar="URI", help="The lake: a folder, or s3://bucket/prefix.")]
TableName = Annotated[str, typer.Argument(metavar="TABLE", help="The table's name.")]
Tag = Annotated[str | None, typer.Option(help="Read the version that this tag marks (default: prod, if it is there).")]
Version = Annotated[int | None, typer.Option(help="Read this version.")]
Options = Annotated[
    list[str], typer.Option("--option", metavar="NAME=VALUE", help="Storage option of the lake; env:NAME for secrets.")
]
Wait = Annotated[bool, typer.Option("--wait", help="Wait where another writer holds the table.")]


@app.command()
def validate(job: JobFile, overrides: Overrides = []) -> None:  # noqa: B006 (typer reads the default)
    """Find every mistake of a job file, each with its place and the remedy. Starts nothing."""
    from pipelines.jobfile import load_job

    spec = load_job(job, overrides)
    models = ", ".join(f"{embed.column} ({embed.config.family})" for embed in spec.embed)
    print(
        f"{job}: valid. {spec.modality} objects from {spec.source.uri} to {spec.table.uri}/{spec.table.name}: {models}."
    )


@app.command()
def plan(job: JobFile, overrides: Overrides = [], cluster: ClusterFile = None, as_json: AsJson = False) -> None:  # noqa: B006
    """Say what a run would read, what is unchanged, its stages and pools. Writes nothing."""
    from latentlake.storage import open_storage
    from pipelines.jobfile import load_job
    from pipelines.plan import describe_plan, make_plan, resolve_models, warnings_of

    spec, profile = load_job(job, overrides), load_profile(cluster)
    with tempfile.TemporaryDirectory(prefix="latentlake-plan-") as folder:
        described = describe_plan(make_plan(resolve_models(spec), profile, open_storage(folder)))
    described["warnings"] = warnings_of(spec)
    if as_json:
        print(json.dumps(described))
    else:
        print_facts(described)


@app.command()
def run(
    job: JobFile,
    overrides: Overrides = [],  # noqa: B006
    cluster: ClusterFile = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Discard a run that was cut short, rather than go on with it.")
    ] = False,
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Run a job, or go on with a run of it that was cut short. With --json the last line is one JSON object, its report."""
    from pipelines.jobfile import load_job

    run_and_print(load_job(job, overrides), cluster, as_json, fresh=fresh, wait=wait)


@app.command()
def retry(
    uri: LakeUri,
    table: TableName,
    stage: Annotated[str | None, typer.Option(help="Only what was rejected at this stage.")] = None,
    job: Annotated[
        Path | None, typer.Option("--job", metavar="FILE", help="The job, where the stored one will not do.")
    ] = None,
    cluster: ClusterFile = None,
    wait: Wait = False,
    options: Options = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Try again what the last run rejected, and nothing else. What now succeeds enters the table."""
    from latentlake.storage import open_storage
    from latentlake.table import check_table_name
    from pipelines.changes import Retry
    from pipelines.jobfile import load_job
    from pipelines.retry import at_lake, stored_job

    check_table_name(table)
    lake = open_storage(uri, parse_options(options))
    spec = stored_job(lake, table) if job is None else at_lake(load_job(job), lake, table)
    run_and_print(spec, cluster, as_json, wait=wait, retry=Retry(stage))


def run_and_print(spec: Any, cluster: Path | None, as_json: bool, **how: Any) -> None:
    """Run a job and print its report."""
    from pipelines.run import run_job

    profile = load_profile(cluster)
    try:
        with ProgressLine(sys.stderr.isatty()) as progress:
            report = run_job(spec, profile, progress.update, **how)
    except LatentLakeError as failure:
        if as_json and failure.report is not None:
            print(json.dumps(failure.report))
        raise
    if as_json:
        print(json.dumps(report))
    else:
        print_report(report, f"{spec.table.uri}/{spec.table.name}")


@app.command()
def models(as_json: AsJson = False) -> None:
    """List the model families: ready, or what to install; and the presets. Loads none of them."""
    from latentlake import get_available_embedders

    found = get_available_embedders()
    if as_json:
        print(json.dumps(found))
        return
    rows = [
        {
            "family": one["family"],
            "modalities": ", ".join(one["modalities"]),
            "status": one["status"] if one["install"] is None else f"{one['status']}: {one['install']}",
            "covers": one["covers"],
            "presets": ", ".join(one["presets"]),
        }
        for one in found
    ]
    print_rows(rows, False)


@app.command()
def search(
    uri: LakeUri,
    table: TableName,
    query: Annotated[str | None, typer.Argument(help="The text to search for.")] = None,
    k: Annotated[int, typer.Option("-k", help="How many hits.")] = 10,
    column: Annotated[str | None, typer.Option(help="Vector column to search; needed where several fit.")] = None,
    where: Annotated[str | None, typer.Option(help="SQL filter, applied before the search.")] = None,
    image: Annotated[Path | None, typer.Option(help="Search with this image instead of a text.")] = None,
    row: Annotated[str | None, typer.Option("--id", help="Search for rows like this one.")] = None,
    exact: Annotated[bool, typer.Option(help="Leave the index unused.")] = False,
    models: Annotated[
        list[str],
        typer.Option(
            "--model", metavar="NAME=PATH", help="Place of a model on this machine, by revision, column or path."
        ),
    ] = [],  # noqa: B006
    allow_downloads: Annotated[
        bool, typer.Option("--allow-downloads", help="Fetch a model that the table names.")
    ] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run the code of a model that the table names.")
    ] = False,
    allow_hosts: Annotated[
        list[str],
        typer.Option("--allow-host", metavar="HOST", help="Send queries to this host, if the table names it."),
    ] = [],  # noqa: B006
    tag: Tag = None,
    version: Version = None,
    options: Options = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Search a table by text, image or row."""
    trust = {"allow_downloads": allow_downloads, "trust_remote_code": trust_remote_code, "allow_hosts": allow_hosts}
    found = open_table(uri, table, tag, version, options, models=parse_options(models), **trust).search(
        image or query, id=row, k=k, column=column, where=where, exact=exact
    )
    if as_json:
        print(json.dumps(found.to_list(), default=str))
    else:
        print_rich(found)


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
    found = open_table(uri, table, tag, version, options)
    described = {
        "table": found.name,
        "version": found.version,
        "tags": found.tags(),
        "rows": found.count(),
        "schema": {field.name: str(field.type) for field in found.schema},
        "columns": {column: describe_column(found, column) for column in found.columns}
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
    """List the objects that are not in the table, and why: also those of a run that published nothing."""
    found = open_lake(uri, options).rejects(table)
    rows = found.slice(0, limit).to_pylist()
    print_rows(rows, as_json)
    if not as_json and found.num_rows > limit:
        print(f"… and {found.num_rows - limit} more (--limit).")


@app.command()
def runs(uri: LakeUri, table: TableName, options: Options = [], as_json: AsJson = False) -> None:  # noqa: B006
    """List the runs of a table: state, counts, versions; also the one under way, and those that can go on."""
    from latentlake.storage import open_storage
    from latentlake.table import check_table_name
    from pipelines.lease import find_holder
    from pipelines.ledger import WORK_FOLDER
    from pipelines.manifest import described_runs

    check_table_name(table)
    lake = open_storage(uri, parse_options(options))
    holder = find_holder(lake.child(WORK_FOLDER, table))
    found = described_runs(lake, table, holder is not None)
    if not found:
        open_lake(uri, options).open(table)  # raises `NotFound`, naming the tables that there are
    print_rows(found, as_json)


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
    from pipelines.maintain import maintain_table

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
    from pipelines.rollback import roll_back

    check_table_name(table)
    before, after = roll_back(open_storage(uri, parse_options(options)), table, tag, to, wait)
    print(f"{uri}/{table}: tag '{tag}' is at version {after}, it was at {before}.")


def open_lake(uri: str, options: list[str], **trust: Any) -> Any:
    """The lake at `uri`, with storage options written as NAME=VALUE; `trust` is what `connect` takes beside."""
    import latentlake

    return latentlake.connect(uri, parse_options(options), **trust)


def parse_options(options: list[str]) -> dict[str, str]:
    """Options written as NAME=VALUE. Raises `InvalidSpec`: a secret among them would be read by whoever lists processes."""
    from latentlake.storage import is_reference, is_secret

    pairs = [option.partition("=") for option in options]
    if wrong := [name for name, found, _ in pairs if not found]:
        raise InvalidSpec([f"--option {wrong[0]}: write NAME=VALUE."], "options")
    if secret := [name for name, _, value in pairs if is_secret(name) and not is_reference(value)]:
        raise InvalidSpec([f"--option {secret[0]}: a secret is given as env:NAME or file:PATH."], "options")
    return {name: value for name, _, value in pairs}


def open_table(uri: str, table: str, tag: str | None, version: int | None, options: list[str], **trust: Any) -> Any:
    """A table of the lake at `uri`, at a tag or version."""
    return open_lake(uri, options, **trust).open(table, tag=tag, version=version)


def load_profile(path: Path | None) -> Any:
    """The cluster profile in a file. What it leaves out, or all without a file, is found where the job runs."""
    from clusters import ClusterProfile
    from pipelines.jobfile import load_section

    return ClusterProfile() if path is None else load_section(ClusterProfile, path)


def describe_column(table: Any, column: str) -> dict[str, Any]:
    """What `show` says of a vector column."""
    provenance = table.provenance(column)
    identity = dict(provenance.identity)
    return {
        "fingerprint": provenance.fingerprint,
        "dimension": provenance.dimension,
        "metric": provenance.metric,
        "vectors": table.count(f"{column} IS NOT NULL"),
        "run_id": provenance.run_id,
        **{name: identity[name] for name in ("family", "model", "revision", "dtype", "preprocess") if name in identity},
    }


def main() -> None:
    """Entry point: errors of ours are one message on stderr and their exit code; an interrupt (Typer's doing) is 130."""
    warnings.filterwarnings("ignore", message="lance is not fork-safe")  # Ray's processes are not forks
    signal.signal(
        signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT)
    )  # ends a run as Ctrl-C does: to go on later
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        app()
    except LatentLakeError as failure:
        print(f"{type(failure).__name__}: {as_command(str(failure))}", file=sys.stderr)
        sys.exit(failure.exit_code)
    except OSError as failure:  # a full disk, a store that does not answer: no mistake of ours to be traced
        from operators.batch import describe

        print(describe(failure), file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
