"""The libraries that a job needs, and its models."""

from __future__ import annotations

from collections.abc import Iterator

from operators.batch import make_batch
from operators.decode import find_decoder
from operators.model_files import unpinned_model
from pipelines.doctor.findings import DO, OK, Finding
from pipelines.job.spec import EmbedSpec, JobSpec


def check_decoding(spec: JobSpec) -> Iterator[Finding]:
    """Whether the libraries that decode the job's objects are installed. Raises `MissingExtra`."""
    find_decoder(spec.modality).decode(make_batch([], []))
    yield Finding("decoding", OK, f"what decodes objects of modality '{spec.modality}' is installed")


def check_model(spec: JobSpec, embed: EmbedSpec) -> Iterator[Finding]:
    """Whether a model's libraries are installed, and its files found. Raises what the look-up raises."""
    subject = f"model '{embed.column}'"
    if missing := embed.config.missing():
        told = f"{', '.join(missing)} cannot be imported: pip install 'latentlake[{embed.config.extra}]'"
        yield Finding(subject, DO, told)
        return
    (found,) = spec.model_copy(update={"embed": (embed,)}).resolved().embed
    name, revision = (getattr(found.config, key, None) for key in ("model", "revision"))
    told = f"{found.config.family}{f' {name}' if name else ''}, {found.config.dimension} numbers per vector"
    told += f", revision {revision}" if revision else ""
    if unpinned_model(embed.config) is not None:
        told += "; no `revision` is pinned, so that the first run takes the newest"
    if "remote" in found.config.runs_on:
        told += "; the service itself was not asked"
    yield Finding(subject, OK, told)
