"""The model stage of the flow: an actor with the weights of one model, which fills one vector column of each shard."""

from __future__ import annotations

import gc
import logging
import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from latentlake.stored import to_stored
from operators.batch import Batch, describe
from operators.batching import form_batches
from operators.embedders.base import Embedder, Limiter
from operators.loading import load_embedder
from operators.pulse import beat
from pipelines.flow.facts import fill_of
from pipelines.flow.patience import patient
from pipelines.flow.reading import ReadShard, reject, set_column
from pipelines.flow.shard import (
    Origin,
    Status,
    bisecting,
    is_left,
    left_shard,
    pack,
    prepared_batch,
    unpack,
    vector_array,
    vectors_of,
)
from pipelines.flow.watchdog import Watchdog
from pipelines.job.spec import EmbedSpec, LimitSpec
from pipelines.planning.pools import Pool
from pipelines.planning.work import read_work
from pipelines.state.journal import Journal
from pipelines.telemetry.logs import about

log = logging.getLogger(__name__)

OUT_OF_MEMORY = re.compile(r"OutOfMemoryError|out of memory|can't allocate memory|bad_alloc", re.IGNORECASE)
NORM_TOLERANCE = 1e-2  # of a normalised vector's length; float16 keeps three digits
LIMIT_S = 3600.0  # a task that has come no further for so long is not at work
SAMPLE_ROWS = 96  # of each shard that the sample is drawn from
CALIBRATION_S = 3.0  # how long an actor times its model on the sample


class Host:
    """What an actor runs in, as far as the actor has to know it: here a process of its own, which nobody watches."""

    def actor(self) -> str:
        """Name of the actor, which it keeps when it is started again."""
        return f"process-{os.getpid()}"

    def load(self, task: EmbedTask) -> Embedder:
        """The model, loaded as the pool says."""
        config, pool = task.embed.config, task.pool
        return patient(
            lambda: load_embedder(config, pool.device, pool.threads, task.limiter), task.limits.unavailable_timeout_s
        )

    def at_work(self, limit_s: float = LIMIT_S) -> AbstractContextManager[Callable[[], None]]:
        """While entered, the actor is at work, unless `limit_s` pass without a call of what is yielded: "got further"."""
        return nullcontext(lambda: None)


@dataclass(frozen=True)
class EmbedTask:
    """What the actors of one pool are told."""

    embed: EmbedSpec
    pool: Pool
    drop: tuple[str, ...]  # prepared keys that no later model needs
    reader: ReadShard  # with which an actor draws its sample, so that no data travels with the task
    sampled: tuple[int, ...]  # shards to draw from; none: the model is not timed before it works
    host: Host = Host()  # noqa: RUF009 (without state)
    start_s: float = 900  # how long a model may take to load
    limits: LimitSpec = field(default_factory=LimitSpec)
    limiter: Limiter | None = None  # of the service that the model asks


class EmbedShard:
    """Holds one model and embeds shards with it."""

    def __init__(self, task: EmbedTask) -> None:
        self.task = task
        self.budget = task.embed.batch_cost or task.embed.config.batch_cost(task.pool.device)
        with task.host.at_work(task.start_s):
            self._load(task)

    def _load(self, task: EmbedTask) -> None:
        began = time.time()
        self.embedder: Embedder = task.host.load(task)
        self.load_s = time.time() - began
        column, seconds = task.embed.column, round(self.load_s, 3)
        told = {"event": "model", "column": column, "device": task.pool.device, "seconds": seconds}
        log.info("the model of column '%s' is loaded", column, extra=told)
        self.actor = task.host.actor()
        self.bare_rate: float | None = None
        if not task.sampled or not task.embed.config.calibrates:
            return
        # An actor that died as it began is begun again under its name; what killed it may be a row of the sample.
        with (
            Journal(task.reader.place, f"load-{task.embed.column}-{self.actor}") as journal,
            Watchdog(journal, task.limits.object_timeout_s),
        ):
            self.bare_rate = None if journal.careful else bare_rate(self.embedder, draw_sample(task), self.budget)

    def __call__(self, block: pa.Table) -> pa.Table:
        """Fill the column's vectors in the rows that want one; drop what this model alone had prepared.

        A shard that no model has begun is left where the run is to stop.
        """
        if is_left(block):
            return block
        if self.task.reader.is_stopped() and self.task.embed.column == self.task.reader.spec.columns[0]:
            return left_shard(unpack(block)[0].shard)
        with self.task.host.at_work() as further:
            return self._embed(block, further)

    def _embed(self, block: pa.Table, further: Callable[[], None]) -> pa.Table:
        began = time.time()
        status, rows = unpack(block)
        column, key = self.task.embed.column, self.task.embed.config.preparation_key()
        origins = rows[f"origin.{column}"].to_numpy().copy()
        todo = np.flatnonzero(origins == Origin.TO_EMBED)
        vectors, model_s, tokens, fill = vectors_of(rows[column]), 0.0, 0, None
        if len(todo):
            prepared, ids = prepared_batch(rows, key, todo), rows["id"].take(pa.array(todo)).to_pylist()
            tokens = int(prepared["cost"].sum()) if f"{column}_tokens" in rows.column_names else 0
            fill = fill_of(prepared, self.budget)
            with (
                about(shard=status.shard, column=column),
                Journal(self.task.reader.place, f"{status.shard:09}-{column}") as journal,
                Watchdog(journal, self.task.limits.object_timeout_s),
            ):
                model_began = time.perf_counter()
                made, reasons, self.budget = embed_rows(
                    self.embedder, prepared, self.budget, journal, ids, further, self.task.limits.unavailable_timeout_s
                )
                model_s = time.perf_counter() - model_began
            stored = to_stored(made, self.task.embed.dtype)
            checked = made if self.task.embed.dtype == "binary" else stored  # of bits nobody can tell
            reasons |= invalid_vectors(checked, self.task.embed.config.normalize, set(reasons))
            for at, reason in reasons.items():
                status.rejects.append(reject(rows, int(todo[at]), column, "embed", reason))
            vectors[todo] = stored
            origins[todo] = Origin.EMBEDDED
            origins[todo[list(reasons)]] = Origin.REJECTED
        copy_repeats(rows, column, vectors, origins, status)
        rows = set_column(rows, column, vector_array(vectors, origins != Origin.REJECTED))
        rows = set_column(rows, f"origin.{column}", pa.array(origins))
        unused = [n for n in rows.column_names if n.startswith(tuple(f"prepared.{key}." for key in self.task.drop))]
        status.time(
            "embed",
            began,
            column=column,
            rows=int((origins[todo] == Origin.EMBEDDED).sum()),
            tokens=tokens,
            fill=fill,
            model_s=model_s,
            actor=self.actor,
            bare_rate=self.bare_rate,
            budget=self.budget,
            calibrates=self.task.embed.config.calibrates,
            device=self.task.pool.device,
            accelerator=accelerator_name(self.task.pool.device),
            threads=self.task.pool.threads,
            measured=getattr(self.embedder, "measured", {}),
        )
        return pack(status, rows.drop_columns(unused))


def embed_rows(
    embedder: Embedder,
    prepared: Batch,
    budget: int,
    journal: Journal,
    ids: Sequence[str],
    further: Callable[[], None] = lambda: None,
    unavailable_s: float = 0,
) -> tuple[np.ndarray, dict[int, str], int]:
    """Vectors float32 (n, dim) of prepared rows, why rows have none, by row, and the budget that batches may keep to.

    A batch on which the model raises is tried again, then halved until the bad rows stand alone. Where memory ran out and
    no row alone is to blame, the budget is halved for all batches to come. Rows that killed their process have no vector.
    `further` is called for each batch. Raises `Unavailable` where a batch met nothing else for `unavailable_s`.
    """
    total = len(prepared["cost"])
    reasons = {row: journal.fault_of(ids[row]) for row in np.flatnonzero(journal.is_dead(ids)).tolist()}
    vectors: np.ndarray | None = None
    exhausted = False

    def keep(rows: np.ndarray, made: np.ndarray) -> None:
        """Put the vectors of some rows in their places."""
        nonlocal vectors
        further()
        if vectors is None:
            vectors = np.zeros((total, made.shape[1]), dtype=np.float32)
        vectors[rows] = made

    def work(rows: np.ndarray) -> None:
        """Embed some rows; raises what the model raises."""
        nonlocal exhausted
        beat()
        try:
            keep(rows, patient(lambda: embedder.embed(rows_of(prepared, rows)), unavailable_s, further))
        except Exception as failure:
            exhausted |= is_out_of_memory(failure)
            raise

    def give_up(row: int, failure: Exception) -> None:
        reasons[row] = describe(failure)

    living = np.array([row for row in range(total) if row not in reasons], dtype=np.int64)
    waiting = deque(living[batch] for batch in form_batches(prepared["cost"][living], budget))
    if (ahead := int(getattr(embedder, "runs_ahead", 0))) and not journal.careful:
        for batch, made in run_ahead(embedder, prepared, waiting, ahead):
            keep(batch, made)
    while waiting:
        batch = waiting.popleft()
        exhausted, known = False, len(reasons)
        for unit in journal.units(batch, ids):
            bisecting(unit, work, give_up)
        if exhausted and len(reasons) == known and len(batch) > 1:
            budget = max(1, budget // 2)
            log.warning("out of memory: batches are halved, to a cost of %d", budget)
            rest = np.concatenate([batch[:0], *waiting])
            waiting = deque(rest[batch] for batch in form_batches(prepared["cost"][rest], budget))
    return np.zeros((total, 1), dtype=np.float32) if vectors is None else vectors, reasons, budget


def run_ahead(
    embedder: Any, prepared: Batch, waiting: deque[np.ndarray], ahead: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches taken off `waiting`, with their vectors: `ahead` more are begun before those of one are waited for.

    So a GPU, or a service, works at one while the next is on its way. Those that raise are put back when all have been
    taken, for the caller to look at one by one.
    """
    begun: deque[tuple[np.ndarray, Callable[[], np.ndarray]]] = deque()
    failed: list[np.ndarray] = []
    while waiting or begun:
        beat()
        batch = waiting.popleft() if waiting and len(begun) <= ahead else None
        try:
            if batch is not None:
                begun.append((batch, embedder.begin(rows_of(prepared, batch))))
                continue
            batch, finish = begun.popleft()
            made = finish()
        except Exception as failure:  # whatever it is, it is raised again by the batch alone
            log.warning("a batch failed, and is tried again by itself: %s", describe(failure))
            assert batch is not None
            failed.append(batch)
            continue
        yield batch, made
    waiting.extend(failed)


def rows_of(prepared: Batch, rows: np.ndarray) -> Batch:
    """Some of the prepared rows."""
    return {name: values[rows] for name, values in prepared.items()}


def is_out_of_memory(failure: Exception) -> bool:
    """Whether memory ran out, on the CPU or the GPU; what the GPU's allocator holds in reserve is then given back."""
    if not isinstance(failure, MemoryError) and not OUT_OF_MEMORY.search(f"{type(failure).__name__}: {failure}"):
        return False
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    return True


def accelerator_name(device: str) -> str | None:
    """What a GPU calls itself; None on a CPU, and where a model does not use torch."""
    torch = sys.modules.get("torch")
    if torch is None or not device.startswith("cuda") or not torch.cuda.is_available():
        return None
    return str(torch.cuda.get_device_name())


def invalid_vectors(vectors: np.ndarray, normalized: bool, known: set[int]) -> dict[int, str]:
    """Why vectors (n, dim) must not reach the table, by row: not finite, all zero, or not of length 1 where it is due."""
    norms = np.linalg.norm(vectors.astype(np.float32), axis=1)
    finite = np.isfinite(vectors).all(axis=1)
    found = {}
    for row in np.flatnonzero(~finite | (norms == 0) | (normalized & (np.abs(norms - 1) > NORM_TOLERANCE))).tolist():
        if row not in known:
            reason = (
                "is not finite" if not finite[row] else "is zero" if norms[row] == 0 else f"has length {norms[row]:.4f}"
            )
            found[row] = f"the vector {reason}"
    return found


def copy_repeats(rows: pa.Table, column: str, vectors: np.ndarray, origins: np.ndarray, status: Status) -> None:
    """Give rows that repeat an earlier row's content that row's vector, or its reject; in place."""
    waiting = np.flatnonzero((origins == Origin.REUSED) & rows[column].is_null().to_numpy())
    if not len(waiting):
        return
    hashes = rows["content_hash"].to_pylist()
    first = {hashes[row]: row for row in np.flatnonzero(np.isin(origins, (Origin.EMBEDDED, Origin.REJECTED)))[::-1]}
    for row in waiting:
        source = first[hashes[row]]
        vectors[row] = vectors[source]
        if origins[source] == Origin.REJECTED:
            origins[row] = Origin.REJECTED
            status.rejects.append(reject(rows, int(row), column, "embed", "rejected with the row of the same content"))


def draw_sample(task: EmbedTask) -> Batch:
    """Prepared rows of a few shards, spread over the work; empty where these have none to embed."""
    key = task.embed.config.preparation_key()
    found = []
    for shard in task.sampled:
        work = read_work(task.reader.place, shard)
        entries = np.unique(np.linspace(0, work.num_rows - 1, SAMPLE_ROWS).astype(int))
        _, rows = unpack(task.reader.read(shard, work.take(pa.array(entries)), look_up=False))
        cost = f"prepared.{key}.cost"
        if cost in rows.column_names and len(ready := np.flatnonzero(rows[cost].is_valid().to_numpy())):
            found.append(prepared_batch(rows, key, ready))
    return {name: np.concatenate([part[name] for part in found]) for name in found[0]} if found else {}


def bare_rate(embedder: Embedder, sample: Batch, budget: int) -> float | None:
    """Rows a second that the model alone embeds, from a sample of the job's rows; None without a sample.

    All actors of a pool time it at once, while nothing else runs, so that the sum is what this machine's model can do.
    """
    if not len(sample.get("cost", ())):
        return None
    batches = form_batches(sample["cost"], budget)
    order = np.random.default_rng(0).permutation(len(batches))
    try:
        embedder.embed(rows_of(sample, batches[order[0]]))  # the first call warms up
        began, rows = time.perf_counter(), 0
        for index in order:
            beat()
            embedder.embed(rows_of(sample, batches[index]))
            rows += len(batches[index])
            if time.perf_counter() - began > CALIBRATION_S:
                break
    except Exception as failure:  # of a row of the sample, which answers for it in the stream
        log.warning("the model's own rate could not be measured: %s", describe(failure))
        return None
    return rows / max(time.perf_counter() - began, 1e-9)


def drops(embeds: tuple[EmbedSpec, ...]) -> list[tuple[str, ...]]:
    """For each model, the prepared keys that no later model needs."""
    keys = [embed.config.preparation_key() for embed in embeds]
    return [() if key in keys[index + 1 :] else (key,) for index, key in enumerate(keys)]
