"""The Ray that a job runs on: the one of its profile, one that runs already, or a private one on this machine."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clusters import ClusterProfile

log = logging.getLogger(__name__)


@contextmanager
def running_ray(profile: ClusterProfile) -> Iterator[None]:
    """Ray, for as long as the job needs it. One that was running before is left running."""
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        yield
        return
    if profile.address is not None:
        import ray

        ray.init(address=profile.address, log_to_driver=False, logging_level=logging.WARNING)
        try:
            yield
        finally:
            ray.shutdown()
        return
    folder = Path(tempfile.mkdtemp(prefix="ll-", dir=tempfile.gettempdir()))
    private_authentication(folder)
    import ray

    ray.init(
        num_cpus=profile.cpus,
        num_gpus=profile.gpus,
        include_dashboard=False,
        object_store_memory=profile.object_store_bytes,
        log_to_driver=False,
        logging_level=logging.WARNING,
        _temp_dir=str(folder),
    )
    try:
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def private_authentication(folder: Path) -> None:
    """Let only this job's processes talk to its Ray; whoever set Ray's authentication before keeps it.

    Ray reads the mode as it is imported, so where that has happened the process keeps the mode it has: none.
    """
    if "RAY_AUTH_MODE" in os.environ:
        return
    if "ray" in sys.modules:
        os.environ["RAY_AUTH_MODE"] = "disabled"
        return
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
