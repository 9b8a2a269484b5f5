"""`yard library verify`, `repair`, `copy` and `import`: jobs, followed to their end."""

import argparse
import asyncio
import sys
import time
from contextlib import aclosing
from typing import TYPE_CHECKING

from modelyard.cli.output import emit, say, table
from modelyard.cli.text import spell_size, spell_sources

if TYPE_CHECKING:
    from modelyard.cli.library import Commands
    from modelyard.client import Client
    from schemas.library import LibraryJob

_LINE_EVERY_S = 5.0


def register(commands: "Commands", entry: str) -> None:
    verify = commands.add("verify", "Read every byte of it and compare its sha256.", _verify)
    verify.add_argument("entry", metavar="ENTRY", help=entry)
    repair = commands.add("repair", "Fetch its damaged and missing files again, and no others.", _repair)
    repair.add_argument("entry", metavar="ENTRY", help=entry)
    copy = commands.add("copy", "Bring it to another node, without the hub.", _copy)
    copy.add_argument("entry", metavar="ENTRY", help=entry)
    copy.add_argument("--node", required=True, help="where it shall lie too")
    copy.add_argument("--store", help="into which store (default: the one that downloads go to)")
    cancel = commands.add("cancel", "End a check, a repair or an import.", _cancel)
    cancel.add_argument("job", metavar="JOB", help="its id, as Ctrl-C or --json tells it")
    take_in = commands.add(
        "import", "Take a model in from the Hub's own cache; without REPO, show that.", _import
    )
    take_in.add_argument("repo", nargs="?", metavar="REPO", help="such as org/name")
    take_in.add_argument("--revision", help="the commit, or its beginning (default: the newest there)")
    take_in.add_argument("--store", help="into which store (default: the one that downloads go to)")
    take_in.add_argument("--node", help="on which node")


async def _verify(yard: "Client", arguments: argparse.Namespace) -> None:
    entry = await yard.library.find(arguments.entry)
    job = await _follow(yard, await yard.library.verify(entry.key), as_json=arguments.json)
    _check_damage(job)
    if not arguments.json:
        known = "is as it should be" if entry.verified != "unknown" else "was read, and its sha256 noted"
        say(f"{entry.name} {known}: {spell_size(job.bytes_total)}.")


def _check_damage(job: "LibraryJob") -> None:
    from schemas.errors import Conflict

    if job.damaged:
        raise Conflict(
            f"Damaged: {', '.join(job.damaged)}. Fetch that again: yard library repair {job.subject}"
        )


async def _repair(yard: "Client", arguments: argparse.Namespace) -> None:
    entry = await yard.library.find(arguments.entry)
    job = await _follow(yard, await yard.library.repair(entry.key), as_json=arguments.json)
    if not arguments.json:
        say(f"{entry.name} is whole again: {spell_size(job.bytes_total)} fetched.")


async def _copy(yard: "Client", arguments: argparse.Namespace) -> None:
    entry = await yard.library.find(arguments.entry)
    job = await yard.library.copy(entry.key, arguments.node, arguments.store)
    job = await _follow(yard, job, as_json=arguments.json)
    if not arguments.json:
        came = spell_sources(job.received) or "all of it was there"
        say(f"{entry.name} is in {job.node}.{job.store}: {came}.")


async def _import(yard: "Client", arguments: argparse.Namespace) -> None:
    from schemas.library import ImportCached

    if arguments.repo is None:
        await _cached(yard, arguments)
        return
    order = ImportCached(
        repo=arguments.repo, revision=arguments.revision, node=arguments.node, store=arguments.store
    )
    job = await _follow(yard, await yard.library.take_in(order), as_json=arguments.json)
    if not arguments.json:
        kept = f", {job.linked} files without a copy" if job.linked else ""
        say(f"{job.subject} is in {job.node}.{job.store}: {spell_size(job.bytes_total)}{kept}.")


async def _cancel(yard: "Client", arguments: argparse.Namespace) -> None:
    job = await yard.library.cancel(arguments.job)
    if arguments.json:
        emit(job)
    else:
        say(f"{job.kind} {job.subject}: {job.state}.")


async def _cached(yard: "Client", arguments: argparse.Namespace) -> None:
    found = await yard.library.cached(arguments.node)
    if arguments.json:
        emit(found)
    elif not found.models:
        say(f"There is nothing in the Hub's cache of {found.node} ({found.folder}).")
    else:
        rows = [
            (one.repo, one.size, str(one.n_files), one.revision[:12], "yes" if one.imported else "no")
            for one in found.models
        ]
        table(("REPO", ">SIZE", ">FILES", "COMMIT", "IN LIBRARY"), rows)


async def _follow(yard: "Client", job: "LibraryJob", *, as_json: bool) -> "LibraryJob":
    """Show a job until it has ended; Ctrl-C leaves it running. Raises what it failed with."""
    from schemas.errors import Conflict, ErrorBody, from_body

    shown_at = time.monotonic()
    try:
        async with aclosing(yard.library.follow(job)) as updates:
            async for job in updates:
                if as_json:
                    emit(job)
                elif time.monotonic() - shown_at > _LINE_EVERY_S:
                    shown_at = time.monotonic()
                    done = f"{spell_size(job.bytes_done)} of {spell_size(job.bytes_total)}"
                    say(f"{job.kind} {job.subject}: {done}")
    except asyncio.CancelledError:
        print(f"\nIt goes on; to end it: yard library cancel {job.job}", file=sys.stderr)
        raise
    if job.error is not None:
        raise from_body(ErrorBody(error=job.error))
    if job.state == "cancelled":
        raise Conflict(f"Somebody cancelled the job about {job.subject}.")
    return job
