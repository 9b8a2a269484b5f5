"""`yard alerts` and `yard alert`: what somebody should know of, and the rules for that."""

import argparse
from typing import TYPE_CHECKING, Any

from modelyard.cli.output import emit, say, table
from modelyard.cli.registry import assignment
from modelyard.cli.text import ago, clock, duration, spell_duration
from modelyard.cli.verbs import Verbs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from modelyard.client import Client
    from schemas.alerts import AlertList, RuleRecord

_SET = """Change an alert rule, or make one: a name that is new needs `metric` and `threshold`.

  yard alert set device-hot threshold=85 for_s=30
  yard alert set device-hot enabled=false
  yard alert set cold metric=yard_device_temperature_celsius 'comparison=<' threshold=5

A value is TOML; what is not is taken as text. An empty one sets a field back to its default."""


def register(verbs: Verbs) -> None:
    listing = verbs.add("alerts", "List what somebody should know of.", _alerts)
    listing.add_argument("-a", "--all", action="store_true", help="those that are over, too")
    listing.add_argument("--rules", action="store_true", help="the rules instead")
    alert = verbs.group("alert", "Change alert rules, and silence alerts.")
    change = alert.add("set", "Change an alert rule, or make one.", _set)
    change.description = _SET
    change.add_argument("name", metavar="RULE")
    change.add_argument("fields", nargs="+", type=assignment, metavar="FIELD=VALUE")
    for verb, summary, work in (
        ("rm", "Take a rule of your own away.", _remove),
        ("reset", "Have a shipped rule as it was shipped.", _reset),
        ("test", "Show what a rule would find now.", _test),
    ):
        alert.add(verb, summary, work).add_argument("name", metavar="RULE")
    silence = alert.add("silence", "Do not tell some alerts for a while.", _silence)
    silence.add_argument("rule", nargs="?", metavar="RULE", help="of this rule (default: of every rule)")
    silence.add_argument("--label", action="append", default=[], type=label, metavar="NAME=VALUE")
    silence.add_argument("--for", dest="for_s", type=duration, required=True, metavar="TIME", help="like 2h")
    silence.add_argument("--reason", required=True, metavar="TEXT", help="why")
    alert.add("unsilence", "End a silence now.", _unsilence).add_argument("silence", metavar="SILENCE")


def label(text: str) -> tuple[str, str]:
    """`node=a`; an argparse error if it is none."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


async def _alerts(yard: "Client", arguments: argparse.Namespace) -> None:
    found = await yard.alerting.alerts()
    if arguments.json:
        emit(found)
    elif arguments.rules:
        _print_rules(found.rules)
    else:
        _print_alerts(found, everything=arguments.all)


def _print_alerts(found: "AlertList", *, everything: bool) -> None:
    shown = [each for each in found.alerts if everything or each.state != "resolved"]
    if shown:
        table(
            ("ALERT", "STATE", "SEVERITY", ">SINCE", "RULE", "SILENCE"),
            [
                (
                    each.sentence,
                    each.state,
                    each.severity,
                    ago(each.since),
                    each.rule,
                    each.silenced or "",
                )
                for each in shown
            ],
        )
    else:
        say("All is well.")
    for silence in found.silences:
        about = " ".join([silence.rule or "", *(f"{name}={value}" for name, value in silence.labels.items())])
        say(f"\nsilence {silence.silence} ({about.strip()}) until {clock(silence.until)}: {silence.reason}")


def _print_rules(rules: "Iterable[RuleRecord]") -> None:
    table(
        ("RULE", "WHEN", ">FOR", "SEVERITY", "IS"),
        [
            (
                each.rule.name,
                _condition(each),
                spell_duration(each.rule.for_s),
                each.rule.severity,
                _origin(each),
            )
            for each in rules
        ],
    )


def _condition(record: "RuleRecord") -> str:
    rule = record.rule
    labels = ", ".join(f"{name}={value}" for name, value in rule.labels.items())
    return f"{rule.metric}{f'{{{labels}}}' if labels else ''} {rule.comparison} {rule.threshold:g}"


def _origin(record: "RuleRecord") -> str:
    words = ["changed" if record.revision else "shipped"] if record.default else ["own"]
    return ", ".join(words if record.rule.enabled else [*words, "off"])


async def _set(yard: "Client", arguments: argparse.Namespace) -> None:
    import msgspec

    from modelyard.specs.patching import merge_patch
    from schemas.alerts import PutAlertRule
    from schemas.errors import BadRequest

    known = {each.rule.name: each for each in (await yard.alerting.alerts()).rules}
    before = known.get(arguments.name)
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
    try:
        rule = msgspec.convert(document, PutAlertRule)
        _check_fields(document)
    except msgspec.ValidationError as error:
        raise BadRequest(f"This is no alert rule: {error}.") from error
    stored = await yard.alerting.put_rule(rule)
    _tell(
        arguments, stored, f"{stored.name} is {'changed' if before else 'made'} (revision {stored.revision})."
    )


def _check_fields(document: dict[str, Any]) -> None:
    """A field that no rule has is a mistake of the hand, not of a newer yard."""
    import msgspec

    from schemas.alerts import PutAlertRule

    known = {field.name for field in msgspec.structs.fields(PutAlertRule)}
    if wrong := sorted(document.keys() - known):
        raise msgspec.ValidationError(f"there is no field {wrong[0]}; there are {', '.join(sorted(known))}")


async def _remove(yard: "Client", arguments: argparse.Namespace) -> None:
    stored = await yard.alerting.delete_rule(arguments.name)
    _tell(arguments, stored, f"{stored.name} is gone.")


async def _reset(yard: "Client", arguments: argparse.Namespace) -> None:
    stored = await yard.alerting.reset_rule(arguments.name)
    _tell(arguments, stored, f"{stored.name} is as it was shipped.")


async def _test(yard: "Client", arguments: argparse.Namespace) -> None:
    tried = await yard.alerting.test_rule(arguments.name)
    if arguments.json:
        emit(tried)
    elif tried.series:
        rows = [
            (each.sentence, f"{each.value:g}", "would fire" if each.holds else "fine")
            for each in tried.series
        ]
        table(("SERIES", ">VALUE", "IS"), rows)
    else:
        say("No such metric is there now.")


async def _silence(yard: "Client", arguments: argparse.Namespace) -> None:
    from schemas.alerts import SilenceAlerts

    asked = SilenceAlerts(
        for_s=arguments.for_s, reason=arguments.reason, rule=arguments.rule, labels=dict(arguments.label)
    )
    silence = await yard.alerting.silence(asked)
    _tell(
        arguments, silence, f"Silent until {clock(silence.until)}; `yard alert unsilence {silence.silence}`."
    )


async def _unsilence(yard: "Client", arguments: argparse.Namespace) -> None:
    silence = await yard.alerting.unsilence(arguments.silence)
    _tell(arguments, silence, f"The silence {silence.silence} is over.")


def _tell(arguments: argparse.Namespace, document: object, sentence: str) -> None:
    if arguments.json:
        emit(document)
    else:
        say(sentence)
