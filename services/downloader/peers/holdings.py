"""What this node has for others: by sha256, by entry, by repository. Files of its stores alone."""

import re
from collections.abc import Iterable

from schemas.errors import NotFound
from schemas.peers import AskRepo, EntryFiles, KnownFile, RepoFiles
from services.downloader.library import records
from services.downloader.library.library import NodeLibrary
from services.downloader.library.records import FileRecord
from services.downloader.library.scanner import StoredModel
from services.downloader.library.store import LibraryStore, StoreReport
from services.downloader.library.walk import StoreFile
from services.downloader.peers.grants import Given
from services.downloader.peers.hashes import Hashes

_COMMIT = re.compile(r"[0-9a-f]{40}")
_MAIN = "main"


class Holdings:
    """Looks into the library's last look."""

    def __init__(self, library: NodeLibrary, hashes: Hashes) -> None:
        self._library = library
        self._hashes = hashes

    def having(self, sha256: str, size_bytes: int) -> Given | None:
        """A whole file that should have this sha256."""
        for store, report in self._library.reports():
            for file in report.result.by_sha256.get(sha256, []):
                if file.size_bytes == size_bytes:
                    return Given(store.root, file)
        return self._hashes.having(sha256, size_bytes)

    def entry(self, key: str) -> EntryFiles:
        """Everything that makes up an entry; Conflict if a file of it cannot be read."""
        store = self._library.store_of(key)
        entry, model = self._library.find(store, key)
        if not model.group.weights:
            raise NotFound(f"{entry.path} has no files of its own on {entry.node}.", param="entry")
        weights = {file.path for file in model.group.weights}
        files, bytes_to_read = self._known(store, _files_of(model, self._library.report(store)), weights)
        return EntryFiles(path=entry.path, files=files, bytes_to_read=bytes_to_read)

    def repo(self, asked: AskRepo) -> RepoFiles:
        """What came from a repository: at that commit, or at the one that came last."""
        named = asked.revision not in (None, _MAIN)
        if named and not _COMMIT.fullmatch(asked.revision or ""):
            raise _not_here(asked)
        found = [
            (store, file, record)
            for store, report in self._library.reports()
            for file in report.result.tree.files
            if (record := store.scanner.record_of(file)) is not None and record.repo == asked.repo
        ]
        dated = [(record.downloaded_at or 0.0, record.revision) for _, _, record in found if record.revision]
        commit = asked.revision if named else max(dated, default=(0.0, None))[1]
        at_commit = [(store, file) for store, file, record in found if record.revision == commit]
        if commit is None or not at_commit:
            raise _not_here(asked)
        return self._at_commit(commit, at_commit, max(at for at, revision in dated if revision == commit))

    def _at_commit(
        self, commit: str, found: list[tuple[LibraryStore, StoreFile]], downloaded_at: float
    ) -> RepoFiles:
        files: dict[str, KnownFile] = {}
        bytes_to_read = 0
        for store in {store.name: store for store, _ in found}.values():
            here, more_bytes = self._known(store, [file for each, file in found if each is store], set())
            bytes_to_read += more_bytes
            files |= {file.remote or "": file for file in here}
        return RepoFiles(
            commit=commit,
            downloaded_at=downloaded_at,
            files=tuple(_as_remote(file) for file in files.values() if file.remote),
            bytes_to_read=bytes_to_read,
        )

    def _known(
        self, store: LibraryStore, files: Iterable[StoreFile], weights: set[str]
    ) -> tuple[tuple[KnownFile, ...], int]:
        """The files with their sha256, and how much is being read to know the others."""
        root, listed, unknown = store.root, [], []
        for file in files:
            record = store.scanner.record_of(file)
            sha256 = records.expected_sha256(record) or self._hashes.of(Given(root, file))
            if sha256 is None:
                unknown.append(file)
            listed.append(_known_file(file, record, sha256, noted=file.path in weights))
        return tuple(listed), self._hashes.want(root, unknown)


def _files_of(model: StoredModel, report: StoreReport) -> list[StoreFile]:
    """Its own files, and those that it shares with others; not the record, which is about more."""
    there = {file.path: file for file in report.result.tree.files}
    shared = [there.get(model.group.mmproj or ""), there.get(model.group.description_path)]
    files = {file.path: file for file in [*model.group.files, *filter(None, shared)]}
    return [file for file in files.values() if file.name != records.NAME]


def _known_file(file: StoreFile, record: FileRecord | None, sha256: str | None, *, noted: bool) -> KnownFile:
    return KnownFile(
        path=file.path,
        size_bytes=file.size_bytes,
        sha256=sha256,
        noted=noted or records.expected_sha256(record) is not None,
        repo=record.repo if record else None,
        revision=record.revision if record else None,
        remote=record.remote if record else None,
    )


def _as_remote(file: KnownFile) -> KnownFile:
    return KnownFile(
        path=file.remote or "", size_bytes=file.size_bytes, sha256=file.sha256, remote=file.remote
    )


def _not_here(asked: AskRepo) -> NotFound:
    at = f" at {asked.revision}" if asked.revision else ""
    return NotFound(f"Nothing of {asked.repo}{at} is here.", param="repo")
