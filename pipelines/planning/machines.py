"""Which machines a run's actors stand on, as far as that is known before they start."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from clusters import Capacity, ClusterProfile
from pipelines.planning.pools import Pool, Room


@dataclass
class Group:
    """Equal machines: how many there may be, how many have actors of the run, and how many actors of each column those have."""

    name: str  # of the profile's worker group; empty: of none
    most: int = 0
    at_work: int = 0
    actors: Counter[str] = field(default_factory=Counter)


def place_pools(pools: Sequence[Pool], capacity: Capacity) -> list[Group]:
    """The machines with the actors that the pools may have, placed as Ray does: each on the node with the most free CPUs.

    Those of GPUs come first. An actor that finds no room any more, as the pools compete for CPUs, is left out.
    """
    rooms = [Room(node.cpus, [1.0] * int(node.gpus)) for node in capacity.nodes]
    on_node: list[Counter[str]] = [Counter() for _ in rooms]
    for pool in sorted(pools, key=lambda pool: pool.num_gpus, reverse=True):
        for _ in range(pool.max):
            order = sorted(range(len(rooms)), key=lambda at: rooms[at].cpus, reverse=True)
            taken = next((at for at in order if rooms[at].take(pool.num_gpus, pool.num_cpus)), None)
            if taken is None:
                break
            on_node[taken][pool.column] += 1
    groups: dict[str, Group] = {}
    for node, actors in zip(capacity.nodes, on_node, strict=True):
        group = groups.setdefault(node.group, Group(node.group))
        group.most += 1
        group.at_work += bool(actors)
        group.actors += actors
    return list(groups.values())


def accelerators_of(groups: Sequence[Group], profile: ClusterProfile, pool: Pool) -> list[str]:
    """Kinds of GPU that the actors of a pool run on, as far as the profile names them."""
    stated = {group.name: group.accelerator for group in profile.worker_groups if group.gpus}
    return sorted({name for group in groups if group.actors[pool.column] and (name := stated.get(group.name))})


def describe_groups(groups: Sequence[Group], profile: ClusterProfile) -> list[dict[str, Any]]:
    """The machines for `latentlake plan`: what they are, what stands on them, what one costs per hour."""
    stated = {group.name: group for group in profile.worker_groups}
    described = []
    for group in groups:
        of = stated.get(group.name)
        told: dict[str, Any] = {"group": group.name} if of else {}
        told |= {"machines": group.most, "with_actors": group.at_work, "actors": dict(group.actors)}
        if of is not None:
            told |= {"min": of.min, "accelerator": of.accelerator, "spot": of.spot}
        told["price_per_hour"] = profile.price_per_hour if of is None else of.price_per_hour
        if not group.at_work:
            told["note"] = "no actor stands here; only reading and writing may"
        described.append(told)
    return described
