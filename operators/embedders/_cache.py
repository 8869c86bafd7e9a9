"""Files that are made of a model once, and kept in the user's cache folder."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def made_folder(kind: str, name: str, make: Callable[[Path], None]) -> Path:
    """The folder `name` among those of `kind`, which `make(folder)` fills unless it is there.

    Whole or not there at all: several processes may make one folder at a time, and the first one's is kept.
    """
    from platformdirs import user_cache_path

    folder = user_cache_path("latentlake") / kind / name
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{name}."))
    try:
        make(temporary)
        temporary.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was faster, and made the same
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder
