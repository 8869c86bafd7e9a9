"""Commands on jobs of a cluster, by its job server: submit, status, logs, cancel, list."""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from operators.errors import LatentLakeError, NotFound, SpecError
from pipelines.cli.options import AsJson, ClusterFile, JobFile, MaxCost, MaxHours, Overrides, app, load_profile
from pipelines.cli.printing import print_facts, print_rows

if TYPE_CHECKING:
    from clusters.jobs import JobInfo, JobServer

FOLLOW_PATIENCE_S = 600.0  # for which a server may be away while a job is followed
STOP_S = 60.0  # within which a job that is told to stop has stopped
POLL_S = 0.5
SUFFIXES = (".yaml", ".yml", ".json")

Address = Annotated[
    str | None,
    typer.Option(
        "--address", metavar="URL", help="The cluster's job server: http://HOST:8265. Default: the profile's."
    ),
]
Slot = Annotated[
    str | None, typer.Option(metavar="SLOT", help="What this run of the job is for, such as a date: it is done once.")
]
Which = Annotated[str, typer.Argument(metavar="JOB", help="A job's id, its name (its last attempt), or its file.")]


@app.command()
def submit(
    job: JobFile,
    overrides: Overrides = [],  # noqa: B006 (typer reads the default)
    cluster: ClusterFile = None,
    address: Address = None,
    follow: Annotated[
        bool,
        typer.Option("--follow/--detach", help="Show the log, and end with the job's exit code; or return at once."),
    ] = True,
    slot: Slot = None,
    working_dir: Annotated[
        Path | None,
        typer.Option(
            "--working-dir", metavar="FOLDER", help="What is sent with the job. Default: the job file's folder."
        ),
    ] = None,
    installed: Annotated[
        bool, typer.Option("--installed", help="LatentLake is installed on the cluster: do not send this one.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Discard an interrupted run instead of resuming it.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Run only this many objects, as `run --limit`.")] = None,
    max_hours: MaxHours = None,
    max_cost: MaxCost = None,
    as_json: AsJson = False,
) -> None:
    """Run a job on a cluster, through its job server. If it is running there already, follow that."""
    from clusters import ClusterProfile
    from clusters.attempts import check_slot, submit_attempt
    from pipelines.planning.budget import Budget
    from pipelines.submission import differs, prepare

    check_slot(slot)
    arguments = [*(["--fresh"] if fresh else []), *([] if limit is None else ["--limit", str(limit)])]
    arguments += [] if max_hours is None else ["--max-hours", f"{max_hours:g}"]
    arguments += [] if max_cost is None else ["--max-cost", f"{max_cost:g}"]
    arguments += ["--json"] if as_json else []
    profile = None if cluster is None else load_profile(cluster)
    Budget(max_hours, max_cost).check(profile or ClusterProfile())
    with open_server(cluster, address) as server:
        prepared = prepare(job, overrides, working_dir, profile, arguments, installed)
        server.version()  # says what is wrong with the address or the token, before anything is sent
        for package in prepared.packages:
            if server.upload(package):
                say(f"sent {package.files} files, {len(package.content) / 1000:,.0f} kB compressed")
        info, new = submit_attempt(server, prepared.job, slot, prepared.submission)
        if new:
            say(f"{info.submission_id}: submitted to {server.address}")
        else:
            say(f"{info.submission_id}: {info.status} already at {server.address}; nothing was submitted")
            if differs(prepared, info.metadata):
                say("it was submitted with other files or options than these")
        if follow:
            raise typer.Exit(follow_job(server, info, cluster))
        if as_json:
            print(json.dumps(facts_of(info)))
        else:
            say(ways_on(info.submission_id, cluster, server.address))


@app.command()
def status(
    job: Which, slot: Slot = None, cluster: ClusterFile = None, address: Address = None, as_json: AsJson = False
) -> None:
    """Show what became of a job of a cluster."""
    with open_server(cluster, address) as server:
        facts = facts_of(find_job(server, job, slot))
    print(json.dumps(facts)) if as_json else print_facts(facts)


@app.command()
def logs(
    job: Which,
    slot: Slot = None,
    cluster: ClusterFile = None,
    address: Address = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Wait until the job is over, and end with its exit code.")
    ] = False,
) -> None:
    """Print what a job of a cluster has printed."""
    with open_server(cluster, address) as server:
        info = find_job(server, job, slot)
        if follow:
            raise typer.Exit(follow_job(server, info, cluster))
        write(server.logs(info.submission_id))


@app.command()
def cancel(job: Which, slot: Slot = None, cluster: ClusterFile = None, address: Address = None) -> None:
    """Stop a job of a cluster. What is finished is kept: submitted again, it resumes."""
    with open_server(cluster, address) as server:
        info = find_job(server, job, slot)
        if not info.is_over:
            server.stop(info.submission_id)
        until = time.monotonic() + STOP_S
        while not info.is_over and time.monotonic() < until:
            time.sleep(POLL_S)
            info = server.info(info.submission_id)
        if not info.is_over:
            raise LatentLakeError(
                f"{info.submission_id} was told to stop {STOP_S:.0f} s ago, and is {info.status}.\n  Look at it: "
                f"latentlake logs {info.submission_id}"
            )
        print(f"{info.submission_id}: {info.status}")


@app.command("list")
def list_(
    cluster: ClusterFile = None,
    address: Address = None,
    everything: Annotated[bool, typer.Option("--all", help="Also jobs that others submitted to the cluster.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the jobs of a cluster, the newest first."""
    from clusters.attempts import attempt_of

    with open_server(cluster, address) as server:
        found = [job for job in server.list() if everything or attempt_of(job.submission_id)]
    shown = ("id", "status", "exit_code", "started", "ended", "table")
    print_rows([{name: facts_of(job)[name] for name in shown} for job in found], as_json)


def open_server(cluster: Path | None, address: str | None) -> JobServer:
    """The job server that the options, else the environment, name. Raises `SpecError`, `CredentialsError`."""
    from clusters.jobs import JobServer
    from clusters.tokens import find_token
    from latentlake.storage import resolve_options

    profile = load_profile(cluster)
    given = address or profile.job_server or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS")
    if not given:
        raise SpecError(
            "no job server is named.\n  Give --address http://HOST:8265, or a profile with `job_server` as --cluster."
        )
    token = resolve_options({"token": profile.token})["token"] if profile.token else find_token(os.environ)
    return JobServer(given, token)


def find_job(server: JobServer, name: str, slot: str | None) -> JobInfo:
    """The job of an id, or the last attempt at the job of a name or file. Raises `NotFound`."""
    from clusters.attempts import last_attempt
    from pipelines.job.jobfile import load_job

    if "@" in name:
        return server.info(name)
    path = Path(name)
    job = load_job(path).name if path.suffix in SUFFIXES and path.is_file() else name
    jobs = server.list()
    if last := last_attempt(jobs, job, slot):
        return last[1]
    if slot is None and any(info.submission_id == name for info in jobs):
        return server.info(name)
    told = f" and slot '{slot}'" if slot else ""
    raise NotFound(f"no job '{job}'{told} at {server.address}.\n  `latentlake list` names those that are there.")


def follow_job(server: JobServer, info: JobInfo, cluster: Path | None) -> int:
    """Show a job's log until it is over; its exit code. An interrupt leaves the job running: 130."""
    from clusters.attempts import follow

    server.patience_s = FOLLOW_PATIENCE_S
    try:
        info = follow(server, info, write, say_status)
    except (KeyboardInterrupt, LatentLakeError) as ended:
        say(f"\n{info.submission_id} was left running. {ways_on(info.submission_id, cluster, server.address)}")
        if isinstance(ended, KeyboardInterrupt):
            return 130
        raise
    code = info.exit_code
    assert code is not None, "it is over"
    if code:
        say(f"{info.submission_id}: {info.reason}")
    return code


def say_status(info: JobInfo) -> None:
    """Tell a job's status, and what a job that has not begun waits for."""
    waits = f": {info.message}" if info.status == "PENDING" and info.message else ""
    say(f"{info.submission_id}: {info.status}{waits}")


def ways_on(submission_id: str, cluster: Path | None, address: str) -> str:
    """How to follow a job, and how to stop it."""
    where = f"--address {address}" if cluster is None else f"--cluster {cluster}"
    return f"Follow it: latentlake logs {submission_id} --follow {where}\nStop it: latentlake cancel {submission_id} {where}"


def facts_of(info: JobInfo) -> dict[str, Any]:
    """A job for people and programs."""
    return {
        "id": info.submission_id,
        "status": info.status,
        "exit_code": info.exit_code,
        "message": info.message,
        "started": as_time(info.started),
        "ended": as_time(info.ended),
        "table": info.metadata.get("table"),
        "command": info.entrypoint,
    }


def as_time(seconds: float | None) -> str | None:
    """Seconds since the epoch as a time in UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def write(text: str) -> None:
    """Print a piece of a log as it comes."""
    print(text, end="", flush=True)


def say(text: str) -> None:
    """Tell the user something that is not the job's."""
    print(text, file=sys.stderr, flush=True)
