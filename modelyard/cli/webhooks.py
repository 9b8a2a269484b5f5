"""`yard webhook`: who is told what happens."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from modelyard.cli.output import emit, say, table
from modelyard.cli.text import ago, clock
from modelyard.cli.verbs import REFUSED, Verbs, complain

if TYPE_CHECKING:
    from modelyard.client import Client
    from schemas.webhooks import WebhookFilter, WebhookRecord

_EVENTS = """
events: model.downloaded download.failed model.ready model.stopped model.evicted model.crashed
        alert.firing alert.resolved
"""
_ADD = f"""Have a URL told what happens: a signed POST of JSON for each event, tried again for about 16 hours.

The signature is that of standardwebhooks.com; its secret is shown once. `-` reads the URL from standard
input, where no other user of this machine sees it.
{_EVENTS}"""
_EXEC = f"""Have a program told what happens: JSON on its standard input, no shell, 10 seconds.

Only here, on the first machine, can a program be named: who may do that runs code as the yard's own user.

  yard webhook exec desktop --event alert.firing -- /usr/local/bin/tell-me --loud
{_EVENTS}"""


def register(verbs: Verbs) -> None:
    hooks = verbs.group("webhook", "Choose who is told what happens.")
    hooks.add("list", "List who is told, and how well.", _list)
    add = hooks.add("add", "Have a URL told what happens.", _add)
    add.description = _ADD
    add.add_argument("name", metavar="NAME")
    add.add_argument("url", metavar="URL|-")
    add.add_argument(
        "--secret-file", type=Path, metavar="FILE", help="sign with this secret (default: a new one)"
    )
    program = hooks.local("exec", "Have a program on this machine told what happens.", _exec)
    program.description = _EXEC
    program.add_argument("name", metavar="NAME")
    program.add_argument("argv", nargs="+", metavar="PROGRAM", help="after --, with its arguments")
    for parser in (add, program):
        _add_wanted(parser)
    for verb, summary, work in (
        ("rm", "Tell a hook nothing more.", _remove),
        ("test", "Tell a hook something now, and see how that goes.", _test),
    ):
        hooks.add(verb, summary, work).add_argument("name", metavar="NAME")


def _add_wanted(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--event", action="append", default=[], metavar="EVENT", help="which (default: all)")
    parser.add_argument("--model", action="append", default=[], metavar="MODEL", help="which (default: all)")
    parser.add_argument(
        "--severity", choices=("info", "warning", "critical"), default="info", help="of alerts: at least"
    )


def _wanted(arguments: argparse.Namespace) -> "WebhookFilter":
    """BadRequest for an event that there is not."""
    import msgspec

    from schemas.errors import BadRequest
    from schemas.webhooks import HookEvent, WebhookFilter

    asked = {"events": arguments.event, "models": arguments.model, "severity": arguments.severity}
    try:
        return msgspec.convert(asked, WebhookFilter)
    except msgspec.ValidationError as error:
        raise BadRequest(f"{error}; events are {', '.join(HookEvent)}.") from error


async def _list(yard: "Client", arguments: argparse.Namespace) -> None:
    found = await yard.alerting.webhooks()
    if arguments.json:
        emit(found)
        return
    if not found:
        say("Nobody is told. `yard webhook add NAME URL` changes that.")
        return
    table(
        ("NAME", "TELLS", "ABOUT", ">DELIVERED", "IS"),
        [
            (
                each.webhook.name,
                each.webhook.target,
                _about(each),
                str(each.state.delivered),
                _health(each),
            )
            for each in found
        ],
    )
    for each in found:
        for dead in each.state.dead:
            what = f"{dead.event} {dead.id} ({clock(dead.at)})"
            say(f"\n{each.webhook.name} was never told of {what}: {dead.error}")


def _about(record: "WebhookRecord") -> str:
    wanted = record.webhook.wanted
    words = [*wanted.events, *(f"model={model}" for model in wanted.models)]
    return " ".join(words) or "everything"


def _health(record: "WebhookRecord") -> str:
    state = record.state
    if state.failing_since is None:
        return "well" if state.delivered_at is None else f"well, {ago(state.delivered_at)} ago"
    return f"failing for {ago(state.failing_since)}: {state.error}"


async def _add(yard: "Client", arguments: argparse.Namespace) -> None:
    from schemas.errors import BadRequest
    from schemas.webhooks import PutWebhook

    url = sys.stdin.readline().strip() if arguments.url == "-" else arguments.url
    try:
        secret = arguments.secret_file.read_text().strip() if arguments.secret_file else None
        asked = PutWebhook(name=arguments.name, url=url, wanted=_wanted(arguments), secret=secret)
    except (OSError, ValueError) as error:
        raise BadRequest(f"{error}.") from error
    stored = await yard.alerting.put_webhook(asked)
    if arguments.json:
        emit(stored)
        return
    name = stored.webhook.name
    say(f"{name} tells {stored.webhook.target} from now on. Try it: yard webhook test {name}")
    if stored.secret is not None:
        say(f"Its secret, shown this once: {stored.secret}")


async def _test(yard: "Client", arguments: argparse.Namespace) -> None:
    from schemas.errors import WebhookRefused

    tested = await yard.alerting.test_webhook(arguments.name)
    if not tested.delivered:
        raise WebhookRefused(f"{arguments.name} did not take it: {tested.error}")
    if arguments.json:
        emit(tested)
    else:
        say(f"{arguments.name} took it.")


async def _remove(yard: "Client", arguments: argparse.Namespace) -> None:
    if _take_program(arguments.name):
        gone: object = {"name": arguments.name}
    else:
        gone = await yard.alerting.delete_webhook(arguments.name)
    if arguments.json:
        emit(gone)
    else:
        say(f"{arguments.name} is told nothing more.")


def _take_program(name: str) -> bool:
    """Whether it was one of this machine's file."""
    from modelyard.host.hooks_file import HooksFileError, read_hooks, write_hooks
    from modelyard.host.settings import load
    from schemas.errors import BadRequest

    settings = load()
    try:
        hooks = read_hooks(settings)
    except HooksFileError as error:
        raise BadRequest(str(error)) from error
    left = [hook for hook in hooks if hook.name != name]
    if len(left) < len(hooks):
        write_hooks(settings, left)
    return len(left) < len(hooks)


def _exec(arguments: argparse.Namespace) -> int:
    from modelyard.host.home import read_membership
    from modelyard.host.hooks_file import CommandHook, HooksFileError, read_hooks, write_hooks
    from modelyard.host.settings import SettingsError, load
    from schemas.errors import YardError

    try:
        settings = load()
        if read_membership(settings) is not None:
            complain("This machine joined another's yard; the first machine tells programs.")
            return REFUSED
        hook = CommandHook(name=arguments.name, argv=tuple(arguments.argv), wanted=_wanted(arguments))
        others = [each for each in read_hooks(settings) if each.name != hook.name]
        write_hooks(settings, [*others, hook])
    except (SettingsError, HooksFileError, ValueError, OSError, YardError) as error:
        complain(f"{error}")
        return REFUSED
    say(f"{hook.name} runs {hook.argv[0]} from now on. Try it: yard webhook test {hook.name}")
    return 0
