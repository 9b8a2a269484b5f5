"""The trash of a store: a folder inside it, so that deleting and restoring are renames without copying.

Every item has a manifest, written before the first file moves. After a crash the next start completes the
deletion or restoration.
"""

import os
import shutil
import time
from enum import StrEnum
from pathlib import Path

import msgspec

from modelyard.bus import logs
from modelyard.text import format_size
from schemas.base import Record, new_id
from schemas.library import EntryFormat, TrashedEntry
from services.downloader.library import records, store_fs
from services.downloader.library.grouping import shown_name
from services.downloader.library.scanner import StoredModel

log = logs.get(__name__)

FOLDER = ".trash"
RETENTION_S = 24 * 3600.0
_MANIFEST = "manifest.json"
_MAX_MANIFEST_BYTES = 64 * 1024 * 1024
_PURGING = "gone-"
"""Prefix of an item while it is deleted permanently."""


class Phase(StrEnum):
    TRASHING = "trashing"
    STORED = "there"
    RESTORING = "restoring"


class Manifest(Record):
    """One item: the entry it was, and its files by their paths in the store."""

    item: str
    phase: Phase
    path: str
    name: str
    format: EntryFormat
    size_bytes: int
    files: tuple[str, ...]
    notes: dict[str, records.FileRecord]
    """Records of its files."""
    trashed_at: float

    @property
    def expires_at(self) -> float:
        return self.trashed_at + RETENTION_S

    def shown(self, node: str, store: str) -> TrashedEntry:
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


def put(root: Path, model: StoredModel) -> Manifest:
    """Move a model's files into the trash; OSError if that fails."""
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
    with store_fs.open_folder(root, (FOLDER, manifest.item), create=True):
        _write(root, manifest)
    return _move_to_trash(root, manifest)


def restore(root: Path, manifest: Manifest) -> None:
    """Move an item's files back; FileExistsError before any move if a file is in the way."""
    taken = next((path for path in manifest.files if store_fs.exists(root, path)), None)
    if taken is not None:
        raise FileExistsError(taken)
    _write(root, msgspec.structs.replace(manifest, phase=Phase.RESTORING))
    _move_back(root, manifest)


def purge(root: Path, item: str) -> None:
    with store_fs.open_folder(root, (FOLDER,)) as trash:
        purging = item if item.startswith(_PURGING) else _PURGING + item
        if purging != item:
            os.rename(item, purging, src_dir_fd=trash, dst_dir_fd=trash)
        # By handles: a link inside is removed itself, never followed.
        shutil.rmtree(purging, dir_fd=trash)


def items(root: Path, read: dict[str, Manifest]) -> dict[str, Manifest]:
    """The items in the trash; manifests in `read` are not read again."""
    stored: dict[str, Manifest] = {}
    for name in _names(root):
        manifest = read.get(name) or _read(root, name)
        if manifest is not None and manifest.phase is Phase.STORED:
            stored[name] = manifest
    return stored


def recover(root: Path) -> None:
    """Complete what an earlier process began."""
    for name in _names(root):
        manifest = _read(root, name)
        try:
            if manifest is None:
                _clean_up(root, name)
            elif manifest.phase is Phase.TRASHING:
                _move_to_trash(root, manifest)
            elif manifest.phase is Phase.RESTORING:
                _move_back(root, manifest)
        except OSError as error:
            log.warning("trash_recovery_failed", item=name, error=str(error))


def _clean_up(root: Path, name: str) -> None:
    # An interrupted purge; or a folder without a manifest: empty if none was written, else retained a day.
    if name.startswith(_PURGING):
        purge(root, name)
        return
    store_fs.prune_folders(root, (FOLDER, name))
    path = f"{FOLDER}/{name}"
    if store_fs.exists(root, path) and store_fs.stat_path(root, path).st_mtime < time.time() - RETENTION_S:
        purge(root, name)


def _names(root: Path) -> list[str]:
    try:
        with store_fs.open_folder(root, (FOLDER,)) as trash, os.scandir(trash) as entries:
            return sorted(entry.name for entry in entries)
    except FileNotFoundError:
        return []


def _move_to_trash(root: Path, manifest: Manifest) -> Manifest:
    for path in manifest.files:
        _move(root, path, _place(manifest, path))
    own_files = set(manifest.files)
    remaining = [
        path
        for path in manifest.notes
        if (record := records.record_path(path.rpartition("/")[0])) not in own_files
        and store_fs.exists(root, record)
    ]
    records.update(root, dict.fromkeys(remaining))
    folders = {path.rpartition("/")[0] for path in manifest.files} - {""}
    for folder in sorted(folders, key=len, reverse=True):
        store_fs.prune_folders(root, store_fs.split_path(folder))
    stored = msgspec.structs.replace(manifest, phase=Phase.STORED)
    _write(root, stored)
    return stored


def _move_back(root: Path, manifest: Manifest) -> None:
    for path in manifest.files:
        _move(root, _place(manifest, path), path)
    records.update(root, manifest.notes)
    purge(root, manifest.item)


def _place(manifest: Manifest, path: str) -> str:
    return f"{FOLDER}/{manifest.item}/files/{path}"


def _move(root: Path, path: str, to: str) -> None:
    # A file moved before a crash is at its target already.
    try:
        store_fs.move_file(root, path, to)
    except FileNotFoundError:
        if not store_fs.exists(root, to):
            log.warning("trash_file_missing", path=path)
    except FileExistsError:
        # Moved before a crash; the file of this name is newer and stays.
        log.warning("trash_file_conflict", path=path)


def _write(root: Path, manifest: Manifest) -> None:
    store_fs.write_file(root, f"{FOLDER}/{manifest.item}/{_MANIFEST}", msgspec.json.encode(manifest))


def _read(root: Path, name: str) -> Manifest | None:
    if name.startswith(_PURGING):
        return None
    try:
        data = store_fs.read_file(root, f"{FOLDER}/{name}/{_MANIFEST}", _MAX_MANIFEST_BYTES)
        manifest = msgspec.json.decode(data, type=Manifest)
        for path in (*manifest.files, *manifest.notes):
            store_fs.split_path(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("trash_manifest_unreadable", item=name, error=str(error))
        return None
    # A manifest is not trusted: its name must not lead to another item.
    return manifest if manifest.item == name else None
