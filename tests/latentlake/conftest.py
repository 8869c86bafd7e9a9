"""Lakes to read and to write into."""

from __future__ import annotations

from pathlib import Path

import pytest
from lake_maker import NO_VECTOR, LakeMaker


@pytest.fixture
def maker(tmp_path: Path) -> LakeMaker:
    """An empty lake to write into."""
    return LakeMaker(str(tmp_path / "lake"))


@pytest.fixture(scope="session")
def shared_lake(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of a lake with the tables `notes` (texts, one of them without a vector) and `pictures`; not to be written."""
    folder = tmp_path_factory.mktemp("shared")
    maker = LakeMaker(str(folder / "lake"))
    maker.write_texts(no_vector=[NO_VECTOR])
    maker.write_images(folder / "objects")
    return maker.uri
