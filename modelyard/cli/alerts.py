"""`yard alerts` and `yard alert`: alerts, and the rules that raise them."""

import argparse
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from modelyard.cli.arguments import Argument, parse_duration
from modelyard.cli.models import parse_assignment
from modelyard.cli.output import print_json, print_line, print_result, table
from modelyard.cli.parser import VerbParser
from modelyard.cli.verbs import command, online
from modelyard.client import Client
from modelyard.documents import check_fields, merge_patch
from modelyard.text import format_age, format_clock, format_duration
from schemas import subjects
from schemas.alerts import AlertList, AlertRuleTried, PutAlertRule, RuleRecord, Silence
from schemas.errors import BadRequest

_SET = """
A new name makes a new rule, which needs `metric` and `threshold`.

  yard alert set device-hot threshold=85 for_s=30
  yard alert set device-hot enabled=false
  yard alert set cold metric=yard_device_temperature_celsius 'comparison=<' threshold=5

A value is TOML, or else text. An empty one resets a field to its default.
"""


def register(verbs: Mapping[str, VerbParser]) -> None:
    alerts = verbs["alerts"]
    alerts.add_argument("-a", "--all", action="store_true", help="include resolved alerts")
    alerts.add_argument("--rules", action="store_true", help="list the rules instead")
    online(alerts, _alerts)
    add = verbs["alert"].subverbs()
    change = add("set", "Change an alert rule, or make a new one.")
    change.describe(_SET)
    change.add_argument("name", metavar="RULE")
    change.add_argument("fields", nargs="+", type=parse_assignment, metavar="FIELD=VALUE")
    online(change, _set)
    rule = {"name": Argument(metavar="RULE", help="its name", required=True)}
    remove = add("rm", "Delete a rule of your own.")
    command(remove, subjects.ALERT_DELETE, "{0.name} is deleted.", positional=("name",), fields=rule)
    reset = add("reset", "Reset a shipped rule to its original.")
    command(reset, subjects.ALERT_RESET, "{0.name} is as it was shipped.", positional=("name",), fields=rule)
    test = add("test", "Show the current result of a rule.")
    # The contract also takes a rule that is not stored.
    command(test, subjects.ALERT_TEST, _show_series, positional=("name",), omit=("rule",), fields=rule)
    silence = {
        "for_s": Argument(metavar="TIME", parse=parse_duration, help="for how long, like 2h"),
        "reason": Argument(metavar="TEXT", help="the reason"),
    }
    quiet = add("silence", "Suppress the notifications of alerts for a while.")
    command(quiet, subjects.ALERT_SILENCE, _say_silent, positional=("rule",), fields=silence)
    loud = add("unsilence", "End a silence now.")
    command(loud, subjects.ALERT_UNSILENCE, "The silence {0.silence} is over.", positional=("silence",))


async def _alerts(yard: Client, arguments: argparse.Namespace) -> None:
    answer = await yard.alerting.alerts()
    if arguments.json:
        print_json(answer)
    elif arguments.rules:
        _print_rules(answer.rules)
    else:
        _print_alerts(answer, everything=arguments.all)


def _print_alerts(answer: AlertList, *, everything: bool) -> None:
    rows = [
        (
            *(alert.sentence, alert.state, alert.severity, format_age(alert.since), alert.rule),
            alert.silenced or "",
        )
        for alert in answer.alerts
        if everything or alert.state != "resolved"
    ]
    if rows:
        table(("ALERT", "STATE", "SEVERITY", ">SINCE", "RULE", "SILENCE"), rows)
    else:
        print_line("All is well.")
    for silence in answer.silences:
        labels = (f"{name}={value}" for name, value in silence.labels.items())
        about = " ".join([silence.rule or "", *labels]).strip()
        print_line(
            f"\nsilence {silence.silence} ({about}) until {format_clock(silence.until)}: {silence.reason}"
        )


def _print_rules(rules: Iterable[RuleRecord]) -> None:
    table(
        ("RULE", "WHEN", ">FOR", "SEVERITY", "IS"),
        [
            (
                *(record.rule.name, _condition(record), format_duration(record.rule.for_s)),
                *(record.rule.severity, _origin(record)),
            )
            for record in rules
        ],
    )


def _condition(record: RuleRecord) -> str:
    rule = record.rule
    labels = ", ".join(f"{name}={value}" for name, value in rule.labels.items())
    return f"{rule.metric}{f'{{{labels}}}' if labels else ''} {rule.comparison} {rule.threshold:g}"


def _origin(record: RuleRecord) -> str:
    words = ["changed" if record.revision else "shipped"] if record.default else ["own"]
    return ", ".join(words if record.rule.enabled else [*words, "off"])


async def _set(yard: Client, arguments: argparse.Namespace) -> None:
    rules = {record.rule.name: record for record in (await yard.alerting.alerts()).rules}
    before = rules.get(arguments.name)
    if before is None and not {"metric", "threshold"} <= {
        name for patch in arguments.fields for name in patch
    }:
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


def _show_series(tried: AlertRuleTried) -> None:
    if not tried.series:
        print_line("No such metric is there now.")
        return
    rows = [
        (series.sentence, f"{series.value:g}", "would fire" if series.holds else "fine")
        for series in tried.series
    ]
    table(("SERIES", ">VALUE", "IS"), rows)


def _say_silent(silence: Silence) -> None:
    print_line(f"Silent until {format_clock(silence.until)}; `yard alert unsilence {silence.silence}`.")
