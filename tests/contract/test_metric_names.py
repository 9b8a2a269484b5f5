"""The table of metrics, and all that names one: the page, the dashboard, the rules and our own code."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from schemas.metric_names import BY_SAMPLE_NAME, METRICS, Metric, MetricType

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "examples" / "prometheus"
_NAME = re.compile(r"\byard_\w+")
_LABELS = re.compile(r"(yard_\w+)\{([^}]*)\}")


def expressions() -> Iterator[str]:
    """Every query of the dashboard and of the alert rules."""
    dashboard = json.loads((PROMETHEUS / "grafana.json").read_text())
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))
    yield from (one["query"]["query"] for one in dashboard["templating"]["list"] if one["type"] == "query")
    for group in rules()["groups"]:
        yield from (rule["expr"] for rule in group["rules"])


def rules() -> Any:
    return yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())


@pytest.mark.parametrize("expression", sorted(set(expressions())))
def test_metrics_used_by_dashboards_and_rules_exist(expression: str) -> None:
    for name in _NAME.findall(expression):
        assert name in BY_SAMPLE_NAME, f"{name} is no metric"
    for name, matchers in _LABELS.findall(expression):
        labels = {*BY_SAMPLE_NAME[name].labels, "le"}
        for matcher in filter(None, matchers.split(",")):
            assert re.split(r"[=!]", matcher)[0] in labels, f"{name} has no such label: {matcher}"


def test_a_query_without_a_known_metric_is_detected() -> None:
    assert len(set(expressions())) > 40


def test_every_rule_has_an_action_in_its_description() -> None:
    for group in rules()["groups"]:
        for rule in group["rules"]:
            assert rule["annotations"]["summary"].endswith(".")
            assert rule["labels"]["severity"] in ("warning", "critical")


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_metric_names_follow_the_prometheus_conventions(metric: Metric) -> None:
    assert re.fullmatch(r"yard_[a-z0-9_]+", metric.name)
    assert metric.name.endswith("_total") == (metric.type is MetricType.COUNTER)
    assert metric.help.endswith(".")
    assert "instance" not in metric.labels, "Prometheus calls what it scrapes so"
    assert len(set(metric.labels)) == len(metric.labels)


def test_names_are_unique() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
