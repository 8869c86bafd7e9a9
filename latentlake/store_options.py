"""`storage_options` of object stores: as arguments of obstore, and checked, so that a mistake has its name before anything is asked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from obstore.exceptions import BaseError, UnknownConfigurationKeyError

from latentlake.retries import CLIENT_OPTIONS, MAX_RETRIES, RETRY_S
from operators.errors import SpecError

FLAGS = ("allow_http", "allow_invalid_certificates", "http1_only", "http2_only", "randomize_addresses")
# Of the HTTP client, and no store's own: obstore panics at them among a store's.
CLIENT_KEYS = (
    *(*CLIENT_OPTIONS, *FLAGS, "default_content_type", "user_agent"),
    *("http2_keep_alive_interval", "http2_keep_alive_timeout", "http2_keep_alive_while_idle"),
    *("pool_idle_timeout", "pool_max_idle_per_host", "proxy_url", "proxy_ca_certificate", "proxy_excludes"),
)


def store_arguments(config: Mapping[str, str]) -> dict[str, Any]:
    """Arguments of an obstore store for options named as Lance names them. Raises `SpecError` for a value of another kind."""
    rest, client = dict(config), dict[str, Any](CLIENT_OPTIONS)
    client |= {key: rest.pop(key) for key in CLIENT_KEYS if key in rest}
    for flag in FLAGS:
        if flag in client:
            if client[flag] not in ("true", "false"):
                raise SpecError(f"storage_options.{flag}: '{client[flag]}' is neither true nor false.")
            client[flag] = client[flag] == "true"
    retries = number_of("client_max_retries", rest.pop("client_max_retries", str(MAX_RETRIES)))
    seconds = number_of("client_retry_timeout", rest.pop("client_retry_timeout", str(RETRY_S)))
    retry = {"max_retries": retries, "retry_timeout": timedelta(seconds=seconds)}
    return {"config": rest or None, "client_options": client, "retry_config": retry}


def without_prefix(options: Mapping[str, str]) -> dict[str, str]:
    """The options, with those of the HTTP client by their own names: `aws_allow_http`, in capitals too, is `allow_http`."""
    plain = {name: name.lower().removeprefix("aws_") for name in options}
    return {plain[name] if plain[name] in CLIENT_KEYS else name: value for name, value in options.items()}


def number_of(name: str, value: str) -> int:
    """The whole number that an option states."""
    if not value.isdecimal():
        raise SpecError(f"storage_options.{name}: '{value}' is not a whole number.")
    return int(value)


@lru_cache(maxsize=64)
def check_options(scheme: str, options: frozenset[tuple[str, str]]) -> None:
    """Raise `SpecError` for what no store of this scheme knows.

    obstore tells so only as it is first used, Lance passes over a name that it does not know, and both panic at an endpoint
    that is no URL.
    """
    from obstore.store import from_url

    for name, value in options:
        if name.lower().endswith(("endpoint", "endpoint_url", "endpoint_url_s3")):
            check_endpoint(name, value)
    try:
        from_url(f"{scheme}://bucket", **store_arguments(dict(options)))
    except UnknownConfigurationKeyError as failure:
        name = str(failure).partition("'")[2].partition("'")[0]
        raise SpecError(f"storage_options: no option '{name}' of '{scheme}'. See docs/sources.md.") from None
    except (
        BaseError,
        ValueError,
    ) as failure:  # also for what is lacking, which the place of use may have in its environment
        if "parse" in str(failure):
            raise SpecError(f"storage_options: {str(failure).splitlines()[0]}.") from None


def check_endpoint(name: str, value: str) -> None:
    """Raise `SpecError` unless the value is the URL of a server."""
    try:
        url = urlsplit(value)
        valid = url.scheme in ("http", "https") and bool(url.hostname) and not re.search(r"[\s\x00-\x1f]", value)
        _ = url.port
    except ValueError:
        valid = False
    if not valid:
        raise SpecError(f"storage_options.{name}: '{value}' is not a URL. Write it like 'https://s3.example.com:9000'.")
