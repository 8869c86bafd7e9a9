"""The acceptance lines of the main job that are no timings, on a part of the data. Later lines read earlier tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from issue_2 import LINES
from lines import Setting

THROUGH_RAY = {2, 3, 8}  # texts, pictures, and what only pools can do; the others are about tables


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory, data: Path, minilm: str, s3_endpoint: str) -> Setting:
    folder = tmp_path_factory.mktemp("acceptance")
    return Setting(folder, data, minilm, s3_endpoint, texts=200, queries=60, images="*/000?.jpg")


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("number", sorted(LINES))
def test_acceptance_line(number: int, setting: Setting) -> None:
    line = LINES[number](replace(setting, runner="ray" if number in THROUGH_RAY else "inline"))
    assert line.held, f"{line.target}\n  measured: {line.measured}"
