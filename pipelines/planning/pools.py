"""Actor pools: how many actors each model gets, on which device, with how many threads, and room left for reading.

Measured on 2 cores: an actor that holds every logical CPU starves Ray Data's readers for good; Ray's default of
`OMP_NUM_THREADS = num_cpus` halves a model's speed; two actors of one thread each are faster than one of two.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from clusters import Capacity
from operators.errors import PoolUnschedulable, SpecError
from pipelines.job.spec import EmbedSpec

READER_CPUS = 0.25  # logical CPUs of a task that reads and prepares
WRITER_CPUS = 0.25
REMOTE_CPUS = 0.25  # of an actor whose model a service runs
SLACK = 1e-9  # sums of shares are not exact
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


def plan_pools(
    embeds: tuple[EmbedSpec, ...], capacity: Capacity, shrink: bool = False, shards: int | None = None
) -> list[Pool]:
    """Plan one pool per model. Raises `PoolUnschedulable`, with the remedy, where a pool's minimum can never be held.

    With `shrink`, as after the loss of a node, a minimum that cannot be held is lowered instead, down to one actor. No pool
    has more actors than there are `shards`, also where the job asks for more: they would load a model and never work.
    """
    on_gpus, local = (
        sum(bool(embed.config.runs_on & places) for embed in embeds) for places in ({"gpu"}, {"cpu", "gpu"})
    )
    useful = None if shards is None else max(1, shards)
    pools = [plan_pool(embed, local, on_gpus, capacity, useful) for embed in embeds]
    while shrink and describe_misfit(pools, capacity) and any(pool.min > 1 for pool in pools):
        largest = max((pool for pool in pools if pool.min > 1), key=lambda pool: (pool.min * pool.num_gpus, pool.min))
        fewer = largest.min - 1
        pools[pools.index(largest)] = replace(largest, min=fewer, initial=fewer, max=fewer)
    if misfit := describe_misfit(pools, capacity):
        raise PoolUnschedulable(misfit)
    return pools


def describe_misfit(pools: list[Pool], capacity: Capacity) -> str | None:
    """Why the least actors of the pools, with reading and writing beside them, can never run at once; None: they can."""
    if asking := [pool.column for pool in pools if pool.num_gpus and not capacity.gpus]:
        return describe_no_gpus(asking, capacity)
    reserve = READER_CPUS + WRITER_CPUS
    held = sum(pool.min * pool.num_cpus for pool in pools)
    if held > capacity.cpus - reserve + SLACK:
        need = "; ".join(f"'{pool.column}': {pool.min} x {pool.num_cpus:g}" for pool in pools)
        return (
            f"the pools hold {held:g} of {capacity.cpus} logical CPUs at least ({need}), and reading needs {reserve:g}: they "
            "could never run.\n  Lower pool.min or pool.num_cpus (an actor's threads are set apart, by pool.threads)."
        )
    if not any(fit_on_nodes(pools, capacity, spread, cpus=False) for spread in (True, False)):
        gpus = sum(pool.min * pool.num_gpus for pool in pools)
        return (
            f"the pools hold {gpus:g} GPUs at least, an actor's fraction on one GPU; the cluster has {capacity.gpus}"
            f"{f' ({capacity})' if capacity.nodes[0].group else ''}.\n"
            "  Lower pool.num_gpus (a fraction shares a GPU) or pool.min, or set pool.num_gpus: 0 to embed on CPUs."
        )
    if not any(fit_on_nodes(pools, capacity, spread) for spread in (True, False)):
        need = "; ".join(
            f"'{pool.column}': {pool.min} x {pool.num_cpus:g} CPUs"
            + (f" and {pool.num_gpus:g} GPUs" if pool.num_gpus else "")
            for pool in pools
        )
        return (
            f"the pools' actors ({need}), with {reserve:g} CPUs for reading, find no room on the cluster's nodes ({capacity}): "
            "an actor runs on one node.\n  Lower pool.num_cpus or pool.min (an actor's threads are set apart, by pool.threads)."
        )
    return None


def describe_no_gpus(columns: list[str], capacity: Capacity) -> str:
    """Why the pools of these columns have no place: nothing has a GPU."""
    asks = f"the job asks for GPUs ({', '.join(repr(column) for column in columns)})"
    remedy = "set pool.num_gpus: 0 to embed on CPUs."
    if capacity.nodes[0].group:
        return f"{asks}, no group has any: {capacity}.\n  State the gpus of a worker group that has some, or {remedy}"
    return f"{asks}, the cluster has none.\n  Give it a node with GPUs, or {remedy}"


def plan_pool(embed: EmbedSpec, models: int, on_gpus: int, capacity: Capacity, useful: int | None = None) -> Pool:
    """Plan one model's pool, taking what the job says and filling in the rest. `models` share the machine, `on_gpus` the GPUs.

    More than `useful` actors would have nothing to do. The threads of those that are left out go to the others.
    One that a service runs takes no room: its one actor has several batches under way. One that runs on CPUs alone gets none
    of the GPUs.
    """
    asked, runs_on = embed.pool, embed.config.runs_on
    if asked.num_gpus and "gpu" not in runs_on:
        raise SpecError(
            f"pool.num_gpus of column '{embed.column}' is {asked.num_gpus:g}, and family '{embed.config.family}' runs on no GPU.\n"
            "  Leave it out."
        )
    if "remote" in runs_on:
        minimum, threads = asked.min or 1, asked.threads or 1
        maximum = asked.max or max(minimum, asked.initial or 1)
        cpus = asked.num_cpus or REMOTE_CPUS
        minimum, initial, maximum = at_most(useful, minimum, asked.initial or minimum, maximum)
        return Pool(embed.column, minimum, initial, maximum, cpus, 0.0, threads, "cpu")
    capacity = capacity if "gpu" in runs_on else without_gpus(capacity)
    # An actor's fraction stays on one GPU: three models on two GPUs take a half each, not two thirds.
    planned = 1 / -(-on_gpus // capacity.gpus) if capacity.gpus else 0.0
    num_gpus = asked.num_gpus if asked.num_gpus is not None else round_down(planned)
    if num_gpus > 0:
        if capacity.gpus:  # nodes without GPUs hold no actor of this pool
            capacity = Capacity(tuple(node for node in capacity.nodes if node.gpus))
        most = max(1, int(capacity.gpus / on_gpus / num_gpus + SLACK))
    else:
        most = max(1, min(capacity.cpus // models, capacity.memory_mb // 2 // ACTOR_MEMORY_MB // models))
        if asked.num_cpus is not None:
            most = max(1, min(most, count_room(capacity, asked.num_cpus) // models))
    maximum = asked.max or max(most, asked.min or 1, asked.initial or 1)
    # On one machine a pool gains nothing by growing late: all actors load at once, before the stream begins.
    minimum = asked.min or (min(asked.initial or maximum, maximum) if len(capacity.nodes) == 1 else 1)
    minimum, initial, maximum = at_most(useful, minimum, asked.initial or minimum, maximum)
    share = max(capacity.cpus / 2, capacity.cpus - 1) / (models * maximum)
    return Pool(
        column=embed.column,
        min=minimum,
        initial=initial,
        max=maximum,
        num_cpus=asked.num_cpus or round_down(min(1.0, share)),
        num_gpus=num_gpus,
        threads=asked.threads or max(1, int(largest_cpus(capacity)) // -(-models * maximum // len(capacity.nodes))),
        device="cuda" if num_gpus > 0 else "cpu",
    )


def at_most(bound: int | None, *numbers: int) -> tuple[int, ...]:
    """The numbers, none larger than the bound, if there is one."""
    return numbers if bound is None else tuple(min(bound, number) for number in numbers)


def without_gpus(capacity: Capacity) -> Capacity:
    """The machines as a model that runs on CPUs alone finds them."""
    return replace(capacity, nodes=tuple(replace(node, gpus=0) for node in capacity.nodes))


def count_room(capacity: Capacity, num_cpus: float) -> int:
    """How many actors of so many CPUs find room, each on one node, beside reading and writing on the largest node."""
    reserves = [READER_CPUS + WRITER_CPUS] + [0.0] * (len(capacity.nodes) - 1)
    rooms = sorted((node.cpus for node in capacity.nodes), reverse=True)
    return sum(int((room - reserve) / num_cpus + SLACK) for room, reserve in zip(rooms, reserves, strict=True))


def largest_cpus(capacity: Capacity) -> float:
    """Logical CPUs of the largest node: no actor has more threads."""
    return max(node.cpus for node in capacity.nodes)


def fit_on_nodes(pools: list[Pool], capacity: Capacity, spread: bool, cpus: bool = True) -> bool:
    """Whether every pool's least actors find room at once, each on one node, and reading and writing beside them.

    They are placed one by one, the largest first, on the node with the most free CPUs (`spread`, as Ray does), or the
    fewest. Whole GPUs, or a fraction on one GPU. Without `cpus` only GPUs count.
    """
    free = [Room(node.cpus if cpus else math.inf, [1.0] * int(node.gpus)) for node in capacity.nodes]
    actors = [(pool.num_gpus, pool.num_cpus) for pool in pools for _ in range(pool.min)]
    for gpus, share in [*sorted(actors, reverse=True), (0.0, READER_CPUS), (0.0, WRITER_CPUS)]:
        for room in sorted(free, key=lambda room: room.cpus, reverse=spread):
            if room.take(gpus, share):
                break
        else:
            return False
    return True


@dataclass
class Room:
    """What is free on a node: logical CPUs, and the share of each GPU."""

    cpus: float
    gpus: list[float]

    def take(self, gpus: float, cpus: float) -> bool:
        """Take room for one actor, if there is enough; whether there was."""
        count, share = (int(gpus), 1.0) if gpus >= 1 else (1 if gpus else 0, gpus)
        chosen = [gpu for gpu, left in enumerate(self.gpus) if left >= share - SLACK][:count]
        if len(chosen) < count or self.cpus < cpus - SLACK:
            return False
        for gpu in chosen:
            self.gpus[gpu] -= share
        self.cpus -= cpus
        return True


def round_down(share: float) -> float:
    """A share with three digits, so that shares that fill a machine still fit on it."""
    return int(share * 1000 + 1e-9) / 1000
