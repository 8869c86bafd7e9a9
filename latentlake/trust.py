"""What a reader lets a table bring about: its words on its model are data, and anyone may have written them."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from operators.embedders.base import EmbedderConfig
from operators.errors import SpecError

# Strict, so that no client reads another host out of the URL (`https://ours\@theirs/`, `https://ours@theirs/`).
BASE_URL = re.compile(r"https?://([a-z0-9.-]+)(?::\d+)?(?:/.*)?", re.IGNORECASE)


@dataclass(frozen=True)
class Trust:
    """What a reader lets a table's word on its model bring about; see `connect`."""

    trust_remote_code: bool = False
    allow_downloads: bool = False
    allow_hosts: Collection[str] = ()
    allow_models: Collection[str] = ()  # places in object stores, see `model_files.models_from`

    def check(self, column: str, config: EmbedderConfig) -> None:
        """Raise `SpecError` where a model of `column` would run code, or call a host, that the reader does not allow."""
        for model in config.models:
            self._check_model(column, model)

    def _check_model(self, column: str, config: EmbedderConfig) -> None:
        instead = "Or search with a vector, or with `id=`."
        if getattr(config, "trust_remote_code", False) and not self.trust_remote_code:
            raise SpecError(
                f"the model of column '{column}' ({getattr(config, 'model', config.family)}) runs its own code.\n"
                f"  If you have read it and trust it: connect(uri, trust_remote_code=True). {instead}"
            )
        url = getattr(config, "base_url", None)
        host = host_of(str(url))
        if url is not None and host not in {allowed.lower() for allowed in self.allow_hosts}:
            raise SpecError(
                f"the model of column '{column}' is served at '{url}', a host that you did not allow.\n"
                f"  To send queries and your key there: connect(uri, allow_hosts={{'{host or 'HOST'}'}}). {instead}"
            )


def host_of(url: str) -> str | None:
    """Host of a plain http(s) URL, in lower case; None for any other."""
    found = BASE_URL.fullmatch(url)
    return found[1].lower() if found else None
