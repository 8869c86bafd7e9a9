"""A comparison as one HTML page. What a table holds is data: jinja2 escapes every text, and the page may load nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentlake.comparison.results import coverage_lines, drift_cells, measure_cells, told_share
from latentlake.views import show_cell
from operators.errors import MissingExtra

if TYPE_CHECKING:
    from latentlake.comparison.results import Comparison

TEMPLATES = Path(__file__).parent


def page_of(found: Comparison) -> str:
    """The page. Raises `MissingExtra` without jinja2."""
    return template("page.html").render(
        found=found,
        coverage=coverage_lines(found.coverage),
        drift=[] if found.drift is None else [drift_cells("all", found.drift), *segments_of(found)],
        measures=[measure_cells(one) for one in found.measures],
    )


def segments_of(found: Comparison) -> list[dict[str, str]]:
    """Lines of the table of drifts, a segment each."""
    assert found.drift is not None, "asked for where there is a drift"
    return [drift_cells(name, part) for name, part in found.drift.segments.items()]


def template(name: str) -> Any:
    """A template of this folder, with every value escaped and none left out. Raises `MissingExtra`."""
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as failure:
        raise MissingExtra("a page needs jinja2.\n  pip install 'latentlake[report]'") from failure
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    environment.filters |= {"cell": show_cell, "share": told_share}
    return environment.get_template(name)
