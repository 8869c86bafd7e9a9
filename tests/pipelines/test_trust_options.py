"""Every command that may load the model of a table takes the same options on what the reader trusts."""

from __future__ import annotations

import pytest
import typer

from pipelines.cli.main import app

TRUST = {"--model", "--allow-downloads", "--trust-remote-code", "--allow-host", "--allow-model"}


@pytest.mark.parametrize("name", ["search", "eval", "compare", "publish", "promote", "tune"])
def test_it_takes_them_all(name: str):
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    assert {option for parameter in command.params for option in parameter.opts} >= TRUST
