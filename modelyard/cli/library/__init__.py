"""`yard library`: what lies on the disks of the yard, and what can be done with it."""

import argparse
from typing import TYPE_CHECKING

from modelyard.cli.library import changing, listing, working
from modelyard.cli.verbs import Verbs, Work

if TYPE_CHECKING:
    from modelyard.client import Client

_MORE = """

Without a command: every model on disk. ENTRY is a path as it is listed, the end of one, or a key.
"""
_ENTRY = "its path, the end of that, or its key"


def register(verbs: Verbs) -> None:
    top = verbs.add("library", "Show the models on disk, and look after them.", _run, json="a JSON document")
    top.description = f"{top.description}{_MORE}"
    top.add_argument("--sort", choices=listing.SORTS, default="name", help="by what (default: %(default)s)")
    top.set_defaults(work=listing.entries)
    commands = Commands(top)
    commands.add("show", "Show one with its files.", listing.show).add_argument(
        "entry", metavar="ENTRY", help=_ENTRY
    )
    changing.register(commands, _ENTRY)
    working.register(commands, _ENTRY)


class Commands:
    """The commands below `yard library`."""

    def __init__(self, top: argparse.ArgumentParser) -> None:
        self._parsers = top.add_subparsers(title="commands", metavar="COMMAND")

    def add(self, name: str, summary: str, work: Work) -> argparse.ArgumentParser:
        """A command; `--json` may stand before or after its name."""
        parser = self._parsers.add_parser(name, help=summary, description=summary)
        parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
        parser.set_defaults(work=work)
        return parser


async def _run(yard: "Client", arguments: argparse.Namespace) -> None:
    await arguments.work(yard, arguments)
