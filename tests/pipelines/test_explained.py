"""What failed in a task comes to the user as the error that it was."""

from __future__ import annotations

import pytest
from ray.exceptions import ActorDiedError, RayTaskError, UserCodeException

from operators import errors
from operators.errors import InvalidSpec, LatentLakeError, SourceError
from pipelines.flow.runners.ray import explained

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, LatentLakeError)]
TEXT = "the store of 's3://x' does not answer: HTTP error\n  Run again: it resumes."


def told(failure: BaseException) -> BaseException:
    """What a failure of Ray's becomes."""
    with pytest.raises(LatentLakeError) as caught, explained():
        raise failure
    return caught.value


def actor_died(text: str) -> ActorDiedError:
    """What is left of an error that an actor raised as it began: its text."""
    return ActorDiedError(RayTaskError("f", text, KeyError("not sent")))


def of_task(cause: Exception) -> RayTaskError:
    return RayTaskError(
        "f", f"Traceback …\n{type(cause).__module__}.{type(cause).__name__}: {cause}", cause
    ).as_instanceof_cause()


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_of_ours_is_what_it_was(kind: type[LatentLakeError]):
    mistakes = ["a.b: is wrong.", "c (line 3): is missing."]
    cause = kind(mistakes, "job.yaml") if kind is InvalidSpec else kind(TEXT)
    wrapped = UserCodeException("Failed to apply UDF transform")
    wrapped.__cause__ = cause
    for failure in (of_task(cause), wrapped, RayTaskError("f", "", wrapped)):
        found = told(failure)
        assert type(found) is kind and str(found) == str(cause)
    found = told(actor_died(f"Traceback:\n  File x\noperators.errors.{kind.__name__}: {cause}\n\nMore of Ray's."))
    assert type(found) is kind and str(found) == str(cause)
    if isinstance(found, InvalidSpec):
        assert (found.problems, found.source) == (mistakes, "job.yaml")


def test_another_failure_is_told_with_its_kind():
    assert "a task of the run failed: KeyError: 'x'" in str(told(of_task(KeyError("x"))))
    assert isinstance(told(RayTaskError("f", "", SourceError("gone"))), SourceError)
