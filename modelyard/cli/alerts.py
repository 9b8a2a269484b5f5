"""`yard alerts` and `yard alert`: alerts, and the rules that raise them."""

import argparse
from collections.abc import Mapping
from typing import Any

import msgspec

from modelyard.cli.arguments import Argument
from modelyard.cli.models import parse_assignment
from modelyard.cli.output import Column, listing, print_json, print_line, print_list, print_result, print_rows
from modelyard.cli.parser import VerbParser
from modelyard.cli.verbs import command, online
from modelyard.client import Client
from modelyard.documents import check_fields, merge_patch
from modelyard.text import format_age, format_clock, format_duration
from schemas import subjects
from schemas.alerts import AlertList, PutAlertRule, RuleRecord, Silence
from schemas.errors import BadRequest

_SET = """
A new name makes a new rule, which needs `metric` and `threshold`.

  yard alert set device-hot threshold=85 for_s=30
  yard alert set device-hot enabled=false
  yard alert set cold metric=yard_device_temperature_celsius 'comparison=<' threshold=5

A value is TOML, or else text. An empty one resets a field to its default.
"""


def _condition(record: RuleRecord) -> str:
    rule = record.rule
    labels = ", ".join(f"{name}={value}" for name, value in rule.labels.items())
    return f"{rule.metric}{f'{{{labels}}}' if labels else ''} {rule.comparison} {rule.threshold:g}"


def _origin(record: RuleRecord) -> str:
    words = ["changed" if record.revision else "shipped"] if record.default else ["own"]
    return ", ".join(words if record.rule.enabled else [*words, "off"])


_ALERTS: dict[str, Column] = {
    "ALERT": "sentence",
    "STATE": "state",
    "SEVERITY": "severity",
    ">SINCE": lambda alert: format_age(alert.since),
    "RULE": "rule",
    "SILENCE": lambda alert: alert.silenced or "",
}
_RULES: dict[str, Column] = {
    "RULE": "rule.name",
    "WHEN": _condition,
    ">FOR": lambda record: format_duration(record.rule.for_s),
    "SEVERITY": "rule.severity",
    "IS": _origin,
}
_SERIES: dict[str, Column] = {
    "SERIES": "sentence",
    ">VALUE": lambda series: f"{series.value:g}",
    "IS": lambda series: "would fire" if series.holds else "fine",
}


def register(verbs: Mapping[str, VerbParser]) -> None:
    alerts = verbs["alerts"]
    alerts.flag("-a", "--all", text="include resolved alerts")
    alerts.flag("--rules", text="list the rules instead")
    online(alerts, _alerts)
    add = verbs["alert"].subverbs()
    change = add("set", "Change an alert rule, or make a new one.")
    change.describe(_SET)
    change.add_argument("name", metavar="RULE")
    change.add_argument("fields", nargs="+", type=parse_assignment, metavar="FIELD=VALUE")
    online(change, _set)
    rule = {"name": Argument(metavar="RULE", help="its name", required=True)}
    remove = add("rm", "Delete a rule of your own.")
    command(remove, subjects.ALERT_DELETE, "{0.name} is deleted.", fields=rule)
    reset = add("reset", "Reset a shipped rule to its original.")
    command(reset, subjects.ALERT_RESET, "{0.name} is as it was shipped.", fields=rule)
    test = add("test", "Show the current result of a rule.")
    show = listing("No such metric is there now.", _SERIES, "series")
    # The contract also takes a rule that is not stored.
    command(test, subjects.ALERT_TEST, show, positional=("name",), omit=("rule",), fields=rule)
    silence = add("silence", "Suppress the notifications of alerts for a while.")
    command(silence, subjects.ALERT_SILENCE, _show_silence, positional=("rule",))
    unsilence = add("unsilence", "End a silence now.")
    command(unsilence, subjects.ALERT_UNSILENCE, "The silence {0.silence} is over.")


async def _alerts(yard: Client, arguments: argparse.Namespace) -> None:
    answer = await yard.alerting.alerts()
    if arguments.json:
        print_json(answer)
    elif arguments.rules:
        print_rows(_RULES, answer.rules)
    else:
        _print_alerts(answer, everything=arguments.all)


def _print_alerts(answer: AlertList, *, everything: bool) -> None:
    alerts = [alert for alert in answer.alerts if everything or alert.state != "resolved"]
    print_list(alerts, _ALERTS, empty="All is well.")
    for silence in answer.silences:
        labels = (f"{name}={value}" for name, value in silence.labels.items())
        about = " ".join([silence.rule or "", *labels]).strip()
        until = format_clock(silence.until)
        print_line(f"\nsilence {silence.silence} ({about}) until {until}: {silence.reason}")


async def _set(yard: Client, arguments: argparse.Namespace) -> None:
    rules = {record.rule.name: record for record in (await yard.alerting.alerts()).rules}
    before = rules.get(arguments.name)
    given = {name for patch in arguments.fields for name in patch}
    if before is None and not given >= {"metric", "threshold"}:
        raise BadRequest(
            f"There is no alert rule {arguments.name!r}; `yard alerts --rules` lists them. "
            "A new one needs metric=NAME and threshold=NUMBER."
        )
    document: Any = msgspec.to_builtins(before.rule) if before else {}
    for patch in arguments.fields:
        document = merge_patch(document, patch)
    document |= {"name": arguments.name, "revision": before.revision if before else 0}
    check_fields(PutAlertRule, document, "An alert rule")
    try:
        rule = msgspec.convert(document, PutAlertRule)
    except msgspec.ValidationError as error:
        raise BadRequest(f"This alert rule is not valid: {error}.") from error
    stored = await yard.alerting.put_rule(rule)
    done = "changed" if before else "made"
    print_result(arguments, stored, f"{stored.name} is {done} (revision {stored.revision}).")


def _show_silence(silence: Silence) -> None:
    print_line(f"Silent until {format_clock(silence.until)}; `yard alert unsilence {silence.silence}`.")
