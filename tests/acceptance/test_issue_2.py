"""The acceptance lines of the main job that are no timings, on a part of the data. Later lines read earlier tables."""

from __future__ import annotations

from pathlib import Path

import pytest
from issue_2 import LINES
from lines import Setting


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory, data: Path, minilm: str, s3_endpoint: str) -> Setting:
    return Setting(tmp_path_factory.mktemp("acceptance"), data, minilm, s3_endpoint, texts=200, images="*/000?.jpg")


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("number", sorted(LINES))
def test_acceptance_line(number: int, setting: Setting) -> None:
    line = LINES[number](setting)
    assert line.held, f"{line.target}\n  measured: {line.measured}"
