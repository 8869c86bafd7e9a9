"""What a comparison found: as data, as text, in notebooks, and as a page that needs nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentlake.comparison.coverage import Coverage
from latentlake.comparison.drift import Drift
from latentlake.comparison.neighbours import Overlap, Share
from latentlake.views import PLAIN_WIDTH, show_cell, text_table

if TYPE_CHECKING:
    from latentlake.evaluation.results import Difference


@dataclass(frozen=True)
class Side:
    """One of the two columns that are compared, and the version of its table."""

    table: str
    uri: str
    version: int
    tag: str | None
    column: str
    fingerprint: str
    dimension: int
    metric: str

    def __str__(self) -> str:
        return f"{self.table} version {self.version}, column {self.column}"


@dataclass(frozen=True)
class Comparison:
    """Two columns side by side. `neighbours` is None where no two rows have a vector on both sides; `drift` is None where the
    columns have no space in common; `measures` are those of the suite, after minus before; `notes` say what to keep in mind.
    `models` are the fields of the columns' identities that differ, with both values: what makes their vectors different."""

    before: Side
    after: Side
    models: Mapping[str, tuple[str, str]]
    coverage: Coverage
    neighbours: Overlap | None
    drift: Drift | None
    measures: Sequence[Difference] = ()
    notes: Sequence[str] = field(default_factory=tuple)

    def to_json(self) -> dict[str, Any]:
        """Values for JSON."""
        told = {name: asdict(getattr(self, name)) for name in ("before", "after", "coverage")}
        return {
            **told,
            "models": {name: list(values) for name, values in self.models.items()},
            "neighbours": None if self.neighbours is None else asdict(self.neighbours),
            "drift": None if self.drift is None else self.drift.to_json(),
            "measures": [asdict(one) for one in self.measures],
            "notes": list(self.notes),
        }

    def to_text(self, width: int = PLAIN_WIDTH) -> str:
        """For a terminal of `width` characters."""
        lines = [f"before: {self.before}", f"after:  {self.after}"]
        if self.models:
            differing = [f"{name} ({one} -> {other})" for name, (one, other) in self.models.items()]
            lines.append(f"models differ in: {', '.join(differing)}")
        lines += ["", *coverage_lines(self.coverage)]
        if self.neighbours is not None:
            lines += ["", *neighbour_lines(self.neighbours, width)]
        if self.drift is not None:
            lines += ["", *drift_lines(self.drift, width)]
        if self.measures:
            rows = [measure_cells(one) for one in self.measures]
            lines += ["", text_table(rows, list(rows[0]), width)]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def to_html(self) -> str:
        """One page that loads nothing from anywhere, every text escaped. Raises `MissingExtra` without jinja2."""
        from latentlake.comparison.page import page_of

        return page_of(self)

    def write_page(self, path: str | Path) -> None:
        """Write `to_html` to a file. Raises `MissingExtra`, and `OSError` where it cannot be written."""
        Path(path).write_text(self.to_html(), encoding="utf-8")

    def __str__(self) -> str:
        return self.to_text(shutil.get_terminal_size((PLAIN_WIDTH, 24)).columns)

    def _repr_html_(self) -> str:
        from html import escape

        return f"<pre>{escape(self.to_text())}</pre>"


def coverage_lines(found: Coverage) -> list[str]:
    """What is said of the rows."""
    about = "about " if found.vectors_estimated else ""
    changed = "" if found.changed is None else f", {found.changed} of them of other content"
    lines = [
        f"rows: {found.rows_before} before, {found.rows_after} after; {found.common} in both{changed}; "
        f"{found.only_before} only before, {found.only_after} only after",
        f"vectors: {about}{found.vectors_before} before, {about}{found.vectors_after} after",
    ]
    for side, ids in (("before", found.ids_only_before), ("after", found.ids_only_after)):
        if ids:
            lines.append(f"only {side}, for example: {', '.join(show_cell(name) for name in ids)}")
    return lines


def neighbour_lines(found: Overlap, width: int) -> list[str]:
    """What is said of the neighbours."""
    lines = [
        f"neighbours: overlap@{found.k} {told_share(found.overlap)}; the nearest is the same for {told_share(found.first)}; "
        f"{found.overlap.rows} rows among {found.pool}"
    ]
    lines += [
        f"  {show_cell(name)}: {told_share(share)}, {share.rows} rows"
        for name, share in sorted(found.segments.items(), key=lambda one: one[1].value)
    ]
    if found.changed:
        rows = [
            {
                "changed most": row.id,
                "overlap": f"{row.overlap:.2f}",
                "before": ", ".join(row.before),
                "after": ", ".join(row.after),
            }
            for row in found.changed
        ]
        lines.append(text_table(rows, list(rows[0]), width))
    return lines


def drift_lines(found: Drift, width: int) -> list[str]:
    """What is said of the drift."""
    cells = [drift_cells("all", found), *(drift_cells(name, part) for name, part in found.segments.items())]
    lines = ["drift", text_table(cells, list(cells[0]), width)]
    if found.small_segments:
        names = ", ".join(show_cell(name) for name in found.small_segments[:20])
        lines.append(f"segments with too few rows: {names}{' …' if len(found.small_segments) > 20 else ''}")
    return lines


def drift_cells(name: str, found: Drift) -> dict[str, str]:
    """A line of the table of drifts."""
    return {
        "segment": name,
        "MMD": f"{found.mmd:.4f}",
        "p": f"{found.p_value:.3f}",
        "shift of mean": f"{found.mean_shift:.4f}",
        "Fréchet": f"{found.frechet:.4f}",
        "its floor": f"{found.frechet_floor:.4f}",
        "rows": f"{found.rows_before}, {found.rows_after}",
    }


def measure_cells(found: Difference) -> dict[str, str]:
    """A line of the table of measures."""
    return {
        "task": found.task,
        "measure": found.measure,
        "mode": found.mode,
        "before": f"{found.before:.4f}",
        "after": f"{found.after:.4f}",
        "difference": f"{found.value:+.4f}",
        "interval": "" if found.low is None or found.high is None else f"{found.low:+.4f} to {found.high:+.4f}",
        "n": str(found.n),
    }


def told_share(share: Share) -> str:
    """A share with its interval."""
    return f"{share.value:.3f} ({share.low:.3f} to {share.high:.3f})"
