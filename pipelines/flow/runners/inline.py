"""The flow without Ray: one child process does a shard's stages one after another, and the driver keeps lease and commit.

Where the child dies (a row killed it, it hung, or memory ran out), the rest runs through Ray, where what a row did is found:
its notes stand in the run's folder (see `state.journal`).
"""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Self, TypeVar

import pyarrow as pa

from operators.embedders.base import Embedder
from operators.errors import LatentLakeError
from operators.loading import load_embedder
from pipelines.child import Child, ChildDied, end_idle_children, give_back, take_child
from pipelines.flow.columns import MergeColumns
from pipelines.flow.embedding import EmbedShard, EmbedTask, Host
from pipelines.flow.graph import Stages, make_merge, make_stages
from pipelines.flow.runners.base import Lives, Runner
from pipelines.job.spec import EmbedSpec
from pipelines.planning.choice import inline_pools
from pipelines.planning.plan import Plan
from pipelines.planning.pools import Pool
from pipelines.state.manifest import finished_shards
from pipelines.telemetry.logs import WorkerLogs

log = logging.getLogger(__name__)

T = TypeVar("T")

IDLE_S = 20.0  # after which a child that no other run needs is ended
ACTORS, SHARD, LOGGED = "actors", "shard", "logged"  # what the child tells
STAGES = ("lance", "pyarrow.parquet", "pipelines.flow.reading", "pipelines.flow.writing")  # modules


class InlineRunner:
    """See the module, and `base.Runner`. `successor` makes the runner that does what is left when the child has died."""

    def __init__(self, successor: Callable[[], Runner]) -> None:
        self._successor = successor
        self._after: Runner | None = None
        self._child: Child | None = None
        self._ahead: list[Iterator[Any]] = []  # answers to what was asked ahead: models
        self._lives: Lives = {}
        self._closing = ExitStack()

    def begin(self, embeds: Sequence[EmbedSpec] = (), pools: Sequence[Pool] = ()) -> None:
        """Start the child, with its imports, and load models; returns at once. Errors of it are told when it is needed."""
        if self._child is None:
            self._child = take_child()
            self._closing.callback(end_idle_children, IDLE_S)
            self._closing.callback(give_back, self._child)
            self._child.prepare(import_modules, (STAGES,))
        if embeds:
            self._ahead.append(self._child.ask(None, load_ahead, (tuple(zip(embeds, pools, strict=True)),)))

    def close(self) -> None:
        """Let the child go: another run of this process may have it."""
        self._closing.close()
        self._child, self._ahead = None, []

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(self, *failure: Any) -> None:
        self._closing.__exit__(*failure)
        self._child, self._ahead = None, []

    def embed_shards(
        self, plan: Plan, version: int | None, shards: Sequence[int], attempt: str
    ) -> Generator[dict[str, Any], None, None]:
        """One shard after another."""
        if self._after is None:
            pools = inline_pools(plan.spec, plan.pools, plan.capacity)
            stages = make_stages(plan, version, shards, attempt, pools, InlineHost())
            if plan.budget_meter is not None and self._child is not None:
                plan.budget_meter.if_overdue(self._child.kill)
            try:
                for kind, value in self._ask(run_logged, stages, len(shards), WorkerLogs()):
                    if kind == ACTORS:
                        self._lives |= {name: (began, None) for name, began in value.items()}
                    elif kind == LOGGED:
                        logging.getLogger(value.name).handle(value)
                    else:
                        yield value
                return
            except ChildDied as failure:
                if plan.budget_meter is not None and plan.budget_meter.overdue:
                    return  # what is finished has its record
                self._succeed(failure)
            finally:
                if plan.budget_meter is not None:
                    plan.budget_meter.if_overdue(None)
            finished = set(finished_shards(plan.place))
            shards = [shard for shard in shards if shard not in finished]
        assert self._after is not None
        yield from self._after.embed_shards(plan, version, shards, attempt)

    def merge_columns(self, plan: Plan, version: int, patches: Mapping[int, Sequence[str]]) -> None:
        """One fragment after another."""
        if self._after is None:
            try:
                for _ in self._ask(merge_all, make_merge(plan, version, patches)):
                    pass
                return
            except ChildDied as failure:
                self._succeed(failure)
        assert self._after is not None
        self._after.merge_columns(plan, version, patches)

    def lives(self, actors: Collection[str]) -> Lives:
        """Of the child's models, and of the successor's actors."""
        mine = {name: life for name, life in self._lives.items() if name in actors}
        return mine if self._after is None else mine | self._after.lives(actors)

    def _ask(self, function: Callable[..., Iterable[T]], *arguments: Any) -> Iterator[T]:
        """What a function yields in the child. What it raises that is no error of our tree is wrapped in one."""
        assert self._child is not None, "enter it first"
        asked = self._child.ask(None, function, arguments)
        try:
            for ahead in self._ahead:
                for _ in ahead:
                    pass
            self._ahead = []
            yield from asked
        except (ChildDied, LatentLakeError):
            raise
        except Exception as failure:  # of a stage, whatever it is
            raise LatentLakeError(
                f"a task of the run failed: {type(failure).__name__}: {failure}\n"
                "  Finished shards are kept: fix the cause and run the job again."
            ) from failure

    def _succeed(self, failure: ChildDied) -> None:
        """Go on with the successor."""
        log.warning("the process that did the run's work without Ray died: %s. The run continues through Ray", failure)
        ended = time.time()
        self._lives = {name: (began, ended) for name, (began, _) in self._lives.items()}
        self._after = self._closing.enter_context(self._successor())


# What the child does.

LOADED: dict[str, Embedder] = {}  # models that were loaded ahead, by `model_key`


class InlineHost(Host):
    """The child, as an actor's host."""

    def load(self, task: EmbedTask) -> Embedder:
        """The model that was loaded ahead, if it was."""
        found = LOADED.pop(model_key(task.embed, task.pool), None)
        return super().load(task) if found is None else found


def import_modules(names: Sequence[str]) -> Iterator[None]:
    """Import modules."""
    for name in names:
        importlib.import_module(name)
        yield None


def load_ahead(models: Sequence[tuple[EmbedSpec, Pool]]) -> Iterator[None]:
    """Load models that a run will ask for; those of an earlier one that did not are dropped."""
    LOADED.clear()
    for embed, pool in models:
        if "remote" not in embed.config.runs_on:
            LOADED[model_key(embed, pool)] = load_embedder(embed.config, pool.device, pool.threads)
        yield None


def model_key(embed: EmbedSpec, pool: Pool) -> str:
    """Equal for the same model, loaded in the same way."""
    return f"{embed.column} {pool.device} {pool.threads} {embed.config.model_dump_json()}"


def run_logged(stages: Stages, shards: int, logs: WorkerLogs) -> Iterator[tuple[str, Any]]:
    """What `run_stages` tells; and what is logged meanwhile, for the driver to log."""
    with logs.collected() as records:
        for told in run_stages(stages, shards):
            while records:
                yield LOGGED, records.popleft()
            yield told
        while records:
            yield LOGGED, records.popleft()


def run_stages(stages: Stages, shards: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Take all shards through the stages; tells when the actors began, then each finished shard's report."""
    began = time.time()
    actors = [EmbedShard(task) for task in stages.embed]
    LOADED.clear()
    yield ACTORS, {actor.actor: began for actor in actors}
    for at in range(shards):
        block = stages.read(pa.table({"id": [at]}))
        for actor in actors:
            block = actor(block)
        for report in stages.write(block).to_pylist():
            yield SHARD, report


def merge_all(merge: MergeColumns) -> Iterator[None]:
    """Merge all fragments, one at a time."""
    for at in range(len(merge.work)):
        merge(pa.table({"id": [at]}))
        yield None
