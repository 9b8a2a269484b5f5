"""How a verb joins the command line, and what happens around it: login, errors, exit status."""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from modelyard.cli.text import safe

if TYPE_CHECKING:
    from modelyard.client import Client
    from modelyard.host.settings import Settings
    from schemas.errors import YardError

REFUSED = 1
WRONG_COMMAND = 2
UNREACHABLE = 3
WRONG_SETTING = 78
_CONNECT_TIMEOUT_S = 3.0

Work = Callable[["Client", argparse.Namespace], Awaitable[None]]


class Verbs:
    """The verbs of one parser."""

    def __init__(self, top: argparse.ArgumentParser) -> None:
        self._parsers = top.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def local(
        self, name: str, summary: str, run: Callable[[argparse.Namespace], int]
    ) -> argparse.ArgumentParser:
        """A verb that needs no yard."""
        parser = self._parsers.add_parser(
            name,
            help=summary,
            description=summary,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.set_defaults(run=run)
        return parser

    def group(self, name: str, summary: str) -> "Verbs":
        """Verbs of a noun: `yard NOUN VERB`."""
        return Verbs(self._parsers.add_parser(name, help=summary, description=summary))

    def add(
        self, name: str, summary: str, work: Work, *, json: str = "one JSON document"
    ) -> argparse.ArgumentParser:
        """A verb over NATS. `json` says what `--json` makes it print."""
        parser = self.local(name, summary, lambda arguments: _run(work, arguments))
        parser.add_argument("--json", action="store_true", help=f"print {json}, for programs")
        return parser


def _run(work: Work, arguments: argparse.Namespace) -> int:
    from modelyard.bus import logs
    from modelyard.host.settings import SettingsError, load
    from schemas.errors import YardError

    try:
        settings = load()
    except SettingsError as error:
        complain(str(error))
        return WRONG_SETTING
    logs.quiet(settings.log_level)
    try:
        asyncio.run(_connected(work, arguments, settings))
    except YardError as error:
        return _refused(error, as_json=arguments.json)
    return 0


async def _connected(work: Work, arguments: argparse.Namespace, settings: "Settings") -> None:
    from modelyard.client import Client

    async with Client.connect(settings, timeout_s=_CONNECT_TIMEOUT_S) as yard:
        await work(yard, arguments)


def _refused(error: "YardError", *, as_json: bool) -> int:
    from schemas.errors import BrokerUnavailable, ServiceUnavailable

    unreachable = isinstance(error, BrokerUnavailable | ServiceUnavailable)
    hint = " Is the yard up? `yard up` starts it." if unreachable and "yard up" not in error.message else ""
    complain(error.message + hint)
    if as_json:
        print(error.encode().decode())
    return UNREACHABLE if unreachable else REFUSED


def complain(sentence: str) -> None:
    """Tell the person at the terminal what went wrong."""
    sys.stdout.flush()
    print(f"yard: {safe(sentence)}", file=sys.stderr, flush=True)
