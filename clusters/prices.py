"""What machines cost: arithmetic on the prices that a cluster profile states. Amounts are in the currency of the profile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clusters.capacity import Node
from clusters.profile import DESCRIBED, ClusterProfile

HOUR_S = 3600.0


@dataclass(frozen=True)
class Priced:
    """Equal machines of a profile: from `least` to `most` of them at once. `price` is of one machine per hour; None: not stated."""

    name: str  # "head", "group 'NAME'" or "machine"
    price: float | None
    least: int
    most: int
    spot: bool = False
    idle_s: float = 0.0  # that a machine beyond `least` stays after its last work
    shape: tuple[float, float] = (0, 0)  # logical CPUs and GPUs of one


def priced_machines(profile: ClusterProfile, nodes: int = 1) -> tuple[Priced, ...]:
    """The machines of a profile; `nodes` of them where it describes none."""
    if not profile.worker_groups:
        return (Priced("machine", profile.price_per_hour, nodes, nodes),)
    groups = tuple(
        Priced(f"group '{g.name}'", g.price_per_hour, g.min, g.max, g.spot, g.idle_s, (g.cpus, g.gpus))
        for g in profile.worker_groups
    )
    head = (Priced("head", profile.head.price_per_hour, 1, 1),) if profile.kind in DESCRIBED else ()
    return head + groups


def without_price(machines: Sequence[Priced]) -> list[str]:
    """Names of those whose price is not stated."""
    return [kind.name for kind in machines if kind.price is None]


def price_now(profile: ClusterProfile, living: Sequence[Node] | None) -> float:
    """Price per hour of the machines that live; None: that is not known, and the least there may be count.

    A node is of the group that offers as many CPUs and GPUs; where none does, it counts as one of the dearest group. The head,
    where the profile describes one, always lives. All prices must be stated.
    """
    kinds = priced_machines(profile, 1 if living is None else len(living))
    if living is None:
        return sum((kind.price or 0.0) * kind.least for kind in kinds)
    if not profile.worker_groups:
        return (kinds[0].price or 0.0) * len(living)
    groups = [kind for kind in kinds if kind.name != "head"]
    dearest = max(kind.price or 0.0 for kind in groups)
    by_shape = {kind.shape: kind.price or 0.0 for kind in sorted(groups, key=lambda kind: kind.price or 0.0)}
    fixed = sum(kind.price or 0.0 for kind in kinds if kind.name == "head")
    return fixed + sum(by_shape.get((node.cpus, node.gpus), dearest) for node in living)


@dataclass(frozen=True)
class Use:
    """So many machines of a kind, from low to high, for so many hours each."""

    machines: Priced
    number: tuple[int, int]
    hours: tuple[float, float]

    @property
    def cost(self) -> tuple[float, float] | None:
        """Low and high; None where the price is not stated."""
        price = self.machines.price
        if price is None:
            return None
        low, high = (price * number * hours for number, hours in zip(self.number, self.hours, strict=True))
        return low, high


def total_cost(uses: Sequence[Use]) -> tuple[float, float] | None:
    """Low and high of all together; None where one has no price."""
    costs = [use.cost for use in uses]
    if not costs or None in costs:
        return None
    known = [cost for cost in costs if cost is not None]
    return sum(low for low, _ in known), sum(high for _, high in known)


def uses_of(
    machines: Sequence[Priced],
    at_work: dict[str, int],
    seconds: tuple[float, float],
    lost_s: float,
) -> list[Use]:
    """How long each kind of machine is paid for, for a run of so many seconds (low, high).

    `at_work` is how many of each kind, by name, have actors of the run; no kind has less than its `least`, and all of a kind are
    paid for from the run's start. Low: the machines go as the run ends, and none is lost. High: those that were started for the
    run stay for their `idle_s`, and each spot machine at work is lost once, which costs `lost_s` (loading the model and
    the shards in flight, again) of the whole run.
    """
    spots = sum(at_work.get(kind.name, 0) for kind in machines if kind.spot)
    workers = sum(at_work.values())
    # What one machine does again, the others do not wait for: the work is spread over all of them.
    again = lost_s * spots / workers if workers else 0.0
    uses = []
    for kind in machines:
        number = max(kind.least, at_work.get(kind.name, 0))
        stays = kind.idle_s if number > kind.least else 0.0
        uses.append(Use(kind, (number, number), (seconds[0] / HOUR_S, (seconds[1] + again + stays) / HOUR_S)))
    return uses
