"""The application, and the arguments and options that several commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from operators.errors import InvalidSpec
from pipelines.telemetry.logs import configure
from pipelines.telemetry.spans import export_spans

if TYPE_CHECKING:
    from latentlake.query import QueryModels

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Embed text, images and sound into versioned, searchable LanceDB tables.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def print_version(asked: bool) -> None:
    """Print the version and end, if `--version` is given."""
    if asked:
        from latentlake import __version__

        print(f"latentlake {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version.")
    ] = False,
    log_format: Annotated[
        Literal["text", "json"],
        typer.Option(
            "--log-format",
            envvar="LATENTLAKE_LOG_FORMAT",
            help="Format of what is told on stderr while a command works.",
        ),
    ] = "text",
) -> None:
    """Take the options that stand before a command."""
    configure(log_format)
    export_spans(os.environ)


JobFile = Annotated[Path, typer.Argument(metavar="JOB", help="Job file (YAML).")]


Overrides = Annotated[list[str], typer.Option("--set", metavar="PATH=VALUE", help="Change one value of the job.")]


ClusterFile = Annotated[
    Path | None, typer.Option("--cluster", metavar="FILE", help="Cluster profile (YAML), see docs/job.md.")
]


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


LakeUri = Annotated[str, typer.Argument(metavar="URI", help="The lake: a folder, or s3://bucket/prefix.")]


TableName = Annotated[str, typer.Argument(metavar="TABLE", help="The table's name.")]


Tag = Annotated[str | None, typer.Option(help="Read the version that this tag marks. Default: prod, if it exists.")]


Version = Annotated[int | None, typer.Option(help="Read this version.")]


Options = Annotated[
    list[str], typer.Option("--option", metavar="NAME=VALUE", help="Storage option of the lake; env:NAME for secrets.")
]


Wait = Annotated[bool, typer.Option("--wait", help="Wait if another writer holds the table.")]


RunnerOption = Annotated[
    Literal["auto", "ray", "inline"],
    typer.Option("--runner", help="Run on Ray, or in one process without Ray; auto chooses by the amount of work."),
]


MaxHours = Annotated[
    float | None,
    typer.Option("--max-hours", metavar="HOURS", help="Stop after so long; the same command resumes."),
]


MaxCost = Annotated[
    float | None,
    typer.Option(
        "--max-cost", metavar="AMOUNT", help="Stop when the machines, at the profile's prices, have cost so much."
    ),
]


GatesOf = Annotated[
    Path | None, typer.Option("--job", metavar="FILE", help="Ask the gates of this job instead of the stored one.")
]


ModelPaths = Annotated[
    list[str],
    typer.Option(
        "--model", metavar="NAME=PATH", help="Path of a model on this machine, by revision, column or stored path."
    ),
]


AllowDownloads = Annotated[bool, typer.Option("--allow-downloads", help="Download a model that the table names.")]


TrustCode = Annotated[bool, typer.Option("--trust-remote-code", help="Run the code of a model that the table names.")]


AllowHosts = Annotated[
    list[str], typer.Option("--allow-host", metavar="HOST", help="Send queries to this host, if the table names it.")
]


AllowModels = Annotated[
    list[str],
    typer.Option(
        "--allow-model", metavar="PLACE", help="Load a model from this place in an object store, if the table names it."
    ),
]


def query_models(models: list[str], downloads: bool, code: bool, hosts: list[str], places: list[str]) -> QueryModels:
    """The models that a command may load for queries, as its options `--model` to `--allow-model` say."""
    from latentlake.query import QueryModels
    from latentlake.trust import Trust

    return QueryModels(parse_options(models), Trust(code, downloads, hosts, places))


def open_lake(uri: str, options: list[str], **trust: Any) -> Any:
    """The lake at `uri`, with storage options written as NAME=VALUE; `trust` are `connect`'s other options."""
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
    from pipelines.job.jobfile import load_section

    return ClusterProfile() if path is None else load_section(ClusterProfile, path)
