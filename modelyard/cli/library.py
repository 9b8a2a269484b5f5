"""`yard library`: the models on the disks of the nodes, their trash, and jobs that work on them."""

import argparse
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from operator import attrgetter
from typing import Any

import msgspec

from modelyard.cli.arguments import Argument, add_fields, read_record
from modelyard.cli.output import confirm, on_interrupt, print_json, print_line, print_result
from modelyard.cli.parser import VerbParser
from modelyard.cli.tables import Column, cells, print_list, print_rows, table
from modelyard.cli.verbs import command, online
from modelyard.client import Client
from modelyard.text import format_age, format_clock, format_duration, format_size, format_sources
from schemas import subjects
from schemas.errors import Conflict, ErrorBody, from_body
from schemas.library import CopyEntry, EntryDetails, ImportCached, LibraryEntry, LibraryJob, StoreSpace

_LIBRARY = (
    "Without a command: every model on disk. ENTRY is a path as it is listed, the end of one, or a key."
)
_LINE_INTERVAL_S = 5.0
EntryWork = Callable[[Client, LibraryEntry, argparse.Namespace], Awaitable[None]]
_SORT_KEYS: dict[str, Callable[[LibraryEntry], float]] = {
    "size": lambda entry: -entry.size_bytes,
    "date": lambda entry: -(entry.downloaded_at or entry.modified_at),
    "name": lambda _: 0,
}
_ENTRIES: dict[str, Column] = {
    "NAME": "name",
    ">SIZE": "size",
    "FORMAT": "format",
    "QUANT": lambda entry: entry.facts.quant or "-",
    ">CONTEXT": lambda entry: entry.facts.n_ctx_train or "-",
    "WHEN": lambda entry: f"{format_age(entry.downloaded_at or entry.modified_at)} ago",
    "CHECKED": "verified",
    "USED BY": lambda entry: entry.used_by or "-",
}
_TRASH: dict[str, Column] = {
    "PATH": "path",
    ">SIZE": "size",
    "DELETED": lambda item: f"{format_age(item.trashed_at)} ago",
    "KEY": "key",
}
_CACHED: dict[str, Column] = {
    "REPO": "repo",
    ">SIZE": "size",
    ">FILES": "n_files",
    "COMMIT": lambda model: model.revision[:12],
    "IN LIBRARY": "imported",
}
_FILES: dict[str, Column] = {
    "FILE": "path",
    ">SIZE": lambda file: format_size(file.size_bytes),
    "CHECKED": "verified",
    "SHA256": lambda file: file.sha256 or "-",
}


def register(verbs: Mapping[str, VerbParser]) -> None:
    library = verbs["library"]
    library.describe(_LIBRARY)
    text = "the order (default: %(default)s)"
    library.add_argument("--sort", choices=("size", "date", "name"), default="name", help=text)
    online(library, _entries, json="a JSON document")
    add = library.subverbs(required=False)

    def on_entry(name: str, summary: str, work: EntryWork) -> VerbParser:
        async def find_and_work(yard: Client, arguments: argparse.Namespace) -> None:
            await work(yard, await yard.library.find(arguments.entry), arguments)

        parser = add(name, summary)
        parser.add_argument("entry", help="its path, the end of that, or its key")
        online(parser, find_and_work)
        return parser

    on_entry("show", "Show an entry with its files.", _show)
    describe = on_entry("describe", "Write a description into the folder of an entry.", _describe)
    describe.add_argument("text", help="the description; an empty one removes it")
    delete = on_entry("delete", "Move an entry to the trash of its store, for 24 hours.", _delete)
    delete.flag("--force", text="though a model needs it or an instance runs from it")
    restore = add("restore", "Restore an entry from the trash.")
    restore.add_argument("item", help="its path, or its key as `yard library trash` shows it")
    online(restore, _restore)
    trash = add("trash", "Show the trash, or empty it.")
    trash.flag("--empty", text="delete everything in it for good")
    trash.add_argument("--node", help="of which node")
    online(trash, _trash)
    for parser in (delete, trash):
        parser.flag("--yes", text="do not ask")
    on_entry("verify", "Read every byte of an entry and compare its sha256.", _verify)
    on_entry("repair", "Download the damaged and missing files of an entry again.", _repair)
    copy = on_entry("copy", "Copy an entry to another node, without the hub.", _copy)
    store = {"store": Argument(help="the store (default: the one that downloads go to)")}
    add_fields(copy, CopyEntry, omit=("entry",), fields=store)
    cancel = add("cancel", "Cancel a job: a check, a repair, a copy or an import.")
    job = {"job": Argument(help="its id, as Ctrl-C or --json prints it")}
    command(cancel, subjects.LIBRARY_CANCEL, "{0.kind} {0.subject}: {0.state}.", fields=job)
    cached = add("import", "Import a model from the hub's own cache; without REPO, list that.")
    cached.add_argument("repo", nargs="?", help="such as org/name")
    cached.add_argument("--revision", help="the commit, or its beginning (default: the newest there)")
    cached.add_argument("--node", help="on which node")
    add_fields(cached, ImportCached, omit=("repo", "revision", "node"), fields=store)
    online(cached, _import)


async def _entries(yard: Client, arguments: argparse.Namespace) -> None:
    entries = in_order((await yard.library.entries()).values(), arguments.sort)
    stores = await yard.library.stores()
    if arguments.json:
        listed: list[dict[str, Any]] = [{"key": entry.key, **msgspec.to_builtins(entry)} for entry in entries]
        print_json({"entries": listed, "stores": [stores[key] for key in sorted(stores)]})
        return
    if entries:
        several = len({*stores, *(f"{entry.node}.{entry.store}" for entry in entries)}) > 1
        store_column: dict[str, Column] = {"STORE": lambda entry: f"{entry.node}.{entry.store}"}
        print_rows(_ENTRIES | (store_column if several else {}), entries)
    else:
        print_line("There is nothing on disk yet. Download a model: yard pull REPO:QUANT")
    for _, store in sorted(stores.items()):
        print_line(f"\n{format_space(store)}")


def in_order(entries: Iterable[LibraryEntry], by: str) -> list[LibraryEntry]:
    """The largest or the newest first, or by name."""
    return sorted(entries, key=lambda entry: (_SORT_KEYS[by](entry), entry.name, entry.node, entry.store))


def format_space(store: StoreSpace) -> str:
    """Used and free space of a store, in a line."""
    parts = [f"{store.node}.{store.store} ({store.path}): {format_size(store.used_bytes)} used"]
    if store.partial_bytes:
        parts.append(f"{format_size(store.partial_bytes)} of it incomplete")
    if store.trash_bytes:
        parts.append(f"{format_size(store.trash_bytes)} in the trash")
    parts.append(f"{format_size(store.free_bytes)} of {format_size(store.total_bytes)} free")
    return ", ".join(parts) + (f"\n  {store.problem}" if store.problem else "")


async def _show(yard: Client, entry: LibraryEntry, arguments: argparse.Namespace) -> None:
    details = await yard.library.show(entry=entry.key)
    if arguments.json:
        print_json(details)
        return
    for name, value in _facts(details):
        if value not in (None, "", ()):
            print_line(f"{name:14} {value}")
    print_line("")
    missing = [(path, "-", "missing", "-") for path in details.missing]
    table(tuple(_FILES), [*cells(_FILES, details.files), *missing])


def _facts(details: EntryDetails) -> list[tuple[str, Any]]:
    entry, facts = details.entry, details.entry.facts
    template = {None: None, True: "yes", False: "no"}[facts.has_chat_template]
    verified_at = format_clock(entry.verified_at) if entry.verified_at else ""
    files = f"{entry.n_files} file{'s' if entry.n_files != 1 else ''}"
    return [
        ("key", entry.key),
        ("path", entry.path),
        ("description", entry.description),
        ("problem", entry.problem),
        ("size", f"{entry.size} in {files} ({entry.size_bytes} bytes)"),
        ("format", f"{entry.format} {facts.quant or ''}".strip()),
        ("architecture", facts.architecture),
        ("parameters", facts.n_params),
        ("context", facts.n_ctx_train),
        ("chat template", template),
        ("mmproj", entry.mmproj),
        ("from", f"{entry.source.repo} at {entry.source.revision}" if entry.source else None),
        ("downloaded", format_clock(entry.downloaded_at) if entry.downloaded_at else None),
        ("modified", format_clock(entry.modified_at)),
        ("checked", f"{entry.verified} {verified_at}".strip()),
        ("used by", ", ".join(entry.used_by)),
    ]


async def _describe(yard: Client, entry: LibraryEntry, arguments: argparse.Namespace) -> None:
    seen, text = entry.description_revision, arguments.text
    entry = await yard.library.describe(entry=entry.key, description=text, revision=seen)
    print_result(arguments, entry, f"{entry.name}: {entry.description or 'no description any more'}")


async def _delete(yard: Client, entry: LibraryEntry, arguments: argparse.Namespace) -> None:
    question = f"Delete {entry.path} on {entry.node} ({entry.size})?"
    await confirm(arguments, question, "Nothing was deleted.")
    item = await yard.library.delete(entry=entry.key, force=arguments.force)
    rest = format_duration(item.expires_at - item.trashed_at)
    sentence = f"{item.path} is in the trash for {rest}; to restore it:\n  yard library restore {item.key}"
    print_result(arguments, item, sentence)


async def _restore(yard: Client, arguments: argparse.Namespace) -> None:
    item = await yard.library.find_trashed(arguments.item)
    restored = await yard.library.restore(item=item.key)
    print_result(arguments, restored, f"{restored.path} is restored.")


async def _trash(yard: Client, arguments: argparse.Namespace) -> None:
    if arguments.empty:
        await confirm(arguments, "Delete everything in the trash for good?", "Nothing was deleted.")
        emptied = await yard.library.empty_trash(node=arguments.node)
        sentence = f"{emptied.items} deleted for good, {format_size(emptied.size_bytes)}."
        print_result(arguments, emptied, sentence)
        return
    items = sorted((await yard.library.trash()).values(), key=attrgetter("trashed_at"))
    items = [item for item in items if arguments.node in (None, item.node)]
    print_list(items, _TRASH, empty="The trash is empty.", arguments=arguments)


async def _verify(yard: Client, entry: LibraryEntry, arguments: argparse.Namespace) -> None:
    job = await _follow(yard, await yard.library.verify(entry=entry.key), as_json=arguments.json)
    if job.damaged:
        again = f"Download that again: yard library repair {job.subject}"
        raise Conflict(f"Damaged: {', '.join(job.damaged)}. {again}")
    if not arguments.json:
        result = "was read, and its sha256 stored" if entry.verified == "unknown" else "is intact"
        print_line(f"{entry.name} {result}: {format_size(job.bytes_total)}.")


async def _repair(yard: Client, entry: LibraryEntry, arguments: argparse.Namespace) -> None:
    job = await _follow(yard, await yard.library.repair(entry=entry.key), as_json=arguments.json)
    if not arguments.json:
        print_line(f"{entry.name} is complete again: {format_size(job.bytes_total)} downloaded.")


async def _copy(yard: Client, entry: LibraryEntry, arguments: argparse.Namespace) -> None:
    job = await yard.library.copy(entry=entry.key, node=arguments.node, store=arguments.store)
    job = await _follow(yard, job, as_json=arguments.json)
    if not arguments.json:
        sources = format_sources(job.received) or "all of it was there"
        print_line(f"{entry.name} is in {job.node}.{job.store}: {sources}.")


async def _import(yard: Client, arguments: argparse.Namespace) -> None:
    if arguments.repo is None:
        await _list_cached(yard, arguments)
        return
    job = await yard.library.import_cached(read_record(arguments, ImportCached))
    job = await _follow(yard, job, as_json=arguments.json)
    if not arguments.json:
        linked = f", {job.linked} files without a copy" if job.linked else ""
        print_line(f"{job.subject} is in {job.node}.{job.store}: {format_size(job.bytes_total)}{linked}.")


async def _list_cached(yard: Client, arguments: argparse.Namespace) -> None:
    cached = await yard.library.cached(node=arguments.node)
    if arguments.json:
        print_json(cached)
        return
    empty = f"There is nothing in the hub's cache of {cached.node} ({cached.folder})."
    print_list(cached.models, _CACHED, empty=empty)


async def _follow(yard: Client, job: LibraryJob, *, as_json: bool) -> LibraryJob:
    """Show a job until it has ended, and raise its error; Ctrl-C leaves it running."""
    shown_at = time.monotonic()
    with on_interrupt(lambda: f"The job continues; to cancel it: yard library cancel {job.job}"):
        async with aclosing(yard.library.follow(job)) as updates:
            async for job in updates:
                if as_json:
                    print_json(job)
                elif time.monotonic() - shown_at > _LINE_INTERVAL_S:
                    shown_at = time.monotonic()
                    done = f"{format_size(job.bytes_done)} of {format_size(job.bytes_total)}"
                    print_line(f"{job.kind} {job.subject}: {done}")
    if job.error is not None:
        raise from_body(ErrorBody(error=job.error))
    if job.state == "cancelled":
        raise Conflict(f"The job for {job.subject} was cancelled.")
    return job
