"""A job's preprocessing: decode, then the operators it names, in order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from operators.batch import Batch, describe, held_bytes, live_rows, object_array, take_rows
from operators.decode import find_decoder, positions_of
from operators.embedders.base import Role
from operators.errors import SpecError, Unavailable
from operators.fan_out import CHUNK, Position
from operators.preprocess import Tokenizer, find_operator


@dataclass(frozen=True)
class Step:
    """One operator of a job, with its parameters."""

    op: str
    params: Mapping[str, Any]

    def apply(self, batch: Batch, tokenizers: Mapping[str, Tokenizer]) -> Batch:
        """Run the operator. `tokenizers` are those of the job's vector columns, by column."""
        known = find_operator(self.op)
        extra = {"tokenizer": tokenizers[self.params["column"]]} if known.needs_tokenizer else {}
        made = known.apply(batch, **self.params, **extra)
        if missing := [position.name for position in known.positions if position.name not in made]:
            raise SpecError(f"{self.op}: declares the position '{missing[0]}', and does not write it.")
        return made

    def fingerprint_fields(self) -> dict[str, Any]:
        """What of this step changes a vector's numbers."""
        return {"op": self.op, "version": find_operator(self.op).version, "params": dict(self.params)}


@dataclass(frozen=True)
class Chain:
    """Decoder of `modality` with its options, then `steps`."""

    modality: str
    steps: tuple[Step, ...] = ()
    decode: Mapping[str, Any] = field(default_factory=dict)  # what differs from the decoder's defaults

    @property
    def column(self) -> str:
        """The batch column that decoding writes and the embedders read: "text" or "image"."""
        return str(find_decoder(self.modality).COLUMN)

    @property
    def positions(self) -> tuple[Position, ...]:
        """Columns that say where in its object a row lies, as the decoder and the operators declare them; none: an object is one row."""
        made = [
            *positions_of(find_decoder(self.modality)),
            *(p for s in self.steps for p in find_operator(s.op).positions),
        ]
        return tuple(dict.fromkeys([CHUNK, *made])) if made else ()

    def pieces(self, batch: Batch, tokenizers: Mapping[str, Tokenizer], limit: int) -> Iterator[Batch]:
        """Run a batch of objects piece by piece: a piece holds about `limit` bytes at most of what comes out, or one object.

        Objects go through the chain one by one, so that what is at work beside a piece is one object too; texts that are
        not cut up, which no operator makes longer by much, go together. There is one piece at least.
        """
        together = self.modality == "text" and not self.positions
        if together or len(batch["id"]) < 2:
            yield self.run(batch, tokenizers)
            return
        measure = getattr(find_decoder(self.modality), "decoded_bytes", None)
        held: list[Batch] = []
        size = 0
        for row in range(len(batch["id"])):
            content = batch["content"][row]
            if held and measure and content is not None and size + measure(content) > limit:
                yield concat_batches(held)
                held, size = [], 0
            held.append(self.run(take_rows(batch, np.array([row])), tokenizers))
            more = sum(held_bytes(value) for value in held[-1][self.column])
            if len(held) > 1 and size + more > limit:
                yield concat_batches(held[:-1])
                del held[:-1]
                size = 0
            size += more
        yield concat_batches(held)

    def run(self, batch: Batch, tokenizers: Mapping[str, Tokenizer], role: Role = "document") -> Batch:
        """Decode `content`, then apply the steps; queries skip the operators that are not `at_query`."""
        batch = find_decoder(self.modality).decode(batch, **self.decode)
        for step in self.steps:
            if role == "document" or find_operator(step.op).at_query:
                batch = apply_bisecting(step, batch, tokenizers)
        return batch

    def fingerprint_fields(self) -> dict[str, Any]:
        """What of the decoding and preprocessing changes a vector's numbers."""
        return {
            "modality": self.modality,
            "decode": find_decoder(self.modality).VERSION,
            "preprocess": [step.fingerprint_fields() for step in self.steps],
            **({"decode_options": dict(self.decode)} if self.decode else {}),
        }

    def to_json(self) -> dict[str, Any]:
        """The chain as JSON-able values; `Chain.from_json` is the inverse."""
        steps = [{"op": s.op, **s.params} for s in self.steps]
        return {"modality": self.modality, "steps": steps, **({"decode": dict(self.decode)} if self.decode else {})}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Chain:
        """Rebuild a chain that `to_json` wrote."""
        steps = [Step(s["op"], {k: v for k, v in s.items() if k != "op"}) for s in value["steps"]]
        return cls(value["modality"], tuple(steps), dict(value.get("decode") or {}))


def apply_bisecting(step: Step, batch: Batch, tokenizers: Mapping[str, Tokenizer]) -> Batch:
    """Apply `step`; where it raises, halve the batch until the rows that make it raise stand alone, and reject these.

    `SpecError` and `Unavailable` pass: every row would raise them.
    """
    try:
        return step.apply(batch, tokenizers)
    except (SpecError, Unavailable):
        raise
    except Exception as failure:  # an operator of a third party may raise anything; the row answers for it
        rows = len(batch["id"])
        if not len(live_rows(batch)):
            return batch
        if rows == 1:
            return {**batch, "error": object_array([f"{step.op}: {describe(failure)}"])}
        halves = [np.arange(rows // 2), np.arange(rows // 2, rows)]
        return concat_batches([apply_bisecting(step, take_rows(batch, half), tokenizers) for half in halves])


def concat_batches(batches: Sequence[Batch]) -> Batch:
    """Join batches; a column that only some of them have is None elsewhere."""
    names = list(dict.fromkeys(name for batch in batches for name in batch))
    return {
        name: np.concatenate([b[name] if name in b else np.full(len(b["id"]), None, dtype=object) for b in batches])
        for name in names
    }


def reject_empty(batch: Batch) -> Batch:
    """Reject the live rows of a text batch that hold no text, with the reason `empty`."""
    errors = batch["error"].copy()
    for row in live_rows(batch):
        text = batch["text"][row]
        if not text or text.isspace():  # `strip` would copy it
            errors[row] = "preprocess: empty"
    return {**batch, "error": errors}
