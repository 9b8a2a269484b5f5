"""`yard storage`: what is kept, and giving it up."""

import argparse
from typing import TYPE_CHECKING

from modelyard.cli.output import emit, say, table
from modelyard.cli.text import ago, spell_duration, spell_size
from modelyard.cli.verbs import Verbs

if TYPE_CHECKING:
    from modelyard.client import Client
    from schemas.storage import StorageReport, StoreStats

_EPILOG = """\
yard storage orphans   usage of models that left the registry
yard storage rm MODEL  take the usage of such a model away for good
yard storage vacuum    apply what retention rules, and give free space back to the disk"""


def register(verbs: Verbs) -> None:
    parser = verbs.add("storage", "What the yard keeps, and how much of it.", _storage)
    parser.epilog = _EPILOG
    parser.add_argument("what", nargs="?", choices=("orphans", "rm", "vacuum"), help=argparse.SUPPRESS)
    parser.add_argument("model", nargs="?", metavar="MODEL", help="whose usage to take away")


async def _storage(yard: "Client", arguments: argparse.Namespace) -> None:
    if arguments.what == "rm":
        await _remove(yard, arguments)
    elif arguments.what == "vacuum":
        await _vacuum(yard, arguments)
    else:
        report = await yard.accounts.storage()
        if arguments.what == "orphans":
            _show_orphans(report, arguments)
        elif arguments.json:
            emit(report)
        else:
            _show(report)


def _show(report: "StorageReport") -> None:
    database = report.database
    say(
        f"{database.path} takes {spell_size(database.bytes)}, "
        f"of which {spell_size(database.free_bytes)} are free for what comes."
    )
    table(
        ("STORE", "KIND", ">MESSAGES", ">SIZE", ">OLDEST", ">AT MOST", ">FOR"),
        [_row(each) for each in report.stores],
    )
    for disk in report.disks:
        when = "does not fill up" if disk.days is None else f"is full in about {disk.days:.0f} days"
        say(f"{disk.node}: the disk of {disk.disk} has {spell_size(disk.free_bytes)} free and {when}.")
    _say_orphans(report)


def _row(store: "StoreStats") -> tuple[str, ...]:
    return (
        store.name,
        store.kind,
        f"{store.messages:,}",
        spell_size(store.bytes),
        "-" if store.oldest_at is None else ago(store.oldest_at),
        spell_size(store.max_bytes),
        "-" if store.max_age_s is None else spell_duration(store.max_age_s),
    )


def _say_orphans(report: "StorageReport") -> None:
    orphans = [each.model for each in report.models if each.orphan]
    if orphans:
        say(f"Usage is kept of {len(orphans)} models that left the registry; see `yard storage orphans`.")


def _show_orphans(report: "StorageReport", arguments: argparse.Namespace) -> None:
    orphans = [each for each in report.models if each.orphan]
    if arguments.json:
        emit(orphans)
    elif not orphans:
        say("Every model whose usage is kept is in the registry.")
    else:
        rows = [
            (each.model, f"{each.requests:,}", spell_duration(each.loaded_s), "yes" if each.priced else "no")
            for each in orphans
        ]
        table(("MODEL", ">REQUESTS", ">LOADED", "PRICED"), rows)


async def _remove(yard: "Client", arguments: argparse.Namespace) -> None:
    from schemas.errors import BadRequest

    if arguments.model is None:
        raise BadRequest("Say whose usage: yard storage rm MODEL.")
    removed = await yard.accounts.remove_usage(arguments.model)
    if arguments.json:
        emit(removed)
    else:
        say(f"The usage of {removed.model} is gone: {removed.requests:,} records.")


async def _vacuum(yard: "Client", arguments: argparse.Namespace) -> None:
    done = await yard.accounts.vacuum()
    if arguments.json:
        emit(done)
    else:
        say(
            f"{spell_size(done.before_bytes)} before, {spell_size(done.after_bytes)} now; "
            f"{done.requests_removed:,} old records were removed."
        )
