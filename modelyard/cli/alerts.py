"""`yard alerts`, `yard alert` and `yard webhook`: alerts, their rules, and who is notified of events."""

import argparse
import sys
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec

from modelyard.cli.arguments import Argument, add_fields, given_fields
from modelyard.cli.models import parse_assignment
from modelyard.cli.output import print_error, print_json, print_line, print_result
from modelyard.cli.parser import VerbParser
from modelyard.cli.tables import Column, listing, print_list, print_rows
from modelyard.cli.verbs import REFUSED, command, local, online
from modelyard.client import Client
from modelyard.documents import check_fields, merge_patch
from modelyard.host.home import read_membership
from modelyard.host.hooks_file import CommandHook, HooksFileError, read_hooks, write_hooks
from modelyard.host.settings import SettingsError, load
from modelyard.text import format_age, format_clock, format_duration
from schemas import subjects
from schemas.alerts import AlertList, PutAlertRule, RuleRecord, Silence
from schemas.errors import BadRequest, WebhookRefused, YardError
from schemas.webhooks import HookEvent, PutWebhook, WebhookFilter, WebhookList, WebhookRecord

_RULE_SET = """
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


_WEBHOOK_EVENTS = """
events: model.downloaded download.failed model.ready model.stopped model.evicted model.crashed
        alert.firing alert.resolved
"""
_WEBHOOK_ADD = f"""
A signed POST of JSON for each event, retried for about 16 hours.

The signature is that of standardwebhooks.com; its secret is shown once. `-` reads the URL from standard
input, where no other user of this machine sees it.
{_WEBHOOK_EVENTS}"""
_WEBHOOK_EXEC = f"""
JSON on its standard input, no shell, 10 seconds.

Programs can only be named here, on the first machine: each runs as the yard's own user.

  yard webhook exec desktop --event alert.firing -- /usr/local/bin/notify --loud
{_WEBHOOK_EVENTS}"""
_WEBHOOK_FILTER = {
    "models": Argument(help="which (default: all)"),
    "severity": Argument(help="of alerts: at least (default: info)"),
}


def _selection(record: WebhookRecord) -> str:
    wanted = record.webhook.wanted
    return " ".join([*wanted.events, *(f"model={model}" for model in wanted.models)]) or "everything"


def _health(record: WebhookRecord) -> str:
    state = record.state
    if state.failing_since is not None:
        return f"failing for {format_age(state.failing_since)}: {state.error}"
    return "well" if state.delivered_at is None else f"well, {format_age(state.delivered_at)} ago"


_HOOKS: dict[str, Column] = {
    "NAME": "webhook.name",
    "TARGET": "webhook.target",
    "ABOUT": _selection,
    ">DELIVERED": "state.delivered",
    "IS": _health,
}


def register(verbs: Mapping[str, VerbParser]) -> None:
    alerts = verbs["alerts"]
    alerts.flag("-a", "--all", text="include resolved alerts")
    alerts.flag("--rules", text="list the rules instead")
    online(alerts, _alerts)
    add = verbs["alert"].subverbs()
    change = add("set", "Change an alert rule, or make a new one.")
    change.describe(_RULE_SET)
    change.add_argument("name", metavar="RULE")
    change.add_argument("fields", nargs="+", type=parse_assignment, metavar="FIELD=VALUE")
    online(change, _set_rule)
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
    _register_webhook(verbs["webhook"])


def _register_webhook(parser: VerbParser) -> None:
    add = parser.subverbs()
    hooks = add("list", "List webhooks and their deliveries.")
    command(hooks, subjects.WEBHOOK_LIST, _show_hooks, document=attrgetter("webhooks"))
    url = add("add", "Notify a URL of events.")
    url.describe(_WEBHOOK_ADD)
    url.add_argument("name")
    url.add_argument("url", metavar="URL|-")
    text = "sign with this secret (default: a new one)"
    url.add_argument("--secret-file", type=Path, metavar="FILE", help=text)
    online(url, _add_webhook)
    program = add("exec", "Notify a program on this machine of events.")
    program.describe(_WEBHOOK_EXEC)
    program.add_argument("name")
    program.add_argument("argv", nargs="+", metavar="PROGRAM", help="after --, with its arguments")
    local(program, _add_program)
    for parser in (url, program):
        # `event` and not the field's plural; any text, so that a wrong one is refused with the list.
        event = {"action": "append", "dest": "events", "metavar": "EVENT"}
        parser.add_argument("--event", **event, help="which (default: all)")
        add_fields(parser, WebhookFilter, omit=("events",), fields=_WEBHOOK_FILTER)
    remove, test = add("rm", "Remove a webhook."), add("test", "Send a test event to a webhook.")
    for parser, work in ((remove, _remove_webhook), (test, _test_webhook)):
        parser.add_argument("name")
        online(parser, work)


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


async def _set_rule(yard: Client, arguments: argparse.Namespace) -> None:
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


def _webhook_filter(arguments: argparse.Namespace) -> WebhookFilter:
    try:
        return msgspec.convert(given_fields(arguments, WebhookFilter), WebhookFilter)
    except msgspec.ValidationError as error:
        raise BadRequest(f"{error}; events are {', '.join(HookEvent)}.") from error


def _show_hooks(reply: WebhookList) -> None:
    print_list(reply.webhooks, _HOOKS, empty="There are no webhooks. `yard webhook add NAME URL` makes one.")
    for record in reply.webhooks:
        for dead in record.state.dead:
            what = f"{dead.event} {dead.id} ({format_clock(dead.at)})"
            print_line(f"\n{record.webhook.name} never received {what}: {dead.error}")


async def _add_webhook(yard: Client, arguments: argparse.Namespace) -> None:
    url = sys.stdin.readline().strip() if arguments.url == "-" else arguments.url
    try:
        secret = arguments.secret_file.read_text().strip() if arguments.secret_file else None
        webhook = PutWebhook(name=arguments.name, url=url, wanted=_webhook_filter(arguments), secret=secret)
    except (OSError, ValueError) as error:
        raise BadRequest(f"{error}.") from error
    stored = await yard.alerting.put_webhook(webhook)
    name, target = stored.webhook.name, stored.webhook.target
    secret = "" if stored.secret is None else f"\nIts secret, shown this once: {stored.secret}"
    sentence = f"{target} is notified by {name} from now on. Try it: yard webhook test {name}{secret}"
    print_result(arguments, stored, sentence)


async def _test_webhook(yard: Client, arguments: argparse.Namespace) -> None:
    tested = await yard.alerting.test_webhook(name=arguments.name)
    if not tested.delivered:
        raise WebhookRefused(f"{arguments.name} did not take it: {tested.error}")
    print_result(arguments, tested, f"{arguments.name} took it.")


async def _remove_webhook(yard: Client, arguments: argparse.Namespace) -> None:
    name = arguments.name
    removed = {"name": name} if _remove_program(name) else await yard.alerting.delete_webhook(name=name)
    print_result(arguments, removed, f"No more events are sent to {name}.")


def _remove_program(name: str) -> bool:
    """Whether a program of this name was in this machine's file."""
    settings = load()
    try:
        hooks = read_hooks(settings)
    except HooksFileError as error:
        raise BadRequest(str(error)) from error
    others = [hook for hook in hooks if hook.name != name]
    if len(others) < len(hooks):
        write_hooks(settings, others)
    return len(others) < len(hooks)


def _add_program(arguments: argparse.Namespace) -> int:
    try:
        settings = load()
        if read_membership(settings) is not None:
            print_error("This machine joined another's yard; programs are notified on the first machine.")
            return REFUSED
        hook = CommandHook(name=arguments.name, argv=tuple(arguments.argv), wanted=_webhook_filter(arguments))
        others = [other for other in read_hooks(settings) if other.name != hook.name]
        write_hooks(settings, [*others, hook])
    except (SettingsError, HooksFileError, ValueError, OSError, YardError) as error:
        print_error(f"{error}")
        return REFUSED
    print_line(f"{hook.name} runs {hook.argv[0]} from now on. Try it: yard webhook test {hook.name}")
    return 0
