"""`yard webhook`: URLs and programs that are notified of events."""

import argparse
import sys
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path

import msgspec

from modelyard.cli.arguments import Argument, add_fields, given_fields
from modelyard.cli.output import Column, print_error, print_json, print_line, print_list, print_result
from modelyard.cli.parser import VerbParser
from modelyard.cli.verbs import REFUSED, command, local, online
from modelyard.client import Client
from modelyard.host.home import read_membership
from modelyard.host.hooks_file import CommandHook, HooksFileError, read_hooks, write_hooks
from modelyard.host.settings import SettingsError, load
from modelyard.text import format_age, format_clock
from schemas import subjects
from schemas.errors import BadRequest, WebhookRefused, YardError
from schemas.webhooks import HookEvent, PutWebhook, WebhookFilter, WebhookList, WebhookRecord

_EVENTS = """
events: model.downloaded download.failed model.ready model.stopped model.evicted model.crashed
        alert.firing alert.resolved
"""
_ADD = f"""
A signed POST of JSON for each event, retried for about 16 hours.

The signature is that of standardwebhooks.com; its secret is shown once. `-` reads the URL from standard
input, where no other user of this machine sees it.
{_EVENTS}"""
_EXEC = f"""
JSON on its standard input, no shell, 10 seconds.

Programs can only be named here, on the first machine: each runs as the yard's own user.

  yard webhook exec desktop --event alert.firing -- /usr/local/bin/notify --loud
{_EVENTS}"""
_FILTER = {
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
    add = verbs["webhook"].subverbs()
    hooks = add("list", "List webhooks and their deliveries.")
    command(hooks, subjects.WEBHOOK_LIST, _show_hooks, document=attrgetter("webhooks"))
    url = add("add", "Notify a URL of events.")
    url.describe(_ADD)
    url.add_argument("name")
    url.add_argument("url", metavar="URL|-")
    text = "sign with this secret (default: a new one)"
    url.add_argument("--secret-file", type=Path, metavar="FILE", help=text)
    online(url, _add)
    program = add("exec", "Notify a program on this machine of events.")
    program.describe(_EXEC)
    program.add_argument("name")
    program.add_argument("argv", nargs="+", metavar="PROGRAM", help="after --, with its arguments")
    local(program, _exec)
    for parser in (url, program):
        # `event` and not the field's plural; any text, so that a wrong one is refused with the list.
        event = {"action": "append", "dest": "events", "metavar": "EVENT"}
        parser.add_argument("--event", **event, help="which (default: all)")
        add_fields(parser, WebhookFilter, omit=("events",), fields=_FILTER)
    remove, test = add("rm", "Remove a webhook."), add("test", "Send a test event to a webhook.")
    for parser, work in ((remove, _remove), (test, _test)):
        parser.add_argument("name")
        online(parser, work)


def _filter(arguments: argparse.Namespace) -> WebhookFilter:
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


async def _add(yard: Client, arguments: argparse.Namespace) -> None:
    url = sys.stdin.readline().strip() if arguments.url == "-" else arguments.url
    try:
        secret = arguments.secret_file.read_text().strip() if arguments.secret_file else None
        webhook = PutWebhook(name=arguments.name, url=url, wanted=_filter(arguments), secret=secret)
    except (OSError, ValueError) as error:
        raise BadRequest(f"{error}.") from error
    stored = await yard.alerting.put_webhook(webhook)
    if arguments.json:
        print_json(stored)
        return
    name = stored.webhook.name
    print_line(f"{stored.webhook.target} is notified by {name} from now on. Try it: yard webhook test {name}")
    if stored.secret is not None:
        print_line(f"Its secret, shown this once: {stored.secret}")


async def _test(yard: Client, arguments: argparse.Namespace) -> None:
    tested = await yard.alerting.test_webhook(name=arguments.name)
    if not tested.delivered:
        raise WebhookRefused(f"{arguments.name} did not take it: {tested.error}")
    print_result(arguments, tested, f"{arguments.name} took it.")


async def _remove(yard: Client, arguments: argparse.Namespace) -> None:
    if _remove_program(arguments.name):
        removed: object = {"name": arguments.name}
    else:
        removed = await yard.alerting.delete_webhook(name=arguments.name)
    print_result(arguments, removed, f"{arguments.name} is told nothing more.")


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


def _exec(arguments: argparse.Namespace) -> int:
    try:
        settings = load()
        if read_membership(settings) is not None:
            print_error("This machine joined another's yard; programs are notified on the first machine.")
            return REFUSED
        hook = CommandHook(name=arguments.name, argv=tuple(arguments.argv), wanted=_filter(arguments))
        others = [other for other in read_hooks(settings) if other.name != hook.name]
        write_hooks(settings, [*others, hook])
    except (SettingsError, HooksFileError, ValueError, OSError, YardError) as error:
        print_error(f"{error}")
        return REFUSED
    print_line(f"{hook.name} runs {hook.argv[0]} from now on. Try it: yard webhook test {hook.name}")
    return 0
