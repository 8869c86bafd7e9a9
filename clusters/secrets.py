"""What looks like a key: it never goes into a profile, a manifest or a job's record, which others can read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from operators.errors import redact_url

# Words of a name that holds a secret. TOKENIZERS_PARALLELISM and MAX_TOKENS hold none.
NAME = re.compile(
    r"(^|_)(SECRET|TOKEN|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|SAS|APIKEY|(API|ACCESS|ACCOUNT|PRIVATE|SECRET|AUTH)_?KEY)(_|$)"
)
# How such a name ends that tells where the secret is, or something else about it.
HARMLESS = re.compile(r"_(FILE|PATH|DIR|MODE|URI|URL|ENDPOINT|NAME|TYPE|TTL|SECONDS|TIMEOUT)$")
VALUES = (
    re.compile(r"\bhf_[A-Za-z0-9]{20,}"),  # Hugging Face
    re.compile(r"\bsk-[A-Za-z0-9_-]{20,}"),  # OpenAI and others
    re.compile(r"\b(ghp|gho|ghs|ghr|github_pat)_[A-Za-z0-9_]{20,}"),  # GitHub
    re.compile(r"\bAIza[A-Za-z0-9_-]{30,}"),  # Google
    re.compile(r"\b(xox[abprs]|glpat)-[A-Za-z0-9-]{10,}"),  # Slack, GitLab
    re.compile(r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\."),  # a JSON web token
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    # 40 characters of base64 of every kind, as a secret key of AWS. A commit is of lower case alone.
    re.compile(r"(?<![A-Za-z0-9/+=])(?=[^\s]*[a-z])(?=[^\s]*[A-Z])(?=[^\s]*[0-9])[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=])"),
)


# A token as Ray makes it. In other texts it may be the digest of a model's file.
HEX = re.compile(r"(?<![0-9a-fA-F])[0-9a-f]{64}(?![0-9a-fA-F])")


def looks_secret(name: str, value: str = "") -> bool:
    """Whether an environment variable of that name, or with that value, holds a key."""
    named = re.sub(r"[^A-Z0-9]+", "_", name.upper())
    return (bool(NAME.search(named)) and not HARMLESS.search(named)) or is_key(value) or bool(HEX.search(value))


def is_key(value: str) -> bool:
    """Whether a text holds what looks like a key, whatever it is called."""
    return redact_url(value) != value or any(pattern.search(value) for pattern in VALUES)


def find_secrets(value: Any, where: str = "") -> Iterator[str]:
    """Places in nested JSON-able values with a text that looks like a key. The text itself is not told."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from find_secrets(inner, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from find_secrets(inner, f"{where}[{index}]")
    elif isinstance(value, str) and is_key(value):
        yield where
