"""`yard pull`."""

import argparse
import asyncio
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, aclosing, nullcontext
from typing import TYPE_CHECKING

from modelyard.cli.choosing import add_choice, add_wishes, order_of
from modelyard.cli.output import emit, say
from modelyard.cli.verbs import Verbs

if TYPE_CHECKING:
    from modelyard.client import Client
    from schemas.downloads import Download

_MORE = """

REFERENCE is REPO[:QUANT][@REVISION] on the Hugging Face hub, or the address of a file there:
  yard pull Qwen/Qwen3-0.6B-GGUF:Q8_0

`yard offer REPO` shows what there is, and what fits which node.
Ctrl-C leaves the download running; the same command shows it again.
"""
_NEXT = {
    "chat": "Talk to it: yard chat {0}",
    "embedding": "It makes embeddings; start it: yard start {0}",
    "rerank": "It ranks documents; start it: yard start {0}",
    "completion": "It completes texts; start it: yard start {0}",
    "transcription": "It transcribes speech; start it: yard start {0}",
}


def register(verbs: Verbs) -> None:
    parser = verbs.add("pull", "Fetch a model from the hub.", _pull, json="JSON lines, one an update")
    parser.description = f"{parser.description}{_MORE}"
    parser.add_argument("reference", metavar="REFERENCE", help="what to fetch")
    parser.add_argument("--name", help="what to call it in the yard (default: REPO:QUANT)")
    add_choice(parser)
    add_wishes(parser)


async def _pull(yard: "Client", arguments: argparse.Namespace) -> None:
    last: Download | None = None
    try:
        async with aclosing(yard.pull(order_of(arguments))) as updates:
            with _display(as_json=arguments.json) as show:
                async for last in updates:
                    show(last)
    except asyncio.CancelledError:
        if last is not None:
            print(
                f"\nThe download goes on; `yard pull {arguments.reference}` shows it again.", file=sys.stderr
            )
        raise
    assert last is not None
    _check(last)
    if not arguments.json:
        await _tell_next(yard, last)


async def _tell_next(yard: "Client", last: "Download") -> None:
    models = (await yard.models()).values() if last.register else ()
    spec = next((each for each in models if each.name == last.model), None)
    if spec is None and last.files:
        say(f"The files of {last.reference} are in the store; no model was made of them.")
        return
    say(f"{last.model} is in the yard. {_NEXT[spec.mode if spec else 'chat'].format(last.model)}")


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


def _display(*, as_json: bool) -> "AbstractContextManager[Callable[[Download], None]]":
    if as_json:
        return nullcontext(emit)
    from modelyard.cli import progress

    return progress.bar() if sys.stdout.isatty() else nullcontext(progress.Lines().show)
