"""What a run will take, by what earlier ones measured: seconds, rows per second, money; and what that stands on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clusters import ClusterProfile
from clusters.prices import Priced, priced_machines, total_cost, uses_of, without_price
from pipelines.planning.calibrations import Calibration, best_calibration, place_of, read_calibrations
from pipelines.planning.choice import inline_pools
from pipelines.planning.machines import Group, accelerators_of, describe_groups, place_pools
from pipelines.planning.plan import Plan
from pipelines.planning.pools import Pool

SPREAD = 1.25  # how far what was measured may be from the whole, either way, in the same place
FAR = 1.6  # the same, where the number of actors, their threads or the runner are others
RAY_START_S = 30.0  # that starting Ray may take, where no run has measured it
IN_FLIGHT = 2  # shards that a lost machine may have had on each actor

Span = tuple[float, float, float]  # low, expected, high


@dataclass(frozen=True)
class Work:
    """What a run is to do, and by what."""

    objects: int
    size: int  # bytes, as far as the source tells; 0: it does not
    shards: int
    runner: str
    pools: Sequence[Pool]
    cpus: int
    mixed: bool = False  # actors of a pool run on several kinds of GPU, of which one was measured


@dataclass(frozen=True)
class Forecast:
    """Of one run. Seconds are from the start to the first read, of the stream, and from its end to the tag."""

    start_s: Span
    stream_s: Span
    finish_s: float
    rows: float  # to embed, of the first column
    idle: Mapping[str, float]  # share of the stream that an actor of a column waits
    far: bool  # whether it is carried over from another place

    @property
    def seconds(self) -> Span:
        """Of the whole run."""
        low, expected, high = (a + b + self.finish_s for a, b in zip(self.start_s, self.stream_s, strict=True))
        return low, expected, high


def factors(read: Mapping[str, Any], objects: int, size: int) -> Span:
    """How many times as much as was read a run reads: by its objects, and by their bytes where both are known.

    By objects is what is expected: a listing may count bytes of a row that are not of its content.
    """
    by_objects = objects / read["objects"]
    by_bytes = size / read["bytes"] if size and read["bytes"] else by_objects
    return min(by_objects, by_bytes), by_objects, max(by_objects, by_bytes)


@dataclass(frozen=True)
class Pace:
    """Seconds of the stream that grow with the work, for as much as was measured; and those that come once."""

    growing: float
    once: float
    busy: Mapping[str, float]  # how long one actor of a column works, of those that grow


def stream_pace(known: Calibration, work: Work) -> Pace:
    """Without Ray one stage follows another. Through Ray they overlap: the slowest pool, or all CPUs together, set the pace."""
    stages, overlaps = known.stages, work.runner == "ray"
    read, write = (stages[name]["seconds"] - stages[name]["warm_s"] for name in ("read", "write"))
    warm = [stages["embed"][pool.column]["warm_s"] for pool in work.pools]
    busy: dict[str, float] = {}
    on_cpus = read + write
    for pool in work.pools:
        found, measured = stages["embed"][pool.column], known.measured(pool.column)
        seconds = found["seconds"] - found["warm_s"]
        if pool.device == "cpu" and measured is not None:
            seconds *= measured["threads"] / pool.threads
            on_cpus += seconds * pool.threads
        busy[pool.column] = seconds / (pool.max if overlaps else 1)
    at_once = stages["read"]["warm_s"] + stages["write"]["warm_s"]
    if overlaps:
        # The first shard is read, and the last one written, while no model works; actors get warm side by side.
        at_once += (read + write) / max(1, work.shards) + max(warm) / max(pool.max for pool in work.pools)
        return Pace(max(*busy.values(), on_cpus / max(1, work.cpus)), at_once, busy)
    return Pace(read + write + sum(busy.values()), at_once + sum(warm), busy)


def forecast_run(known: Calibration, work: Work) -> Forecast:
    """What a run takes that does this work, by what was measured."""
    low, expected, high = factors(known.stages["read"], work.objects, work.size)
    pace = stream_pace(known, work)
    threads = [(known.measured(pool.column), pool.threads) for pool in work.pools]
    same = known.runner == work.runner and not work.mixed
    same &= all(found is None or found["threads"] == asked for found, asked in threads)
    spread = SPREAD if same else FAR
    stream = [pace.growing * factor + pace.once for factor in (low, expected, high)]
    setup = known.seconds["setup"]
    if work.runner == "ray" and known.runner != "ray":
        start = setup, setup + RAY_START_S, setup + 2 * RAY_START_S
    else:
        start = setup / spread, setup, setup * spread
    return Forecast(
        start_s=start,
        stream_s=(stream[0] / spread, stream[1], stream[2] * spread),
        finish_s=known.seconds["commit"] + known.seconds["index"],
        rows=known.stages["embed"][work.pools[0].column]["rows"] * expected,
        idle={
            name: max(0.0, 1 - seconds * expected / stream[1]) if stream[1] else 0.0
            for name, seconds in pace.busy.items()
        },
        far=not same,
    )


def describe_forecast(plan: Plan) -> dict[str, Any]:
    """Machines, seconds, rows per second and costs of a plan, for `latentlake plan`."""
    pools = inline_pools(plan.spec, plan.pools, plan.capacity) if plan.runner.name == "inline" else plan.pools
    groups = place_pools(pools, plan.capacity)
    machines = describe_groups(groups, plan.profile)
    if not plan.changes.work:
        return {"machines": machines, "forecast": {"note": "nothing is to be read"}}
    accelerators = sorted({name for pool in pools for name in accelerators_of(groups, plan.profile, pool)})
    known, why = best_calibration(
        read_calibrations(plan.spec.table.lake, plan.spec.table.name), plan.spec, pools, plan.runner.name, accelerators
    )
    if known is None:
        told = f"{why}. Measure it on a sample: latentlake calibrate JOB{remote(plan.profile)}"
        return {"machines": machines, "forecast": {"missing": told}}
    changes = plan.changes
    work = Work(
        objects=changes.work,
        size=changes.work_bytes,
        shards=len(plan.shards),
        runner=plan.runner.name,
        pools=pools,
        cpus=plan.capacity.cpus,
        mixed=len(accelerators) > 1,
    )
    found = forecast_run(known, work)
    low, expected, high = found.stream_s
    rates = [found.rows / seconds if seconds else 0.0 for seconds in (high, expected, low)]
    return {
        "machines": machines,
        "forecast": {
            "seconds": span(found.seconds),
            "hours": span([seconds / 3600 for seconds in found.seconds], 3),
            "stream_seconds": span(found.stream_s),
            "rows_per_s": span(rates),
            "cost": describe_cost(plan, groups, found),
            "stands_on": stands_on(known, work, found),
        },
    }


def remote(profile: ClusterProfile) -> str:
    """The option of the command that measures on the profile's machines."""
    return "" if profile == ClusterProfile() else " --cluster FILE"


def span(values: Sequence[float], digits: int = 2) -> dict[str, float]:
    """Low, expected and high, for people and programs."""
    return {name: round(value, digits) for name, value in zip(("low", "expected", "high"), values, strict=True)}


def describe_cost(plan: Plan, groups: Sequence[Group], found: Forecast) -> dict[str, Any] | str:
    """What the machines cost, low and high, and by kind of machine; or which of them have no price."""
    machines = priced_machines(plan.profile, len(plan.capacity.nodes))
    if missing := without_price(machines):
        return f"not known: the cluster profile states no price_per_hour for {', '.join(missing)}"
    low, _, high = found.seconds
    uses = uses_of(machines, at_work(machines, groups), (low, high), lost_seconds(plan, found))
    total = total_cost(uses)
    assert total is not None, "every machine has a price"
    return {
        "low": round(total[0], 2),
        "high": round(total[1], 2),
        "of": [
            f"{use.machines.name}: {use.number[1]} x {use.hours[0]:.3f} to {use.hours[1]:.3f} hours at {use.machines.price:g}"
            + (", spot: at the high end each is lost once" if use.machines.spot else "")
            for use in uses
        ],
    }


def at_work(machines: Sequence[Priced], groups: Sequence[Group]) -> dict[str, int]:
    """How many of each kind of machine have actors, by the names that prices go by."""
    by_group = {f"group '{group.name}'" if group.name else "machine": group.at_work for group in groups}
    return {kind.name: by_group.get(kind.name, 0) for kind in machines}


def lost_seconds(plan: Plan, found: Forecast) -> float:
    """What the loss of one machine costs it: starting again, and the shards that were in flight on its actors."""
    actors = sum(pool.max for pool in plan.pools)
    shard_s = found.stream_s[2] * actors / max(1, len(plan.shards))
    return found.start_s[2] + IN_FLIGHT * shard_s


def stands_on(known: Calibration, work: Work, found: Forecast) -> list[str]:
    """What a forecast stands on, a sentence each."""
    what = "a sample, by `latentlake calibrate`" if known.sampled else "a run"
    read, write = known.stages["read"], known.stages["write"]
    told = [
        f"measured: {known.measured_at:%Y-%m-%d %H:%M} UTC, {what} of {read['objects']} objects, runner {known.runner} ({known.run_id})"
    ]
    for pool in work.pools:
        measured, stage = known.measured(pool.column), known.stages["embed"][pool.column]
        if measured is None:
            rate = stage["rows"] / stage["seconds"] if stage["seconds"] else 0.0
            told.append(
                f"model '{pool.column}': a service, which made {rate:.1f} rows/s per actor; {pool.max} actors here"
            )
            continue
        actors = pool.max if work.runner == "ray" else 1
        told.append(
            f"model '{pool.column}': {measured['rows_per_s']:g} rows/s per actor on {place_of(measured)}; {actors} x {pool.threads} threads "
            f"here, idle for {100 * found.idle[pool.column]:.0f} % of the stream"
        )
    if read["seconds"] and write["seconds"]:
        told.append(
            f"one task reads and prepares {read['objects'] / read['seconds']:.1f} objects/s, and writes {write['rows'] / write['seconds']:.1f} rows/s"
        )
    told.append(f"start: {found.start_s[1]:.1f} s; commit and index: {found.finish_s:.1f} s, as measured")
    if found.far:
        told.append("the runner, the threads or some GPUs are others than were measured, so that the range is wide")
    return told
