"""The trash of a store: a folder in it, so that deleting and restoring are renames, and cost no copying.

Every item has a manifest, written before the first file moves. Who is killed half-way through finishes at
the next start: what was to be deleted goes on into the trash, what was to be restored comes back.
"""

import os
import shutil
import time
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

import msgspec

from modelyard.bus import logs
from modelyard.text import format_size
from schemas.base import Record, new_id
from schemas.library import EntryFormat, TrashedEntry
from services.downloader.library import inside, records
from services.downloader.library.grouping import shown_name
from services.downloader.library.shelf import Model

log = logs.get(__name__)

FOLDER = ".trash"
KEPT_S = 24 * 3600.0
_MANIFEST = "manifest.json"
_MAX_MANIFEST_BYTES = 64 * 1024 * 1024
_GONE = "gone-"
"""What an item is called while it is deleted for good."""


class Phase(StrEnum):
    """Where an item is."""

    TRASHING = "trashing"
    THERE = "there"
    RESTORING = "restoring"


class Manifest(Record):
    """One item: what it was and which files it has, by their paths in the store."""

    item: str
    phase: Phase
    path: str
    name: str
    format: EntryFormat
    size_bytes: int
    files: tuple[str, ...]
    notes: dict[str, records.FileRecord]
    """What was known of its files."""
    trashed_at: float

    @property
    def expires_at(self) -> float:
        return self.trashed_at + KEPT_S

    def shown(self, node: str, store: str) -> TrashedEntry:
        """As it is told."""
        return TrashedEntry(
            node=node,
            store=store,
            item=self.item,
            path=self.path,
            name=self.name,
            format=self.format,
            size_bytes=self.size_bytes,
            size=format_size(self.size_bytes),
            n_files=len(self.files),
            trashed_at=self.trashed_at,
            expires_at=self.expires_at,
        )


def put(root: Path, model: Model) -> Manifest:
    """Move a model's files into the trash; OSError if they cannot be moved."""
    group = model.group
    paths = [file.path for file in group.files] + ([group.link.path] if group.link else [])
    manifest = Manifest(
        item=new_id(),
        phase=Phase.TRASHING,
        path=group.path,
        name=shown_name(group),
        format=group.format,
        size_bytes=group.size_bytes,
        files=tuple(paths),
        notes=dict(model.record),
        trashed_at=time.time(),
    )
    with inside.folder(root, (FOLDER, manifest.item), create=True):
        _write(root, manifest)
    return _go_on_trashing(root, manifest)


def restore(root: Path, manifest: Manifest) -> None:
    """Move an item's files back; FileExistsError, before anything moves, if something is in the way."""
    taken = next((path for path in manifest.files if inside.exists(root, path)), None)
    if taken is not None:
        raise FileExistsError(taken)
    _write(root, msgspec.structs.replace(manifest, phase=Phase.RESTORING))
    _go_on_restoring(root, manifest)


def purge(root: Path, item: str) -> None:
    """Delete an item for good."""
    with inside.folder(root, (FOLDER,)) as trash:
        gone = item if item.startswith(_GONE) else _GONE + item
        if gone != item:
            os.rename(item, gone, src_dir_fd=trash, dst_dir_fd=trash)
        # By handles, never by names twice: a link inside is taken away itself.
        shutil.rmtree(gone, dir_fd=trash)


def items(root: Path, known: dict[str, Manifest]) -> dict[str, Manifest]:
    """What is in the trash; `known` need not be read again."""
    found: dict[str, Manifest] = {}
    for name in _names(root):
        manifest = known.get(name) or _read(root, name)
        if manifest is not None and manifest.phase is Phase.THERE:
            found[name] = manifest
    return found


def recover(root: Path) -> None:
    """Finish what an earlier process began."""
    for name in _names(root, gone=True):
        manifest = None if name.startswith(_GONE) else _read(root, name)
        try:
            if manifest is None:
                _clean(root, name)
            elif manifest.phase is Phase.TRASHING:
                _go_on_trashing(root, manifest)
            elif manifest.phase is Phase.RESTORING:
                _go_on_restoring(root, manifest)
        except OSError as error:
            log.warning("trash_not_recovered", item=name, error=str(error))


def _clean(root: Path, name: str) -> None:
    """Half of a deletion; or a folder without a manifest: empty if it was never written, else kept a day."""
    if name.startswith(_GONE):
        purge(root, name)
        return
    inside.prune(root, (FOLDER, name))
    place = f"{FOLDER}/{name}"
    if inside.exists(root, place) and inside.stat_of(root, place).st_mtime < time.time() - KEPT_S:
        purge(root, name)


def _names(root: Path, *, gone: bool = False) -> list[str]:
    try:
        with inside.folder(root, (FOLDER,)) as trash, os.scandir(trash) as found:
            return sorted(each.name for each in found if gone or not each.name.startswith(_GONE))
    except FileNotFoundError:
        return []


def _go_on_trashing(root: Path, manifest: Manifest) -> Manifest:
    own_records = {path for path in manifest.files if path.rpartition("/")[2] == records.NAME}
    for path in manifest.files:
        _move(root, path, _place(manifest, path))
    left = [path for path in manifest.notes if records.path_in(path.rpartition("/")[0]) not in own_records]
    records.note(root, dict.fromkeys(_of_existing_folders(root, left)))
    _prune(root, manifest.files)
    there = msgspec.structs.replace(manifest, phase=Phase.THERE)
    _write(root, there)
    return there


def _go_on_restoring(root: Path, manifest: Manifest) -> None:
    for path in manifest.files:
        _move(root, _place(manifest, path), path)
    records.note(root, manifest.notes)
    purge(root, manifest.item)


def _place(manifest: Manifest, path: str) -> str:
    return f"{FOLDER}/{manifest.item}/files/{path}"


def _move(root: Path, path: str, to: str) -> None:
    """What was moved before the process died is there already, and no longer here."""
    try:
        inside.move(root, path, to)
    except FileNotFoundError:
        if not inside.exists(root, to):
            log.warning("file_vanished", path=path)
    except FileExistsError:
        # Moved before the process died; what has its name now came later, and is left alone.
        log.warning("file_came_again", path=path)


def _of_existing_folders(root: Path, paths: Iterable[str]) -> list[str]:
    return [path for path in paths if inside.exists(root, records.path_in(path.rpartition("/")[0]))]


def _prune(root: Path, paths: Iterable[str]) -> None:
    folders = {path.rpartition("/")[0] for path in paths} - {""}
    for folder in sorted(folders, key=len, reverse=True):
        inside.prune(root, inside.split(folder))


def _write(root: Path, manifest: Manifest) -> None:
    inside.write(root, f"{FOLDER}/{manifest.item}/{_MANIFEST}", msgspec.json.encode(manifest))


def _read(root: Path, name: str) -> Manifest | None:
    try:
        data = inside.read(root, f"{FOLDER}/{name}/{_MANIFEST}", _MAX_MANIFEST_BYTES)
        manifest = msgspec.json.decode(data, type=Manifest)
        for path in (*manifest.files, *manifest.notes):
            inside.split(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("manifest_not_read", item=name, error=str(error))
        return None
    # It is a file like others: a name in it must not lead to another item.
    return manifest if manifest.item == name else None
