"""What the pools of a Ray Data execution look like while it works, as metrics."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError

from clusters import ClusterProfile
from clusters.prices import HOUR_S, price_now, priced_machines, without_price
from operators.batch import describe
from pipelines.planning.pools import Pool
from pipelines.ray_connection import living_capacity
from pipelines.telemetry import metrics
from pipelines.telemetry.metrics import Meter

log = logging.getLogger(__name__)

LOOK_S = 5.0  # between two looks


@dataclass
class PoolGauges:
    """What Ray Data is given to call, as `stall.WatchCallback` is. It looks every few seconds, and never ends an execution."""

    pools: Sequence[Pool]  # in the order of the flow
    meter: Meter
    profile: ClusterProfile
    looked_at: float = field(default_factory=time.monotonic)
    due_at: float = 0.0

    def __deepcopy__(self, memo: dict[int, Any]) -> PoolGauges:
        """Itself: Ray Data copies its settings, of which this is one."""
        return self

    def before_execution_starts(self, executor: Any) -> None:
        """The pools as they are planned."""
        for pool in self.pools:
            self.meter.set(metrics.ACTORS_MIN, pool.min, {"column": pool.column})

    def on_execution_step(self, executor: Any) -> None:
        """Once per step of the execution's loop, also where nothing happens."""
        if time.monotonic() < self.due_at:
            return
        self.due_at = time.monotonic() + LOOK_S
        try:
            self.look(executor)
        except RayError as failure:  # the head does not answer: that is not for metrics to decide about
            log.info("no metrics of actors and queues this time: %s", describe(failure))
        except AttributeError as failure:  # Ray Data's insides, which it may name otherwise one day
            self.due_at = float("inf")
            log.warning("this Ray does not tell of its pools: no metrics of actors and queues: %s", describe(failure))

    def look(self, executor: Any) -> None:
        """Actors and queues of the pools, and the time and cost of the machines since the last look."""
        states = [(op, state) for op, state in executor._topology.items() if op.get_autoscaling_actor_pools()]
        for pool, (operator, state) in zip(self.pools, states, strict=False):
            labels = {"column": pool.column}
            self.meter.set(metrics.ACTORS, operator.get_actor_info().running, labels)
            self.meter.set(metrics.QUEUED, state.total_enqueued_input_blocks(), labels)
        now = time.monotonic()
        seconds, self.looked_at = now - self.looked_at, now
        machines = sum(node["Alive"] for node in ray.nodes())
        self.meter.add(metrics.MACHINE_SECONDS, seconds * machines)
        if not without_price(priced_machines(self.profile)):
            self.meter.add(metrics.COST, seconds / HOUR_S * price_now(self.profile, living_capacity().nodes))

    def after_execution_succeeds(self, executor: Any) -> None:
        """No actor is left."""
        self._end()

    def after_execution_fails(self, executor: Any, error: Exception) -> None:
        """No actor is left."""
        self._end()

    def _end(self) -> None:
        for pool in self.pools:
            for metric in (metrics.ACTORS, metrics.ACTORS_MIN, metrics.QUEUED):
                self.meter.set(metric, 0, {"column": pool.column})
