"""A run that fails gives back what it holds of Ray at once, while its error is still held, as a notebook holds the last one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import ray
from job_maker import make_job, run_job, write_texts
from ray.data import DataContext
from ray_actors import check_released

from operators.errors import LatentLakeError
from pipelines.flow.runners.pulse import Pulse
from pipelines.job.jobfile import parse_job
from pipelines.progress import EMBEDDING, Event

pytestmark = pytest.mark.usefixtures("ray_session")


def the_caller_stops(folder: Path, event: Event) -> None:
    if event.phase == EMBEDDING:
        raise RuntimeError("the caller has seen enough")


def the_work_disappears(folder: Path, event: Event) -> None:
    if event.phase == EMBEDDING:
        shutil.rmtree(folder / "lake")


def the_table_cannot_be_written(folder: Path, event: Event) -> None:
    """A worker's failure, while other shards are under way."""
    data = folder / "lake" / "t.lance" / "data"
    if event.phase == EMBEDDING and data.is_dir():
        data.rename(folder / "data")
        data.write_text("not a folder")


@pytest.mark.parametrize("happens", [the_caller_stops, the_work_disappears, the_table_cannot_be_written])
def test_a_failed_run_holds_no_actors(tmp_path: Path, happens: Callable[[Path, Event], None]) -> None:
    source = write_texts(tmp_path / "in", {f"{n}.txt": f"text {n}" for n in range(60)})
    spec = parse_job(make_job(tmp_path, source, shard={"max_objects": 2}))
    settings = DataContext.get_current()
    with pytest.raises((RuntimeError, LatentLakeError, OSError)) as caught:
        run_job(spec, runner="ray", progress=partial(happens, tmp_path))
    check_released()
    assert DataContext.get_current() is settings
    assert caught.value.__traceback__  # with all that its frames hold


def test_the_signs_of_tasks_are_heard_and_forgotten() -> None:
    """When this fails, Ray keeps no keys at its head any more: look for another place that needs no process."""
    pulse = Pulse()
    assert pulse.sign() is None
    signs = []
    for _ in range(2):
        ray.get(ray.remote(Pulse.beat).options(num_cpus=0).remote(pulse))
        signs.append(pulse.sign())
    assert None not in signs and len(set(signs)) == 2 and Pulse().sign() is None
    pulse.end()
    assert pulse.sign() is None
