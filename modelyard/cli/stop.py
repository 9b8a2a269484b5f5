"""`yard stop`."""

import argparse
from typing import TYPE_CHECKING

from modelyard.cli.output import emit, say
from modelyard.cli.verbs import Verbs

if TYPE_CHECKING:
    from modelyard.client import Client


def register(verbs: Verbs) -> None:
    parser = verbs.add("stop", "Stop a model.", _stop)
    parser.description = "Stop a model: it finishes what it has begun, then gives its memory back."
    parser.add_argument("model", metavar="MODEL", help="its name or an alias")


async def _stop(yard: "Client", arguments: argparse.Namespace) -> None:
    stopping = await yard.stop(arguments.model)
    if arguments.json:
        emit(stopping)
    elif stopping.instances:
        say(f"{stopping.model} is stopping ({', '.join(stopping.instances)}).")
    else:
        say(f"{stopping.model} did not run.")
