"""`yard library describe`, `delete`, `restore` and `trash`."""

import argparse
import sys
from typing import TYPE_CHECKING

from modelyard.cli.output import emit, say, table
from modelyard.cli.text import ago, spell_duration, spell_size

if TYPE_CHECKING:
    from modelyard.cli.library import Commands
    from modelyard.client import Client


def register(commands: "Commands", entry: str) -> None:
    describe = commands.add("describe", "Write a description into its folder.", _describe)
    describe.add_argument("entry", metavar="ENTRY", help=entry)
    describe.add_argument("text", metavar="TEXT", help="the description; an empty one takes it away")
    delete = commands.add("delete", "Put it into the trash of its store, for 24 hours.", _delete)
    delete.add_argument("entry", metavar="ENTRY", help=entry)
    delete.add_argument(
        "--force", action="store_true", help="though a model needs it or an instance runs from it"
    )
    delete.add_argument("--yes", action="store_true", help="do not ask")
    restore = commands.add("restore", "Take it out of the trash again.", _restore)
    restore.add_argument("item", metavar="ITEM", help="its path, or its key as `yard library trash` shows it")
    trash = commands.add("trash", "Show what is in the trash, or empty it.", _trash)
    trash.add_argument("--empty", action="store_true", help="delete everything in it for good")
    trash.add_argument("--node", help="of which node")
    trash.add_argument("--yes", action="store_true", help="do not ask")


async def _describe(yard: "Client", arguments: argparse.Namespace) -> None:
    found = await yard.library.find(arguments.entry)
    entry = await yard.library.describe(found.key, arguments.text, found.description_revision)
    if arguments.json:
        emit(entry)
    else:
        say(f"{entry.name}: {entry.description or 'no description any more'}")


async def _delete(yard: "Client", arguments: argparse.Namespace) -> None:
    entry = await yard.library.find(arguments.entry)
    await _confirm(arguments, f"Delete {entry.path} on {entry.node} ({entry.size})?")
    item = await yard.library.delete(entry.key, force=arguments.force)
    if arguments.json:
        emit(item)
    else:
        kept = spell_duration(item.expires_at - item.trashed_at)
        say(f"{item.path} is in the trash for {kept}; to have it back:")
        say(f"  yard library restore {item.key}")


async def _restore(yard: "Client", arguments: argparse.Namespace) -> None:
    item = await yard.library.find_trashed(arguments.item)
    restored = await yard.library.restore(item.key)
    if arguments.json:
        emit(restored)
    else:
        say(f"{restored.path} is back.")


async def _trash(yard: "Client", arguments: argparse.Namespace) -> None:
    if arguments.empty:
        await _confirm(arguments, "Delete everything in the trash for good?")
        emptied = await yard.library.empty(arguments.node)
        if arguments.json:
            emit(emptied)
        else:
            say(f"{emptied.items} deleted for good, {spell_size(emptied.size_bytes)}.")
        return
    items = sorted((await yard.library.trash()).values(), key=lambda item: item.trashed_at)
    items = [item for item in items if arguments.node in (None, item.node)]
    if arguments.json:
        emit(items)
    elif not items:
        say("The trash is empty.")
    else:
        rows = [(item.path, item.size, f"{ago(item.trashed_at)} ago", item.key) for item in items]
        table(("PATH", ">SIZE", "DELETED", "KEY"), rows)


async def _confirm(arguments: argparse.Namespace, question: str) -> None:
    """Ask the person at the terminal; a program is asked nothing."""
    from modelyard.cli.keyboard import ask
    from schemas.errors import Cancelled

    if arguments.yes or arguments.json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return
    if (await ask(f"{question} [y/N] ") or "").strip().lower() not in ("y", "yes"):
        raise Cancelled("Nothing was deleted.")
