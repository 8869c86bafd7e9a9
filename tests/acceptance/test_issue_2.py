"""The acceptance lines of the main job that are no timings, on a part of the data. Later lines read earlier tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from issue_2 import LINES
from lines import Setting

# Pictures; the others are about tables, and tests/pipelines/test_inline.py compares vectors of texts through Ray with those without.
THROUGH_RAY = {3}
# What other tests assert of smaller jobs: tests/faults/test_flaky_s3.py that a table on S3 is the same, tests/pipelines/test_growth.py
# that pools grow.
ELSEWHERE = {5, 8}


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory, data: Path, minilm: str, s3_endpoint: str) -> Setting:
    folder = tmp_path_factory.mktemp("acceptance")
    return Setting(folder, data, minilm, s3_endpoint, texts=60, queries=20, images="*/000[0-4].jpg", broken=1)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("number", sorted(LINES.keys() - ELSEWHERE))
def test_acceptance_line(number: int, setting: Setting) -> None:
    line = LINES[number](replace(setting, runner="ray" if number in THROUGH_RAY else "inline"))
    assert line.held, f"{line.target}\n  measured: {line.measured}"
