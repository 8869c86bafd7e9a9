"""How fast a stage works, apart from what its workers need once, with their first shard."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Pace:
    """Seconds of a stage and how much it did in them: rows, or objects."""

    seconds: float = 0.0
    done: int = 0
    first: dict[str, tuple[float, float, int]] = field(default_factory=dict)  # by worker: began, seconds, done

    def add(self, began: float, seconds: float, done: int, worker: str = "") -> None:
        """Count one shard."""
        self.seconds += seconds
        self.done += done
        if worker not in self.first or began < self.first[worker][0]:
            self.first[worker] = began, seconds, done

    @property
    def warm_s(self) -> float:
        """Seconds that the first shards took beyond what the others did for as much, summed; 0 where there are no others."""
        steady = self._steady()
        if steady is None:
            return 0.0
        seconds, done = steady
        first_s = sum(spent for _, spent, _ in self.first.values())
        return max(0.0, first_s - sum(done for _, _, done in self.first.values()) * seconds / done)

    @property
    def per_s(self) -> float | None:
        """Done per second once the worker is warm; None where nothing was done."""
        seconds, done = self._steady() or (self.seconds, self.done)
        return done / seconds if seconds and done else None

    def _steady(self) -> tuple[float, int] | None:
        """Seconds, and what was done, of all but the first shards; None where there is nothing else."""
        seconds = self.seconds - sum(spent for _, spent, _ in self.first.values())
        done = self.done - sum(done for _, _, done in self.first.values())
        return (seconds, done) if done > 0 and seconds > 0 else None
