"""The token that lets its bearer use a Ray cluster: as good as a login to its machines, so it stands in a file or a variable.

It goes into the header of a request, and nowhere else: not into arguments, runtime environments, records or logs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from .errors import CredentialsError

TOKEN_REMEDY = (
    "Set RAY_AUTH_TOKEN_PATH to the file that holds the cluster's token (or RAY_AUTH_TOKEN to the token itself); "
    "whoever runs the cluster has it."
)


def header_of(token: str | None) -> dict[str, str]:
    """The header of requests that bear a token; none without one. Raises `CredentialsError`, which does not repeat it."""
    if token is None:
        return {}
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        raise CredentialsError(f"the cluster's token is not one word of printable ASCII characters.\n  {TOKEN_REMEDY}")
    return {"Authorization": f"Bearer {token}"}


def find_token(environment: Mapping[str, str]) -> str | None:
    """The cluster's token where Ray's own tools look for it; None: there is none. Raises `CredentialsError`."""
    if token := environment.get("RAY_AUTH_TOKEN", "").strip():
        return token
    if path := environment.get("RAY_AUTH_TOKEN_PATH"):
        return read_token(Path(path).expanduser())
    usual = Path.home() / ".ray" / "auth_token"
    return read_token(usual) if environment.get("RAY_AUTH_MODE") == "token" and usual.is_file() else None


def read_token(path: Path) -> str:
    """The token in a file. Raises `CredentialsError`."""
    try:
        token = path.read_text(encoding="ascii", errors="replace").strip()
    except OSError as failure:
        raise CredentialsError(
            f"cannot read the cluster's token in '{path}': {failure.strerror}.\n  {TOKEN_REMEDY}"
        ) from failure
    if not token:
        raise CredentialsError(f"the file '{path}' for the cluster's token is empty.\n  {TOKEN_REMEDY}")
    return token
