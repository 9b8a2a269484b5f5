"""`yard downloads`."""

import argparse
from contextlib import aclosing
from typing import TYPE_CHECKING

from modelyard.cli.output import emit, say, table
from modelyard.cli.text import rate
from modelyard.cli.verbs import Verbs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from modelyard.client import Client
    from schemas.downloads import Download

_MORE = """

  yard downloads                          the list: at work, waiting in their order, ended
  yard downloads --log                    every step of all of them as it happens
  yard downloads pause|resume DOWNLOAD    let one rest, have it go on where it was
  yard downloads cancel|retry DOWNLOAD    end one, try a failed or cancelled one again
  yard downloads move DOWNLOAD --to 0     another place among those that wait; 0 is the next
  yard downloads limit DOWNLOAD --to 5MB  what it takes of the network; `none` for no limit of its own
  yard downloads forget DOWNLOAD          take an ended one off the list

DOWNLOAD is an id, or the name of the model that it brings. --all means all that the verb can be said of.
"""
_OPEN = ("queued", "resolving", "transferring")
_STATES = {
    "pause": _OPEN,
    "resume": ("paused",),
    "cancel": (*_OPEN, "paused"),
    "retry": ("failed", "cancelled"),
    "limit": (*_OPEN, "paused"),
    "move": ("queued",),
    "forget": ("finished", "failed", "cancelled"),
}
"""Of which downloads a verb can be said."""


def register(verbs: Verbs) -> None:
    parser = verbs.add("downloads", "List downloads, or say how they go on.", _downloads)
    parser.description = f"{parser.description}{_MORE}"
    parser.add_argument("verb", nargs="?", default="list", choices=("list", *_STATES), metavar="VERB")
    parser.add_argument("downloads", nargs="*", metavar="DOWNLOAD", help="an id or the name of a model")
    parser.add_argument("--all", action="store_true", help="all that the verb can be said of")
    parser.add_argument("--to", metavar="PLACE|SPEED", help="for move and limit")
    parser.add_argument("--log", action="store_true", help="show every step as it happens")


async def _downloads(yard: "Client", arguments: argparse.Namespace) -> None:
    if arguments.log:
        await _log(yard, as_json=arguments.json)
    elif arguments.verb == "list":
        _list(in_order((await yard.downloads()).values()), as_json=arguments.json)
    else:
        await _order(yard, arguments)


async def _log(yard: "Client", *, as_json: bool) -> None:
    from modelyard.cli import progress

    async with aclosing(yard.download_queue.watch()) as updates:
        async for update in updates:
            emit(update) if as_json else progress.log(update)


def in_order(downloads: "Iterable[Download]") -> "list[Download]":
    """At work, waiting in their order, ended: the newest end first."""

    def rank(download: "Download") -> tuple[int, float]:
        if download.state in _STATES["forget"]:
            return 2, -download.changed_at
        return int(download.state in ("queued", "paused")), download.order

    return sorted(downloads, key=rank)


def _list(downloads: "list[Download]", *, as_json: bool) -> None:
    if as_json:
        emit(downloads)
        return
    from modelyard.cli.progress import amount, pace

    table(
        ("MODEL", "STATE", ">BYTES", "PACE", "NODE", "ID"),
        [
            (
                each.model,
                each.state,
                amount(each),
                each.error.message if each.error else pace(each),
                each.node,
                each.download,
            )
            for each in downloads
        ],
    )


async def _order(yard: "Client", arguments: argparse.Namespace) -> None:
    known = in_order((await yard.downloads()).values())
    meant = _meant(known, arguments)
    changed = [await _say(yard, arguments, each.download) for each in meant]
    if arguments.json:
        emit(changed)
        return
    for each in changed:
        say(f"{each.model}: {'forgotten' if arguments.verb == 'forget' else each.state}")


def _meant(known: "list[Download]", arguments: argparse.Namespace) -> "list[Download]":
    from schemas.errors import BadRequest, NotFound

    fitting = [each for each in known if each.state in _STATES[arguments.verb]]
    if arguments.all:
        return fitting
    if not arguments.downloads:
        raise BadRequest(f"Say which downloads to {arguments.verb}, or --all of them.")
    meant = []
    for name in arguments.downloads:
        by_id = [each for each in known if each.download == name]
        named = by_id or [each for each in (*fitting, *known) if name in (each.model, each.reference)]
        if not named:
            raise NotFound(f"There is no download {name}.", param="download")
        meant.append(named[0])
    return meant


async def _say(yard: "Client", arguments: argparse.Namespace, download: str) -> "Download":
    from schemas.errors import BadRequest

    queue = yard.download_queue
    match arguments.verb:
        case "move":
            if not (arguments.to or "0").isdecimal():
                raise BadRequest("--to is the place in the queue, 0 or more.")
            return await queue.move(download, int(arguments.to or 0))
        case "limit":
            if arguments.to is None:
                raise BadRequest("--to is the speed, like 5MB, or none.")
            try:
                return await queue.limit(download, rate(arguments.to))
            except argparse.ArgumentTypeError as error:
                raise BadRequest(f"{error}.") from error
        case "pause":
            return await queue.pause(download)
        case "resume":
            return await queue.resume(download)
        case "cancel":
            return await queue.cancel(download)
        case "retry":
            return await queue.retry(download)
        case _:
            return await queue.forget(download)
