"""`yard logs`."""

import argparse
from contextlib import aclosing
from typing import TYPE_CHECKING

from modelyard.cli.output import emit, say
from modelyard.cli.verbs import Verbs

if TYPE_CHECKING:
    from modelyard.client import Client


def register(verbs: Verbs) -> None:
    parser = verbs.add("logs", "Show what an engine printed.", _logs, json="JSON lines")
    parser.add_argument(
        "name", metavar="MODEL|INSTANCE", help="a model (its newest instance is meant) or an instance"
    )
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what it prints from now on")


async def _logs(yard: "Client", arguments: argparse.Namespace) -> None:
    async with aclosing(yard.logs(arguments.name, follow=arguments.follow)) as lines:
        async for line in lines:
            if arguments.json:
                emit(line)
            else:
                say(line.text)
