"""Execution of a verb: login, errors, exit status; and verbs that are one command of the contract."""

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from typing import TypeVar

from modelyard.bus import logs
from modelyard.cli.arguments import Argument, add_fields, fields_of, read_record
from modelyard.cli.output import print_error, print_json, print_line
from modelyard.cli.parser import VerbParser
from modelyard.client import Client
from modelyard.host.settings import SettingsError, load
from schemas.errors import BrokerUnavailable, ServiceUnavailable, YardError
from schemas.subject import Command

REFUSED = 1
WRONG_COMMAND = 2
UNREACHABLE = 3
WRONG_SETTING = 78
_CONNECT_TIMEOUT_S = 3.0

T = TypeVar("T")
R = TypeVar("R")
Work = Callable[[Client, argparse.Namespace], Awaitable[None]]


def local(parser: VerbParser, run: Callable[[argparse.Namespace], int]) -> None:
    """A verb that needs no connection; `run` returns the exit status."""
    parser.set_defaults(run=run)


def online(parser: VerbParser, work: Work, *, json: str = "one JSON document") -> None:
    """A verb over NATS. `json` describes what `--json` prints."""
    # Suppressed, so that of two levels each may have the flag.
    parser.add_argument(
        "--json", action="store_true", default=argparse.SUPPRESS, help=f"print {json}, for programs"
    )
    local(parser, lambda arguments: _run(work, arguments))


def command(
    parser: VerbParser,
    command: Command[T, R],
    show: Callable[[R], None] | str,
    *,
    positional: Sequence[str] | None = None,
    omit: Container[str] = (),
    fields: Mapping[str, Argument] | None = None,
    document: Callable[[R], object] = lambda reply: reply,
    json: str = "one JSON document",
) -> None:
    """A verb that is one command: its arguments are the payload's fields, its JSON the reply.

    The first field is positional if it is required, unless `positional` names others. `show` prints the
    reply for people, or is a sentence with fields of the reply and the arguments, such as `{0.name}` and
    `{1.model}`; `document` selects what `--json` prints of the reply.
    """
    if positional is None:
        positional = tuple(field.name for field in fields_of(command.payload)[:1] if field.required)

    async def work(yard: Client, arguments: argparse.Namespace) -> None:
        reply = await yard.call(command, read_record(arguments, command.payload, omit=omit))
        if arguments.json:
            print_json(document(reply))
        elif isinstance(show, str):
            print_line(show.format(reply, arguments))
        else:
            show(reply)

    add_fields(parser, command.payload, positional=positional, omit=omit, fields=fields)
    online(parser, work, json=json)


def _run(work: Work, arguments: argparse.Namespace) -> int:
    async def connected() -> None:
        async with Client.connect(settings, timeout_s=_CONNECT_TIMEOUT_S) as yard:
            await work(yard, arguments)

    try:
        settings = load()
    except SettingsError as error:
        print_error(str(error))
        return WRONG_SETTING
    logs.quiet(settings.log_level)
    try:
        asyncio.run(connected())
    except YardError as error:
        return _report_error(error, as_json=arguments.json)
    return 0


def _report_error(error: YardError, *, as_json: bool) -> int:
    unreachable = isinstance(error, BrokerUnavailable | ServiceUnavailable)
    hint = " Is the yard up? `yard up` starts it." if unreachable and "yard up" not in error.message else ""
    print_error(error.message + hint)
    if as_json:
        print(error.encode().decode())
    return UNREACHABLE if unreachable else REFUSED
