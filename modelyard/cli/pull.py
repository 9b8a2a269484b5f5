"""`yard pull`."""

import argparse
import asyncio
import re
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager, aclosing, nullcontext
from typing import TYPE_CHECKING

from modelyard.cli.choosing import add_choice, add_wishes, order_of, orders_of, says_wishes
from modelyard.cli.output import emit, say
from modelyard.cli.text import rate, spell_sources
from modelyard.cli.verbs import Verbs, complain

if TYPE_CHECKING:
    from collections.abc import Iterable

    from modelyard.client import Client
    from schemas.downloads import Added, Download

_MORE = """

REFERENCE is REPO[:QUANT][@REVISION] on the Hugging Face hub, or the address of a page there:
  yard pull Qwen/Qwen3-0.6B-GGUF:Q8_0
Several are taken at once, separated by spaces, commas or lines; - reads them from standard input.

`yard offer REPO` shows what there is, and what fits which node.
Ctrl-C leaves the download running; the same command shows it again, and so does `yard downloads`.
"""
_NEXT = {
    "chat": "Talk to it: yard chat {0}",
    "embedding": "It makes embeddings; start it: yard start {0}",
    "rerank": "It ranks documents; start it: yard start {0}",
}


def register(verbs: Verbs) -> None:
    parser = verbs.add("pull", "Fetch models from the hub.", _pull, json="JSON lines, one an update")
    parser.description = f"{parser.description}{_MORE}"
    parser.add_argument("references", nargs="+", metavar="REFERENCE", help="what to fetch")
    parser.add_argument("--name", help="what to call it in the yard (default: REPO:QUANT)")
    add_choice(parser)
    add_wishes(parser)
    parser.add_argument("--node", help="the machine that fetches it (default: the first one)")
    parser.add_argument("--limit", type=rate, metavar="SPEED", help="the most it takes of the network: 20MB")
    parser.add_argument("--detach", action="store_true", help="only put it into the queue")
    parser.add_argument("--log", action="store_true", help="show every step as a line")


async def _pull(yard: "Client", arguments: argparse.Namespace) -> None:
    text = " ".join(arguments.references)
    if text == "-":
        text = sys.stdin.read()
    if arguments.detach or len(re.split(r"[\s,;]+", text.strip())) > 1:
        await _pull_many(yard, arguments, text)
    else:
        await _pull_one(yard, arguments, text.strip())


async def _pull_one(yard: "Client", arguments: argparse.Namespace, reference: str) -> None:
    updates = yard.pull(order_of(reference, arguments))
    (last,) = (await _show(updates, arguments, [reference])).values()
    _check(last)
    if not arguments.json:
        await _tell_next(yard, last)


async def _tell_next(yard: "Client", last: "Download") -> None:
    models = (await yard.models()).values() if last.register else ()
    spec = next((each for each in models if each.name == last.model), None)
    if spec is None and last.files:
        say(f"The files of {last.reference} are in the store; no model was made of them.")
        return
    came = f": {spell_sources(last.received)}" if set(last.received) - {"hub"} else ""
    say(f"{last.model} is in the yard{came}. {_NEXT[spec.mode if spec else 'chat'].format(last.model)}")


async def _pull_many(yard: "Client", arguments: argparse.Namespace, text: str) -> None:
    from schemas.errors import BadRequest

    if arguments.name or says_wishes(arguments):
        raise BadRequest("A name, aliases, mode, context and engine are for one model that is waited for.")
    added = await yard.download_queue.add(orders_of(text, arguments))
    begun = [each.download for each in added if each.download]
    _tell_refused(added, as_json=arguments.json)
    if arguments.detach:
        for each in begun:
            (emit if arguments.json else _say_queued)(each)
        good = begun
    else:
        updates = yard.download_queue.follow(begun)
        ends = await _show(updates, arguments, [each.reference for each in begun], many=True)
        good = [each for each in ends.values() if each.state == "finished"]
        _tell_failed(ends.values())
    if missing := len(added) - len(good):
        what = "are not on their way" if arguments.detach else "were not fetched"
        raise BadRequest(f"{missing} of {len(added)} models {what}.")


async def _show(
    updates: "AsyncGenerator[Download, None]",
    arguments: argparse.Namespace,
    references: list[str],
    *,
    many: bool = False,
) -> "dict[str, Download]":
    """Show every update; the last one of each download."""
    last: dict[str, Download] = {}
    try:
        async with aclosing(updates):
            with _display(arguments, many=many) as show:
                async for update in updates:
                    last[update.download] = update
                    show(update)
    except asyncio.CancelledError:
        if last:
            goes = "download goes" if len(references) == 1 else "downloads go"
            print(f"\nThe {goes} on; `yard pull {' '.join(references)}` shows it again.", file=sys.stderr)
        raise
    return last


def _say_queued(download: "Download") -> None:
    say(f"{download.model}: {download.state} ({download.download})")


def _tell_refused(added: "tuple[Added, ...]", *, as_json: bool) -> None:
    for each in added:
        if each.error is not None:
            emit(each) if as_json else complain(f"{each.reference}: {each.error.message}")


def _tell_failed(ends: "Iterable[Download]") -> None:
    for each in ends:
        if each.error is not None:
            complain(f"{each.model}: {each.error.message}")


def _check(last: "Download") -> None:
    from schemas.errors import Conflict, ErrorBody, InternalError, from_body

    if last.state == "failed":
        raise (
            from_body(ErrorBody(error=last.error))
            if last.error
            else InternalError(f"The download of {last.reference} failed without a reason.")
        )
    if last.state == "cancelled":
        raise Conflict(
            f"The download of {last.reference} was cancelled; what is on disk is kept for next time."
        )


def _display(
    arguments: argparse.Namespace, *, many: bool
) -> "AbstractContextManager[Callable[[Download], None]]":
    if arguments.json:
        return nullcontext(emit)
    from modelyard.cli import progress

    if arguments.log:
        return nullcontext(progress.log)
    if not progress.can_redraw():
        return nullcontext(progress.Lines().show)
    from modelyard.cli import bars

    return bars.bars() if many else bars.bar()
