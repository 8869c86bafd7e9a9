"""What a run may use: hours and money. A meter watches it, and tells the stages, by a file, to take no more shards."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from clusters import ClusterProfile
from clusters.prices import HOUR_S, price_now, priced_machines, without_price
from latentlake.storage import Storage
from operators.batch import describe
from operators.errors import BudgetSpent, SpecError
from pipelines.ray_connection import is_connected, living_capacity

log = logging.getLogger(__name__)

STOP = "stop"  # in a run's folder, while no more shards are taken
LOOK_S = 1.0  # between two looks of the meter
GRACE_S = 600.0  # that the shards in flight may take to be finished, once the budget is spent


@dataclass(frozen=True)
class Budget:
    """The most that one attempt at a run may use, from its start."""

    max_hours: float | None = None
    max_cost: float | None = None

    def check(self, profile: ClusterProfile) -> None:
        """Raise `SpecError` where it cannot be kept: no amount, or no price to count by."""
        for name, amount in (("max-hours", self.max_hours), ("max-cost", self.max_cost)):
            if amount is not None and not amount > 0:
                raise SpecError(f"--{name} {amount:g}: give more than 0.")
        if self.max_cost is not None and (missing := without_price(priced_machines(profile))):
            raise SpecError(
                f"--max-cost needs a price, and the cluster profile states none for {', '.join(missing)}.\n"
                "  State `price_per_hour` there (--cluster FILE); 0 for a machine that costs nothing."
            )

    def __bool__(self) -> bool:
        return self.max_hours is not None or self.max_cost is not None


class BudgetMeter:
    """Counts what a run has used of its budget, in a thread while it is entered.

    Once it is spent, `STOP` is put into the run's folder, and shards that nobody has begun are left. Those in flight have
    `GRACE_S` more; then `abandon` is called.
    """

    def __init__(self, budget: Budget, profile: ClusterProfile, began: float) -> None:
        """`began` is in seconds since the epoch. Raises `SpecError`, see `Budget.check`."""
        budget.check(profile)
        self.budget, self.profile, self.began = budget, profile, began
        self.cost = 0.0
        self.spent_at: float | None = None
        self.why = ""
        self._counted = began  # until when
        self._place: Storage | None = None
        self._told = False
        self._abandon: Callable[[], object] | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="budget", daemon=True)

    def watch(self, place: Storage) -> None:
        """From now on there is a run, with its folder. What an earlier attempt left there counts no more."""
        place.remove(STOP)
        self._place = place
        self.look()

    def if_overdue(self, abandon: Callable[[], object] | None) -> None:
        """What to call, again and again, when shards in flight are not finished in time."""
        self._abandon = abandon

    @property
    def overdue(self) -> bool:
        """Whether the shards in flight have had their time."""
        return self.spent_at is not None and time.time() > self.spent_at + GRACE_S

    def look(self) -> None:
        """Count, and tell of it where the budget is spent."""
        now = time.time()
        if self.budget.max_cost is not None:
            living = living_capacity().nodes if is_connected() else None
            self.cost += price_now(self.profile, living) * (now - self._counted) / HOUR_S
        self._counted = now
        if self.spent_at is None and (why := self._why_spent(now)):
            self.spent_at, self.why = now, why
            log.warning("%s: no more shards are taken, those in flight are finished", why)
        if self.spent_at is not None and self._place is not None and not self._told:
            self._place.put(STOP, self.why.encode())
            self._told = True

    def failure(self, finished: int, shards: int) -> BudgetSpent:
        """What a run raises that was stopped after so many of its shards."""
        return BudgetSpent(
            f"{self.why}. {finished} of {shards} shards are finished and kept; readers see what they saw before.\n"
            "  Run the job again: it resumes, and counts its hours and costs from its own start."
        )

    def _why_spent(self, now: float) -> str:
        hours, budget = (now - self.began) / HOUR_S, self.budget
        if budget.max_hours is not None and hours >= budget.max_hours:
            return f"the run has used the {budget.max_hours:g} hours of --max-hours"
        if budget.max_cost is not None and self.cost >= budget.max_cost:
            return f"the run has cost the {budget.max_cost:g} of --max-cost, in {hours:.2f} hours"
        return ""

    def _watch(self) -> None:
        while not self._over.wait(LOOK_S):
            try:
                self.look()
            except Exception as failure:  # of the store, or of a Ray that is just ending: the next look tries again
                log.warning("the run's budget could not be looked at: %s", describe(failure))
            if self.overdue and self._abandon is not None:
                self._abandon()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def is_stopped(place: Storage) -> bool:
    """Whether the run of a folder takes no more shards."""
    return bool(place.fs.exists(place.path(STOP)))
