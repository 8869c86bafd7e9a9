"""The models that embed queries for a job: its own."""

from __future__ import annotations

from latentlake.query import QueryModels, location_field
from latentlake.trust import Trust, host_of
from pipelines.job.spec import JobSpec


def models_of(spec: JobSpec) -> QueryModels:
    """The models that the queries of a job's own columns need: the job vouches for them, and says where they lie."""
    configs = {embed.column: embed.config for embed in spec.embed}
    places = {
        column: str(getattr(config, name)) for column, config in configs.items() if (name := location_field(config))
    }
    urls = [str(url) for config in configs.values() if (url := getattr(config, "base_url", None)) is not None]
    named = [getattr(config, name, None) for config in configs.values() for name in ("model", "weights")]
    trust = Trust(
        trust_remote_code=True,
        allow_downloads=True,
        allow_hosts={host for url in urls if (host := host_of(url))},
        allow_models={str(place) for place in named if place},
    )
    return QueryModels(places, trust)
