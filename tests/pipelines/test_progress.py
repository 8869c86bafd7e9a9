"""How far a run is, as it is told: the seconds of its phases, and a rate that does not count what was starting."""

from __future__ import annotations

import time

import pytest

from pipelines.cli.progress import ProgressLine, Rate
from pipelines.progress import EMBEDDING, LISTING, LOADING, STARTING, Event, Phases


def test_seconds_of_phases_add_up_to_the_run(monkeypatch: pytest.MonkeyPatch):
    phases, now = Phases(100.0), [100.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    for phase, seconds in ((LISTING, 2.0), (STARTING, 20.0), (LOADING, 13.0), (EMBEDDING, 5.0)):
        phases.begin(phase)
        now[0] += seconds
    assert phases.seconds() == {LISTING: 2.0, STARTING: 20.0, LOADING: 13.0, EMBEDDING: 5.0}
    # the first shard was finished at 135, and its source read at 131: so long the models were loading
    assert phases.seconds(first_read=131.0) == {LISTING: 2.0, STARTING: 20.0, LOADING: 9.0, EMBEDDING: 9.0}


def test_events_are_told_as_phases_begin_and_shards_finish():
    told: list[Event] = []
    phases = Phases(time.time(), told.append)
    phases.begin(LISTING)
    phases.begin(LOADING, 0, 10)
    phases.begin(EMBEDDING, 4, 10)
    phases.begin(EMBEDDING, 10, 10)
    assert [(event.phase, event.done, event.total) for event in told] == [
        (LISTING, 0, 0), (LOADING, 0, 10), (EMBEDDING, 4, 10), (EMBEDDING, 10, 10)
    ]  # fmt: skip
    assert list(phases.seconds()) == [LISTING, LOADING, EMBEDDING]


def test_the_rate_begins_with_the_first_shard():
    rate = Rate()
    assert rate.per_s is None
    rate.add(60.0, 100)  # a minute of starting
    assert rate.per_s is None
    rate.add(62.0, 140)
    assert rate.per_s == 20.0


def test_the_rate_is_that_of_the_last_minute():
    rate = Rate()
    for second in range(0, 200, 10):
        rate.add(second, second * 100 if second < 100 else 10_000 + (second - 100))
    assert rate.per_s == pytest.approx(1.0)


def test_what_a_line_says():
    line = ProgressLine(terminal=False)
    assert line.line() == "starting"
    line.update(Event(LOADING, 0, 500, 31.2))
    assert line.line() == "loading models, 31 s"
    line.update(Event(EMBEDDING, 100, 500, 40.0))
    assert line.line() == "embedding: 100/500 objects, 40 s"
    line.update(Event(EMBEDDING, 200, 500, 50.0))
    assert line.line() == "embedding: 200/500 objects, 50 s, 10.0/s, 30 s left"
