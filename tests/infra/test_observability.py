"""`infra/observability`: the dashboard and the alert rules name metrics that runs have, with labels that these have; the rules do what they say."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.progress import PHASES
from pipelines.telemetry.metrics import METRICS

ROOT = Path(__file__).parent.parent.parent
INFRA = ROOT / "infra" / "observability"
LABELS = {f"ray_{metric.name}": set(metric.labels) for metric in METRICS}
SELECTOR = re.compile(r"\b(ray_latentlake_\w+)(?:\{([^}]*)\})?")
BY = re.compile(r"(?:by|on) \(([^)]*)\)")


def rule_expressions() -> list[str]:
    groups = yaml.safe_load((INFRA / "alerts.yml").read_text())["groups"]
    return [rule["expr"] for group in groups for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((INFRA / "dashboard.json").read_text())
    return found


def dashboard_expressions() -> list[str]:
    return [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]


@pytest.mark.parametrize("expression", [*rule_expressions(), *dashboard_expressions()])
def test_expressions_name_metrics_and_labels_that_there_are(expression: str):
    named = set()
    for name, told in SELECTOR.findall(expression):
        assert name in LABELS, expression
        selected = dict(re.findall(r'(\w+)\s*=~?\s*"([^"]*)"', told))
        assert set(selected) <= LABELS[name], expression
        assert selected.get("phase", PHASES[0]) in PHASES
        named |= LABELS[name]
    if named:  # else of a recorded rule alone
        for labels in BY.findall(expression):
            assert {label.strip() for label in labels.split(",")} <= named, expression


def test_every_metric_is_shown():
    shown = {name for expression in dashboard_expressions() for name, _ in SELECTOR.findall(expression)}
    assert shown == set(LABELS)


def test_the_docs_list_the_metrics_and_the_alerts():
    page = (ROOT / "docs" / "observability.md").read_text()
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        assert f"| `ray_{metric.name}` | {metric.kind} | {metric.unit} | {labels} | {metric.meaning} |" in page
    told = set(re.findall(r"^\| `(LatentLake\w+)` \|", page, re.MULTILINE))
    groups = yaml.safe_load((INFRA / "alerts.yml").read_text())["groups"]
    assert told == {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}


def test_the_dashboard_is_one_that_grafana_can_import():
    board = dashboard()
    assert board["uid"] == "latentlake" and board["schemaVersion"] >= 36
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken and max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells
        assert panel["description"] and panel["datasource"]["uid"] == "${datasource}"
    assert {variable["name"] for variable in board["templating"]["list"]} == {"datasource", "table"}


def promtool(*arguments: str) -> str:
    """The output of Prometheus's own tool, of which Debian's package `prometheus` has one."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("no promtool on PATH: install Debian's `prometheus`, or Prometheus itself")
    done = subprocess.run([program, *arguments], cwd=INFRA, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_rules_are_valid():
    assert "SUCCESS" in promtool("check", "rules", "alerts.yml")


def test_the_rules_speak_up_when_they_should_and_not_before():
    assert "SUCCESS" in promtool("test", "rules", "alerts_test.yml")


def test_every_alert_is_tested_both_ways():
    groups = yaml.safe_load((INFRA / "alerts.yml").read_text())["groups"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}
    cases = [
        (case["alertname"], bool(case["exp_alerts"]))
        for test in yaml.safe_load((INFRA / "alerts_test.yml").read_text())["tests"]
        for case in test["alert_rule_test"]
    ]
    assert set(cases) == {(alert, fires) for alert in alerts for fires in (True, False)}


@pytest.mark.parametrize("expression", dashboard_expressions())
def test_prometheus_takes_the_dashboards_expressions(expression: str, tmp_path: Path):
    plain = expression.replace("$__rate_interval", "1m").replace("$table", ".*")
    rules = tmp_path / "rules.yml"
    rules.write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": [{"record": "a:b", "expr": plain}]}]}))
    promtool("check", "rules", str(rules))
