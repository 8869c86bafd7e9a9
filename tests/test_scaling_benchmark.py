"""The simulation of `benchmarks/scaling.py` is arithmetic on measured lines, and a measurement of it runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from extrapolation import Gpu, Line, simulate  # noqa: E402


def test_a_line_goes_through_the_two_largest_sizes():
    line = Line.through([10, 30, 20], [99.0, 5.0, 4.0])
    assert (line.start, line.slope) == pytest.approx((2.0, 0.1))
    assert line.at(100) == pytest.approx(12.0)
    assert Line(1.0, -1.0).at(5) == 0


def test_hours_and_money_are_arithmetic():
    gpu = Gpu.parse("L4=250:0.8")
    assert gpu.hours(rows=1_800_000, busy=0.5) == pytest.approx(4.0)
    assert gpu.cost(rows=1_800_000, busy=0.5) == pytest.approx(3.2)
    for wrong in ("L4", "=1:1", "L4=0:1", "L4=1:-1", "L4=a:1"):
        with pytest.raises(ValueError):
            Gpu.parse(wrong)


def test_each_quantity_grows_with_its_own_number():
    lines = {"files seconds": Line(0, 1e-5), "shards: driver_mb": Line(100, 0.01), "rows: index seconds": Line(0, 1e-5)}
    (gpu,) = (Gpu("G", 1000, 2),)
    found = simulate(lines, 10**8, 1000, 100, [gpu], rows_per_object=2, busy=1.0)
    assert found["files seconds"] == pytest.approx(1000)
    assert (found["shards"], found["shards: driver_mb"]) == pytest.approx((100_000, 1100))
    assert found["rows: index seconds"] == pytest.approx(2000)
    assert found["vectors_tb"] == pytest.approx(2e8 * 400 / 1e12)
    assert (found["G hours"], found["G cost"]) == pytest.approx((2e8 / 3.6e6, 2e8 / 1.8e6))


@pytest.mark.slow
def test_it_measures_and_says_what_is_simulated(tmp_path: Path):
    command = [sys.executable, str(BENCHMARKS / "scaling.py"), "--kinds", "files", "--share", "0.01", "--gpu", "X=10:1"]
    done = subprocess.run(
        [*command, "--json", str(tmp_path / "found.json")], capture_output=True, text=True, check=True
    )
    assert "SIMULATION" in done.stdout and "X hours" in done.stdout
    found = json.loads((tmp_path / "found.json").read_text())
    assert set(found["figures"]["files"]) == {"100", "200", "400"}
    assert found["simulation"][0]["X hours"] == pytest.approx(10**8 / 10 / 0.9 / 3600)
