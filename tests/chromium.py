"""A page in a real browser: what it becomes, what it says on its console, and what it asks the network for."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
# What the browser itself asks for as it starts, whatever the page.
OWN_HOSTS = ("google.com", "googleapis.com", "gstatic.com")
OPTIONS = (
    *("--headless=new", "--no-sandbox", "--enable-unsafe-swiftshader", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--hide-scrollbars"),
)


@dataclass(frozen=True)
class Shown:
    """A page as a browser showed it."""

    dom: str
    console: list[str]
    requests: list[str]  # URLs, without the page's own


def show(page: Path, folder: Path, *more: str) -> Shown:
    """Open a page in headless Chromium, whose files go into `folder`; the test is skipped, and says so, where there is none."""
    program = next((found for name in PROGRAMS if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no browser: install one of {', '.join(PROGRAMS)}")
    log = folder / "net.json"
    done = subprocess.run(
        [
            *(program, *OPTIONS, f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}"),
            *("--enable-logging=stderr", "--virtual-time-budget=20000", *more, "--dump-dom", page.as_uri()),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    console = re.findall(r"CONSOLE:\d+\] (.*)", done.stderr)
    return Shown(done.stdout, console, [url for url in requested(log.read_text()) if not is_own(url)])


def requested(log: str) -> list[str]:
    """URLs in a net log, which a browser that ends in haste leaves without its end."""
    try:
        found = json.loads(log)
    except ValueError:
        found = json.loads(log.rstrip().rstrip(",") + "]}")
    return sorted({event["params"]["url"] for event in found["events"] if "url" in event.get("params", {})})


def is_own(url: str) -> bool:
    """Whether the browser asked for this by itself."""
    parts = urlsplit(url)
    return parts.scheme in ("data", "blob") or (parts.hostname or "").endswith(OWN_HOSTS)
