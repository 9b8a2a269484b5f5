"""`yard register`: a model of files that are in the store."""

import argparse
from typing import TYPE_CHECKING

from modelyard.cli.choosing import add_wishes, checked, wishes_of
from modelyard.cli.output import emit, say, table
from modelyard.cli.verbs import Verbs

if TYPE_CHECKING:
    from modelyard.client import Client

_MORE = """

What nobody says is guessed from the files: what the model is for, its engine, and the context that fits.

  yard register org/name/model-Q4_K_M.gguf --name small --dry-run
"""


def register(verbs: Verbs) -> None:
    parser = verbs.add("register", "Make a model of files that are in the store.", _register)
    parser.description = f"{parser.description}{_MORE}"
    parser.add_argument("path", metavar="PATH", help="a GGUF file or a folder in the store, or an entry")
    parser.add_argument("--name", help="what to call it (default: after the files)")
    parser.add_argument("--dry-run", action="store_true", help="show the guess, and change nothing")
    add_wishes(parser)


async def _register(yard: "Client", arguments: argparse.Namespace) -> None:
    from schemas.registering import RegisterFiles

    asked = checked(
        RegisterFiles,
        path=arguments.path,
        name=arguments.name,
        overrides=wishes_of(arguments),
        dry_run=arguments.dry_run,
    )
    done = await yard.hub.register(asked)
    if arguments.json:
        emit(done)
        return
    rows = [(reason.field, reason.value, reason.reason) for reason in done.reasons]
    table(("FIELD", "VALUE", "BECAUSE"), [("name", done.spec.name, done.spec.path), *rows])
    if done.kept:
        say(f"{done.spec.name} is there already; it keeps its own {', '.join(done.kept)}.")
    if done.revision is None:
        say("Nothing was changed. Without --dry-run it becomes a model.")
    else:
        say(f"{done.spec.name} is in the yard (revision {done.revision}).")
