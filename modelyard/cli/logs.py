"""`yard logs`."""

import argparse
import time
from contextlib import aclosing
from typing import TYPE_CHECKING

from modelyard.cli.output import emit, say
from modelyard.cli.text import duration
from modelyard.cli.verbs import Verbs

if TYPE_CHECKING:
    from modelyard.client import Client


def register(verbs: Verbs) -> None:
    parser = verbs.add("logs", "Show what an engine printed.", _logs, json="JSON lines")
    parser.add_argument(
        "name", metavar="MODEL|INSTANCE", help="a model (its newest instance is meant) or an instance"
    )
    parser.add_argument(
        "--since",
        type=duration,
        metavar="TIME",
        help="how far back to begin, like 10m, 2h or 7d; of a model, all its instances since then are meant",
    )
    parser.add_argument("--grep", metavar="TEXT", help="only lines with this text, in whatever case")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what it prints from now on")


async def _logs(yard: "Client", arguments: argparse.Namespace) -> None:
    since = None if arguments.since is None else time.time() - arguments.since
    found = yard.logs(arguments.name, since=since, grep=arguments.grep, follow=arguments.follow)
    async with aclosing(found) as lines:
        async for line in lines:
            if arguments.json:
                emit(line)
            else:
                say(line.text)
