"""Actor pools: how many actors each model gets, on which device, with how many threads, and room left for reading.

Measured on 2 cores: an actor that holds every logical CPU starves Ray Data's readers for good; Ray's default of
`OMP_NUM_THREADS = num_cpus` halves a model's speed; two actors of one thread each are faster than one of two.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from clusters import ClusterProfile
from operators.errors import PoolUnschedulable
from pipelines.spec import EmbedSpec

READER_CPUS = 0.25  # logical CPUs of a task that reads and prepares
WRITER_CPUS = 0.25
ACTOR_MEMORY_MB = 1500  # what an actor with a small model takes, libraries included


@dataclass(frozen=True)
class Pool:
    """Actors of one vector column's model, as they are asked of Ray."""

    column: str
    min: int
    initial: int
    max: int
    num_cpus: float
    num_gpus: float
    threads: int
    device: str  # "cpu" | "cuda"

    def to_json(self) -> dict[str, Any]:
        """The pool as JSON-able values."""
        return asdict(self)


def plan_pools(embeds: tuple[EmbedSpec, ...], profile: ClusterProfile) -> list[Pool]:
    """Plan one pool a model. Raises `PoolUnschedulable`, with the remedy, where a pool's minimum can never be held."""
    pools = [plan_pool(embed, len(embeds), profile) for embed in embeds]
    reserve = READER_CPUS + WRITER_CPUS
    held = sum(pool.min * pool.num_cpus for pool in pools)
    if held > profile.cpus - reserve + 1e-9:
        need = "; ".join(f"'{pool.column}': {pool.min} x {pool.num_cpus:g}" for pool in pools)
        raise PoolUnschedulable(
            f"the pools hold {held:g} of {profile.cpus} logical CPUs at least ({need}), and reading needs {reserve:g}: they "
            "could never run.\n  Lower pool.min or pool.num_cpus (an actor's threads are set apart, by pool.threads)."
        )
    gpus = sum(pool.min * pool.num_gpus for pool in pools)
    if not fit_on_gpus(pools, profile.gpus):
        raise PoolUnschedulable(
            f"the pools hold {gpus:g} GPUs at least, an actor's fraction on one GPU; the cluster has {profile.gpus}.\n"
            "  Lower pool.num_gpus (a fraction shares a GPU) or pool.min, or set pool.num_gpus: 0 to embed on CPUs."
        )
    return pools


def plan_pool(embed: EmbedSpec, models: int, profile: ClusterProfile) -> Pool:
    """Plan one model's pool, taking what the job says and filling in the rest."""
    asked = embed.pool
    # An actor's fraction lies on one GPU: three models on two GPUs take a half each, not two thirds.
    planned = 1 / -(-models // profile.gpus) if profile.gpus else 0.0
    num_gpus = asked.num_gpus if asked.num_gpus is not None else round_down(planned)
    if num_gpus > 0:
        most = max(1, int(profile.gpus / models / num_gpus + 1e-9))
    else:
        most = max(1, min(profile.cpus // models, profile.memory_mb // 2 // ACTOR_MEMORY_MB // models))
    maximum = asked.max or max(most, asked.min or 1, asked.initial or 1)
    # On one machine a pool gains nothing by growing late: all actors load at once, before the stream begins.
    minimum = asked.min or (min(asked.initial or maximum, maximum) if profile.nodes == 1 else 1)
    initial = asked.initial or minimum
    share = max(profile.cpus / 2, profile.cpus - 1) / (models * maximum)
    return Pool(
        column=embed.column,
        min=minimum,
        initial=initial,
        max=maximum,
        num_cpus=asked.num_cpus or round_down(min(1.0, share)),
        num_gpus=num_gpus,
        threads=asked.threads or max(1, profile.cpus // (models * maximum)),
        device="cuda" if num_gpus > 0 else "cpu",
    )


def fit_on_gpus(pools: list[Pool], gpus: int) -> bool:
    """Whether every pool's least actors find their GPUs at once: whole ones, or a fraction that lies on one GPU."""
    free = [1.0] * gpus
    for wanted in sorted((pool.num_gpus for pool in pools for _ in range(pool.min) if pool.num_gpus), reverse=True):
        taken, share = (int(wanted), 1.0) if wanted >= 1 else (1, wanted)
        chosen = [gpu for gpu, left in enumerate(free) if left >= share - 1e-9][:taken]
        if len(chosen) < taken:
            return False
        for gpu in chosen:
            free[gpu] -= share
    return True


def round_down(share: float) -> float:
    """A share with three digits, so that shares that fill a machine still fit on it."""
    return int(share * 1000 + 1e-9) / 1000
