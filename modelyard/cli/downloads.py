"""`yard pull` and `yard downloads`: downloads from the hub, and their queue."""

import argparse
import re
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractContextManager, aclosing, nullcontext

from modelyard.cli import progress
from modelyard.cli.arguments import Argument, add_fields, parse_rate, read_record
from modelyard.cli.output import on_interrupt, print_error, print_json, print_line, print_result
from modelyard.cli.parser import VerbParser
from modelyard.cli.progress import Show, amount, pace
from modelyard.cli.tables import Column, print_rows
from modelyard.cli.verbs import online
from modelyard.client import Client
from modelyard.text import format_sources
from schemas.downloads import AddDownloads, Download, StartDownload
from schemas.errors import BadRequest, Conflict, ErrorBody, InternalError, NotFound, from_body
from schemas.registry import ModelOverrides

_PULL = """
REFERENCE is REPO[:QUANT][@REVISION] on the Hugging Face hub, or the address of a page there:
  yard pull Qwen/Qwen3-0.6B-GGUF:Q8_0
Several are separated by spaces, commas or lines; - reads them from standard input.

`yard offer REPO` shows what a repository offers, and what fits which node.
Ctrl-C leaves the download running; the same command shows it again, and so does `yard downloads`.
"""
_DOWNLOADS = """
  yard downloads                          the list: running, waiting in their order, ended
  yard downloads --log                    every update of all of them as it happens
  yard downloads pause|resume DOWNLOAD    pause one, resume it where it was
  yard downloads cancel|retry DOWNLOAD    cancel one, retry a failed or cancelled one
  yard downloads move DOWNLOAD --to 0     another position in the queue; 0 is the next
  yard downloads limit DOWNLOAD --to 5MB  its network speed; `none` for no limit of its own
  yard downloads forget DOWNLOAD          remove an ended one from the list

DOWNLOAD is an id, or the name of its model. --all selects all that the verb applies to.
"""
_NEXT_STEP = {
    "chat": "Talk to it: yard chat {0}",
    "embedding": "It makes embeddings; start it: yard start {0}",
    "rerank": "It ranks documents; start it: yard start {0}",
}
_COLUMNS: dict[str, Column] = {
    "MODEL": "model",
    "STATE": "state",
    ">BYTES": amount,
    "PACE": lambda download: download.error.message if download.error else pace(download),
    "NODE": "node",
    "ID": "download",
}
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
"""The states of downloads to which a verb applies."""
_START = {
    "include": Argument(metavar="PATTERN", help="exactly the files that match; may be repeated"),
    "exclude": Argument(metavar="PATTERN", help="not the files that match; may be repeated"),
    "mmproj": Argument(metavar="PRECISION"),
    "register": Argument(help="download the files, make no model of them"),
    "limit_bytes_s": Argument(help="its maximum network speed, such as 20MB"),
}


def register(verbs: Mapping[str, VerbParser]) -> None:
    pull = verbs["pull"]
    pull.describe(_PULL)
    pull.add_argument("references", nargs="+", metavar="REFERENCE", help="what to download")
    add_fields(pull, StartDownload, omit=("reference",), fields=_START)
    pull.flag("--detach", text="only add it to the queue")
    pull.flag("--log", text="print every update as a line")
    online(pull, _pull, json="JSON lines, one an update")
    downloads = verbs["downloads"]
    downloads.describe(_DOWNLOADS)
    downloads.add_argument("verb", nargs="?", default="list", choices=("list", *_STATES), metavar="VERB")
    downloads.add_argument("downloads", nargs="*", metavar="DOWNLOAD", help="an id or the name of a model")
    downloads.flag("--all", text="all that the verb applies to")
    downloads.add_argument("--to", metavar="PLACE|SPEED", help="for move and limit")
    downloads.flag("--log", text="print every update as it happens")
    online(downloads, _downloads)


async def _pull(yard: Client, arguments: argparse.Namespace) -> None:
    text = " ".join(arguments.references)
    if text == "-":
        text = sys.stdin.read()
    if arguments.detach or len(re.split(r"[\s,;]+", text.strip())) > 1:
        await _pull_many(yard, arguments, text)
    else:
        await _pull_one(yard, arguments, text.strip())


async def _pull_one(yard: Client, arguments: argparse.Namespace, reference: str) -> None:
    updates = yard.pull(read_record(arguments, StartDownload, reference=reference))
    (last,) = (await _show(updates, arguments, [reference])).values()
    if last.state == "failed" and last.error is not None:
        raise from_body(ErrorBody(error=last.error))
    if last.state == "failed":
        raise InternalError(f"The download of {last.reference} failed without a reason.")
    if last.state == "cancelled":
        rest = "what is on disk stays for the next time"
        raise Conflict(f"The download of {last.reference} was cancelled; {rest}.")
    if not arguments.json:
        await _print_next_step(yard, last)


async def _print_next_step(yard: Client, last: Download) -> None:
    models = (await yard.models()).values() if last.register else ()
    spec = next((model for model in models if model.name == last.model), None)
    if spec is None and last.files:
        print_line(f"The files of {last.reference} are in the store; no model was made of them.")
        return
    sources = f": {format_sources(last.received)}" if set(last.received) - {"hub"} else ""
    step = _NEXT_STEP[spec.mode if spec else "chat"].format(last.model)
    print_line(f"{last.model} is in the yard{sources}. {step}")


async def _pull_many(yard: Client, arguments: argparse.Namespace, text: str) -> None:
    if arguments.name or read_record(arguments, ModelOverrides) != ModelOverrides():
        raise BadRequest("A name, aliases, mode, context and engine are for one model that is waited for.")
    added = await yard.download_queue.add(read_record(arguments, AddDownloads, text=text))
    for item in added:
        if item.error is not None and arguments.json:
            print_json(item)
        elif item.error is not None:
            print_error(f"{item.reference}: {item.error.message}")
    started = [item.download for item in added if item.download]
    completed = started if arguments.detach else await _wait_for_all(yard, arguments, started)
    for download in started if arguments.detach else ():
        print_result(arguments, download, f"{download.model}: {download.state} ({download.download})")
    if missing := len(added) - len(completed):
        done = "queued" if arguments.detach else "downloaded"
        raise BadRequest(f"{missing} of {len(added)} models were not {done}.")


async def _wait_for_all(
    yard: Client, arguments: argparse.Namespace, started: list[Download]
) -> list[Download]:
    updates, references = yard.download_queue.follow(started), [download.reference for download in started]
    ends = (await _show(updates, arguments, references, many=True)).values()
    for download in ends:
        if download.error is not None:
            print_error(f"{download.model}: {download.error.message}")
    return [download for download in ends if download.state == "finished"]


async def _show(
    updates: AsyncGenerator[Download, None],
    arguments: argparse.Namespace,
    references: list[str],
    *,
    many: bool = False,
) -> dict[str, Download]:
    """Show every update; returns the last one of each download."""
    last: dict[str, Download] = {}
    what = "download continues" if len(references) == 1 else "downloads continue"
    sentence = f"The {what}; `yard pull {' '.join(references)}` shows it again."
    with on_interrupt(lambda: sentence if last else ""):
        async with aclosing(updates):
            with _display(arguments, many=many) as show:
                async for update in updates:
                    last[update.download] = update
                    show(update)
    return last


def _display(arguments: argparse.Namespace, *, many: bool) -> AbstractContextManager[Show]:
    if arguments.json:
        return nullcontext(print_json)
    if arguments.log:
        return nullcontext(progress.log)
    if not progress.can_redraw():
        return nullcontext(progress.ProgressLines().show)
    return progress.bars() if many else progress.bar()


async def _downloads(yard: Client, arguments: argparse.Namespace) -> None:
    if arguments.log:
        async with aclosing(yard.download_queue.watch()) as updates:
            async for update in updates:
                (print_json if arguments.json else progress.log)(update)
    elif arguments.verb == "list":
        downloads = in_order((await yard.downloads()).values())
        if arguments.json:
            print_json(downloads)
        else:
            print_rows(_COLUMNS, downloads)
    else:
        await _change(yard, arguments)


def in_order(downloads: Iterable[Download]) -> list[Download]:
    """Running, waiting in their order, ended: the newest end first."""

    def rank(download: Download) -> tuple[int, float]:
        if download.state in _STATES["forget"]:
            return 2, -download.changed_at
        return int(download.state in ("queued", "paused")), download.order

    return sorted(downloads, key=rank)


async def _change(yard: Client, arguments: argparse.Namespace) -> None:
    known = in_order((await yard.downloads()).values())
    selected = _selected(known, arguments)
    changed = [await _change_one(yard, arguments, download.download) for download in selected]
    if arguments.json:
        print_json(changed)
        return
    for download in changed:
        state = "forgotten" if arguments.verb == "forget" else download.state
        print_line(f"{download.model}: {state}")


def _selected(known: list[Download], arguments: argparse.Namespace) -> list[Download]:
    applicable = [download for download in known if download.state in _STATES[arguments.verb]]
    if arguments.all:
        return applicable
    if not arguments.downloads:
        raise BadRequest(f"Name the downloads to {arguments.verb}, or give --all.")
    selected = []
    for name in arguments.downloads:
        by_id = [download for download in known if download.download == name]
        both = (*applicable, *known)
        by_name = [download for download in both if name in (download.model, download.reference)]
        if not (matches := by_id or by_name):
            raise NotFound(f"There is no download {name}.", param="download")
        selected.append(matches[0])
    return selected


async def _change_one(yard: Client, arguments: argparse.Namespace, download: str) -> Download:
    queue, to = yard.download_queue, arguments.to
    if arguments.verb == "move":
        if not (to or "0").isdecimal():
            raise BadRequest("--to is the position in the queue, 0 or more.")
        return await queue.move(download=download, to=int(to or 0))
    if arguments.verb == "limit":
        if to is None:
            raise BadRequest("--to is the speed, like 5MB, or none.")
        try:
            return await queue.limit(download=download, limit_bytes_s=parse_rate(to))
        except argparse.ArgumentTypeError as error:
            raise BadRequest(f"{error}.") from error
    change: Callable[..., Awaitable[Download]] = getattr(queue, arguments.verb)
    return await change(download=download)
