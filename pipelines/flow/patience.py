"""Waiting for a service that a model needs: what it could not do is asked again, later and later, up to a bound."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

import tenacity

from operators.errors import Unavailable
from operators.pulse import beat

log = logging.getLogger(__name__)

T = TypeVar("T")

BEAT_S = 1.0  # between two signs of life while we wait
BACKOFF = tenacity.wait_random_exponential(multiplier=1, max=60)


def patient(work: Callable[[], T], bound_s: float, waiting: Callable[[], None] = lambda: None) -> T:
    """What `work` returns. While it raises `Unavailable` it is called again, after a pause that grows, or that the service asks for.

    `waiting` is called now and then during a pause. Raises `Unavailable` where the next pause would end after `bound_s`.
    """

    def pause(seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            beat()
            waiting()
            time.sleep(min(left, BEAT_S))

    again = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(Unavailable),
        wait=pause_of,
        stop=tenacity.stop_before_delay(bound_s),
        sleep=pause,
        before_sleep=tell,
        reraise=True,
    )
    try:
        return again(work)
    except Unavailable as failure:
        raise Unavailable(
            f"{failure}\n  It was asked again for up to {bound_s:g} s (limits.unavailable_timeout_s). Finished shards are kept: run the "
            "job again once it answers."
        ) from failure


def tell(state: tenacity.RetryCallState) -> None:
    """Log why, and how long, we wait."""
    failure = state.outcome.exception() if state.outcome else None
    log.warning("asked again in %.0f s: %s", state.upcoming_sleep, failure)


def pause_of(state: tenacity.RetryCallState) -> float:
    """How long to wait: what the service asks for, if that is longer than our own pause."""
    failure = state.outcome.exception() if state.outcome else None
    asked = failure.retry_after_s if isinstance(failure, Unavailable) else None
    return max(BACKOFF(state), asked or 0.0)
