"""s3fs with the options and the credentials of a `Storage`, for what obstore cannot address: keys such as `a//b` and `a/../b`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from latentlake.credentials import Credentials, known_options, service_models
from operators.errors import MissingExtra


def open_s3fs(options: Mapping[str, str], credentials: Credentials | None) -> Any:
    """An `s3fs.S3FileSystem` for options as `storage.lance_options` gives them. Raises `MissingExtra`.

    Keys come from the options, from `credentials`, which it asks again as they grow old, or from the environment.
    """
    try:
        import s3fs
    except ImportError as failure:
        raise MissingExtra("this needs s3fs: pip install 'latentlake[s3]'") from failure
    known = known_options(options)
    region = known.get("region") or known.get("default_region")
    return s3fs.S3FileSystem(
        anon=known.get("skip_signature", "").lower() == "true",
        endpoint_url=known.get("endpoint") or known.get("endpoint_url"),
        key=known.get("access_key_id"),
        secret=known.get("secret_access_key"),
        token=known.get("session_token") or known.get("token"),
        client_kwargs={"region_name": region} if region else {},
        session=make_session(credentials),
        use_listings_cache=False,
        skip_instance_cache=True,
    )


def make_session(credentials: Credentials | None) -> Any:
    """aiobotocore's session, whose keys are those of `credentials`, where there are any."""
    from aiobotocore.credentials import AioDeferredRefreshableCredentials
    from aiobotocore.session import AioSession

    session = AioSession()
    session.register_component("data_loader", service_models(os.environ.get("AWS_DATA_PATH")))
    if credentials is None:
        return session

    async def refresh() -> dict[str, Any]:
        """The keys, as botocore names them."""
        keys = credentials.for_obstore()
        names = {"access_key": "access_key_id", "secret_key": "secret_access_key", "token": "token"}
        return {name: keys[ours] for name, ours in names.items()} | {"expiry_time": keys["expires_at"].isoformat()}

    class Provider:
        """What the session asks for credentials."""

        async def load_credentials(self) -> Any:
            """Credentials that ask ours."""
            return AioDeferredRefreshableCredentials(refresh, "latentlake")

    session.register_component("credential_provider", Provider())
    return session
