"""The table of entries, one entry in full, and the trash."""

import argparse
from typing import TYPE_CHECKING, Any

from modelyard.cli.output import emit, say, table
from modelyard.cli.text import ago, clock, spell_size

if TYPE_CHECKING:
    from collections.abc import Iterable

    from modelyard.client import Client
    from schemas.library import EntryDetails, LibraryEntry, StoreSpace

SORTS = ("size", "date", "name")


def sorted_entries(entries: "Iterable[LibraryEntry]", by: str) -> "list[LibraryEntry]":
    """The largest or the newest first, or by name."""
    by_name = sorted(entries, key=lambda one: (one.name, one.node, one.store))
    if by == "size":
        return sorted(by_name, key=lambda one: one.size_bytes, reverse=True)
    if by == "date":
        return sorted(by_name, key=lambda one: one.downloaded_at or one.modified_at, reverse=True)
    return by_name


async def entries(yard: "Client", arguments: argparse.Namespace) -> None:
    """Every entry, and the room in the stores."""
    import msgspec

    found = sorted_entries((await yard.library.entries()).values(), arguments.sort)
    stores = await yard.library.stores()
    if arguments.json:
        listed: list[dict[str, Any]] = [{"key": one.key, **msgspec.to_builtins(one)} for one in found]
        emit({"entries": listed, "stores": [stores[key] for key in sorted(stores)]})
        return
    if found:
        _print(found, several=len({*stores, *(f"{one.node}.{one.store}" for one in found)}) > 1)
    else:
        say("There is nothing on disk yet. Fetch a model: yard pull REPO:QUANT")
    for _, store in sorted(stores.items()):
        say(f"\n{room(store)}")


def _print(found: "list[LibraryEntry]", *, several: bool) -> None:
    where = ("STORE",) if several else ()
    table(
        ("NAME", ">SIZE", "FORMAT", "QUANT", ">CONTEXT", "WHEN", "CHECKED", "USED BY", *where),
        [(*_row(one), *((f"{one.node}.{one.store}",) if several else ())) for one in found],
    )


def _row(one: "LibraryEntry") -> tuple[str, ...]:
    return (
        one.name,
        one.size,
        one.format,
        one.facts.quant or "-",
        str(one.facts.n_ctx_train or "-"),
        f"{ago(one.downloaded_at or one.modified_at)} ago",
        one.verified,
        ", ".join(one.used_by) or "-",
    )


def room(store: "StoreSpace") -> str:
    """What a store holds and what is free, in a line."""
    parts = [f"{store.node}.{store.store} ({store.path}): {spell_size(store.used_bytes)} used"]
    if store.partial_bytes:
        parts.append(f"{spell_size(store.partial_bytes)} of it not complete")
    if store.trash_bytes:
        parts.append(f"{spell_size(store.trash_bytes)} in the trash")
    parts.append(f"{spell_size(store.free_bytes)} of {spell_size(store.total_bytes)} free")
    return ", ".join(parts) + (f"\n  {store.problem}" if store.problem else "")


async def show(yard: "Client", arguments: argparse.Namespace) -> None:
    """One entry with its files."""
    entry = await yard.library.find(arguments.entry)
    details = await yard.library.show(entry.key)
    if arguments.json:
        emit(details)
        return
    for name, value in _facts(details):
        if value not in (None, "", ()):
            say(f"{name:14} {value}")
    say("")
    table(
        ("FILE", ">SIZE", "CHECKED", "SHA256"),
        [(one.path, spell_size(one.size_bytes), one.verified, one.sha256 or "-") for one in details.files]
        + [(path, "-", "missing", "-") for path in details.missing],
    )


def _facts(details: "EntryDetails") -> list[tuple[str, Any]]:
    one, facts = details.entry, details.entry.facts
    return [
        ("key", one.key),
        ("path", one.path),
        ("description", one.description),
        ("problem", one.problem),
        (
            "size",
            f"{one.size} in {one.n_files} file{'s' if one.n_files != 1 else ''} ({one.size_bytes} bytes)",
        ),
        ("format", f"{one.format} {facts.quant or ''}".strip()),
        ("architecture", facts.architecture),
        ("parameters", facts.n_params),
        ("context", facts.n_ctx_train),
        (
            "chat template",
            None if facts.has_chat_template is None else "yes" if facts.has_chat_template else "no",
        ),
        ("mmproj", one.mmproj),
        ("from", f"{one.source.repo} at {one.source.revision}" if one.source else None),
        ("downloaded", clock(one.downloaded_at) if one.downloaded_at else None),
        ("modified", clock(one.modified_at)),
        ("checked", f"{one.verified} {clock(one.verified_at) if one.verified_at else ''}".strip()),
        ("used by", ", ".join(one.used_by)),
    ]
