"""How the workers of `pytest -n` share the files of tests: hooks of pytest, for `conftest`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parent
RAY, MODELS = "ray", "models"
TOGETHER = "ray_together"  # whether one worker runs all files that share the session's Ray, one after another
# Files that take longest, of those without the session's Ray. Handed out first, so that all workers end at about the same time;
# those that start a Ray of their own apart from one another.
LONGEST = (
    "tests/pipelines/test_cluster.py",
    "tests/latentlake/test_maps.py",
    "tests/faults/test_flaky_s3.py",
    "tests/test_docs.py",
    "tests/latentlake/tuning/test_tuning.py",
    "tests/clusters/test_submit.py",
    "tests/test_doc_commands.py",
    "tests/latentlake/test_credentials.py",
    "tests/pipelines/test_values_in_runs.py",
    "tests/pipelines/test_maintain.py",
    "tests/pipelines/test_resume.py",
    "tests/faults/test_run_credentials.py",
    "tests/latentlake/test_indexes.py",
    "tests/pipelines/test_looks.py",
    "tests/pipelines/test_sink.py",
    "tests/pipelines/test_cli.py",
    "tests/operators/test_memory_bounds.py",
    "tests/pipelines/test_watchdog.py",
    "tests/pipelines/test_publishing.py",
    "tests/pipelines/test_tag_gates.py",
    "tests/pipelines/test_left_out.py",
    "tests/test_notebooks.py",
    "tests/upgrade/test_upgrade.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that share the session's Ray come first, then those of models, then those that take longest."""
    ranks = {name: rank for rank, name in enumerate((RAY, MODELS, *LONGEST))}
    items.sort(key=lambda item: ranks.get(scope_of(item.nodeid), len(ranks)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """For `--dist loadfile`: one worker runs all files that share the session's Ray, so that only one is started.

    And one those of models: torch and transformers take seconds to import.
    """
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Together(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return scope_of(nodeid)

    config.option.loadscopereorder = False  # the order is that of the collection
    return Together(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker how its files are handed out."""
    node.workerinput[TOGETHER] = node.config.getvalue("dist") == "loadfile"


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """End the session's Ray when no file will need it any more: also an idle one takes a tenth of a CPU."""
    if scope_of(item.nodeid) != RAY or (nextitem is not None and scope_of(nextitem.nodeid) == RAY):
        return
    if getattr(item.config, "workerinput", {}).get(TOGETHER, True) and "ray" in sys.modules:
        sys.modules["ray"].shutdown()


def scope_of(nodeid: str) -> str:
    """What one worker runs: a file, all that share the session's Ray, or all of models."""
    name = nodeid.partition("::")[0]
    return SCOPES.get(name, name)


def files_with(*words: str, below: Path = TESTS) -> set[str]:
    """Files of tests that have one of these words, as pytest names them."""
    return {
        path.relative_to(TESTS.parent).as_posix()
        for path in below.rglob("test_*.py")
        if any(word in path.read_text(encoding="utf-8") for word in words)
    }


SCOPES = {
    **dict.fromkeys(files_with("import library", "import families", below=TESTS / "operators"), MODELS),
    **dict.fromkeys(files_with("ray_session"), RAY),
}
