"""The files of this node's stores that it serves to peers: by sha256, by entry, by repository."""

import asyncio
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, NamedTuple

from modelyard.bus import logs
from modelyard.bus.tasks import Tasks
from schemas.errors import Conflict, NotFound
from schemas.peers import EntryFiles, KnownFile, ListRepoFiles, RepoFiles
from services.downloader.library import records, store_fs
from services.downloader.library.library import NodeLibrary
from services.downloader.library.scanner import StoredModel
from services.downloader.library.store import LibraryStore, StoreReport
from services.downloader.library.walk import ScannedFile
from services.downloader.transfer.disk import sha256_of

log = logs.get(__name__)

_COMMIT = re.compile(r"[0-9a-f]{40}")
_MAIN = "main"


class StoreFile(NamedTuple):
    """A file of a store, with the size and time that it had when it was scanned."""

    root: Path
    file: ScannedFile

    def is_unchanged(self, opened: BinaryIO) -> bool:
        """Whether the size and time are those of the scan."""
        status = os.fstat(opened.fileno())
        return (status.st_size, status.st_mtime_ns) == (self.file.size_bytes, self.file.modified_ns)


class HashingStopped(Exception):
    """The service stops, and its threads with it."""


class FileHashes:
    """The sha256 of files without a record, computed one file at a time in a thread and cached."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._results: dict[StoreFile, str | OSError] = {}
        self._queue: dict[StoreFile, None] = {}
        self._task: asyncio.Task[None] | None = None
        self._read_bytes = 0
        """Of the current file."""
        self._stopped = False

    def of(self, file: StoreFile) -> str | None:
        """The sha256 if it is computed; Conflict, once, if the file could not be read."""
        result = self._results.get(file)
        if isinstance(result, OSError):
            del self._results[file]
            raise Conflict(f"{file.file.path} cannot be read. {store_fs.disk_error(result)}") from result
        return result

    def find(self, sha256: str, size_bytes: int) -> StoreFile | None:
        matches = (
            file
            for file, result in self._results.items()
            if result == sha256 and file.file.size_bytes == size_bytes
        )
        return next(matches, None)

    def request(self, root: Path, files: Iterable[ScannedFile]) -> int:
        """Hash these files in the background; the bytes that are still to be read."""
        missing = [StoreFile(root, file) for file in files if StoreFile(root, file) not in self._results]
        self._queue.update(dict.fromkeys(missing))
        if missing and (self._task is None or self._task.done()):
            self._stopped = False
            self._task = self._tasks.spawn(self._hash_queue(), "peer hashes")
        return max(0, sum(file.file.size_bytes for file in missing) - self._read_bytes)

    async def wait(self, timeout_s: float) -> None:
        """Wait until all requested files are hashed, at most timeout_s."""
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=timeout_s)

    async def _hash_queue(self) -> None:
        try:
            while self._queue:
                file = next(iter(self._queue))
                self._results[file] = await asyncio.to_thread(self._hash_or_error, file)
                del self._queue[file]
                self._read_bytes = 0
        finally:
            self._stopped = True  # a thread cannot be cancelled: it ends after its current chunk

    def _hash_or_error(self, file: StoreFile) -> str | OSError:
        try:
            return self._hash(file)
        except OSError as error:
            log.warning("file_not_hashed", path=file.file.path, error=str(error))
            return error

    def _hash(self, file: StoreFile) -> str:
        with store_fs.open_file(file.root, file.file.path) as opened:
            if not file.is_unchanged(opened):
                raise OSError(0, "it was changed; try again", file.file.path)
            return sha256_of(opened, self._count)

    def _count(self, n_bytes: int) -> None:
        self._read_bytes += n_bytes
        if self._stopped:
            raise HashingStopped


class Inventory:
    """Reads the library's last scan."""

    def __init__(self, library: NodeLibrary, hashes: FileHashes) -> None:
        self._library = library
        self._hashes = hashes

    def by_hash(self, sha256: str, size_bytes: int) -> StoreFile | None:
        """A complete file with this sha256, according to its record."""
        for store, report in self._library.reports():
            for file in report.result.by_sha256.get(sha256, []):
                if file.size_bytes == size_bytes:
                    return StoreFile(store.root, file)
        return self._hashes.find(sha256, size_bytes)

    def entry(self, key: str) -> EntryFiles:
        """All files of an entry; Conflict if one cannot be read."""
        store = self._library.store_of(key)
        entry, model = self._library.find(store, key)
        if not model.group.weights:
            raise NotFound(f"{entry.path} has no files of its own on {entry.node}.", param="entry")
        weights = {file.path for file in model.group.weights}
        files, bytes_to_read = self._with_hashes(
            store, _entry_files(model, self._library.report(store)), weights
        )
        return EntryFiles(path=entry.path, files=files, bytes_to_read=bytes_to_read)

    def repo(self, query: ListRepoFiles) -> RepoFiles:
        """The files of a repository at the given commit, or at the most recently downloaded one."""
        has_commit = query.revision not in (None, _MAIN)
        if has_commit and not _COMMIT.fullmatch(query.revision or ""):
            raise _repo_not_found(query)
        recorded = [
            (store, file, record)
            for store, report in self._library.reports()
            for file in report.result.tree.files
            if (record := store.scanner.record_of(file)) is not None and record.repo == query.repo
        ]
        dates = [
            (record.downloaded_at or 0.0, record.revision) for _, _, record in recorded if record.revision
        ]
        commit = query.revision if has_commit else max(dates, default=(0.0, None))[1]
        files = [(store, file) for store, file, record in recorded if record.revision == commit]
        if commit is None or not files:
            raise _repo_not_found(query)
        return self._at_commit(commit, files, max(at for at, revision in dates if revision == commit))

    def _at_commit(
        self, commit: str, located: list[tuple[LibraryStore, ScannedFile]], downloaded_at: float
    ) -> RepoFiles:
        files: dict[str, KnownFile] = {}
        bytes_to_read = 0
        for store in {store.name: store for store, _ in located}.values():
            own = [file for holder, file in located if holder is store]
            hashed, unread_bytes = self._with_hashes(store, own, set())
            bytes_to_read += unread_bytes
            files |= {file.remote or "": file for file in hashed}
        return RepoFiles(
            commit=commit,
            downloaded_at=downloaded_at,
            files=tuple(_as_remote(file) for file in files.values() if file.remote),
            bytes_to_read=bytes_to_read,
        )

    def _with_hashes(
        self, store: LibraryStore, files: Iterable[ScannedFile], weights: set[str]
    ) -> tuple[tuple[KnownFile, ...], int]:
        """The files with their sha256, and the bytes to be read for those without."""
        root, listed, unhashed = store.root, [], []
        for file in files:
            record = store.scanner.record_of(file)
            recorded = records.expected_sha256(record)
            sha256 = recorded or self._hashes.of(StoreFile(root, file))
            if sha256 is None:
                unhashed.append(file)
            source = record or records.FileRecord(size_bytes=file.size_bytes)
            known = KnownFile(
                path=file.path,
                size_bytes=file.size_bytes,
                sha256=sha256,
                noted=file.path in weights or recorded is not None,
                repo=source.repo,
                revision=source.revision,
                remote=source.remote,
            )
            listed.append(known)
        return tuple(listed), self._hashes.request(root, unhashed)


def _entry_files(model: StoredModel, report: StoreReport) -> list[ScannedFile]:
    """An entry's own files and those shared with other entries; not the folder's record."""
    by_path = {file.path: file for file in report.result.tree.files}
    shared = [by_path.get(model.group.mmproj or ""), by_path.get(model.group.description_path)]
    files = {file.path: file for file in [*model.group.files, *filter(None, shared)]}
    return [file for file in files.values() if file.name != records.NAME]


def _as_remote(file: KnownFile) -> KnownFile:
    return KnownFile(
        path=file.remote or "", size_bytes=file.size_bytes, sha256=file.sha256, remote=file.remote
    )


def _repo_not_found(query: ListRepoFiles) -> NotFound:
    at = f" at {query.revision}" if query.revision else ""
    return NotFound(f"Nothing of {query.repo}{at} is here.", param="repo")
