"""Scans one store. A scan opens only files that are new or changed since the last one."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, TypeVar

from modelyard.bus import logs
from schemas.library import MAX_DESCRIPTION_BYTES, EntryFacts, EntryFile, EntryFormat, VerifyState
from services.downloader.library import facts, records, store_fs
from services.downloader.library.grouping import DESCRIPTION, FileGroup, groups_of
from services.downloader.library.walk import ScannedFile, StoreTree, walk

log = logs.get(__name__)
T = TypeVar("T")

READ_BUDGET_S = 1.0
"""Time for reading headers in one scan; the next scan reads the others."""
INCOMPLETE_GRACE_S = 10.0
"""An invalid file younger than this may be incomplete, and is read again."""

Signature = tuple[int, float]
"""Size and time of the files with weights: facts are read again when they change."""
_LINK = (
    "It is a symbolic link to {0}; links are not followed. Move or copy the files themselves into the store."
)


class FactsReading(NamedTuple):
    """The facts of a model, or why they could not be read."""

    signature: Signature
    facts: EntryFacts
    problem: str | None = None


class StoredModel(NamedTuple):
    """A group of files with its records, facts and description."""

    group: FileGroup
    files: list[EntryFile]
    """Files with weights first."""
    record: dict[str, records.FileRecord]
    """By path."""
    reading: FactsReading | None
    """None: not read yet."""
    description: str

    @property
    def checked_files(self) -> list[EntryFile]:
        """The files that must be intact: those with weights, and others with a sha256."""
        count = len(self.group.weights)
        return self.files[:count] + [file for file in self.files[count:] if file.sha256 is not None]


class ScanResult(NamedTuple):
    models: list[StoredModel]
    tree: StoreTree
    took_s: float
    pending: int
    """Number of models not read yet."""
    by_sha256: dict[str, list[ScannedFile]]
    """Files by their expected sha256, without damaged ones."""

    @property
    def partial_bytes(self) -> int:
        """Size of incomplete files."""
        return sum(file.size_bytes for file in self.tree.partials)

    @property
    def used_bytes(self) -> int:
        """Size of everything but the trash."""
        return sum(file.size_bytes for file in self.tree.files) + self.partial_bytes


class StoreScanner:
    """Blocking; for one thread at a time."""

    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self.root = root
        self._readings: dict[str, FactsReading] = {}
        self._folder_records: dict[str, tuple[ScannedFile, records.FolderRecord]] = {}
        self._descriptions: dict[str, tuple[ScannedFile, str]] = {}
        self._last: ScanResult | None = None

    def restore_facts(self, path: str, reading: FactsReading) -> None:
        """Add facts that an earlier process has read."""
        self._readings[path] = reading

    def scan(self, read_budget_s: float = READ_BUDGET_S) -> ScanResult:
        """Scan the store; OSError if it is unreadable. The same object if nothing has changed."""
        began = time.monotonic()
        tree = walk(self.root)
        if self._last is not None and self._last.tree == tree and not self._is_incomplete(self._last):
            return self._last
        groups = groups_of(tree)
        self._read_records(tree)
        pending = self._read_new(groups, began + read_budget_s)
        for path in self._readings.keys() - {group.path for group in groups}:
            del self._readings[path]
        models = [self._model(group) for group in groups]
        self._last = ScanResult(models, tree, time.monotonic() - began, pending, self._index(tree))
        return self._last

    def _is_incomplete(self, result: ScanResult) -> bool:
        return result.pending > 0 or any(
            model.reading is not None and _is_retried(model.reading, model.group) for model in result.models
        )

    def _read_records(self, tree: StoreTree) -> None:
        recorded = [file for file in tree.files if file.name == records.NAME]
        described = [file for file in tree.files if file.name.endswith(DESCRIPTION)]
        self._folder_records = _read_changed(
            self._folder_records, recorded, lambda file: records.load(self.root, file.folder)
        )
        self._descriptions = _read_changed(self._descriptions, described, self._description)

    def _description(self, file: ScannedFile) -> str:
        try:
            return read_description(self.root, file.path)
        except OSError as error:
            log.warning("description_unreadable", path=file.path, error=str(error))
            return ""

    def _read_new(self, groups: Iterable[FileGroup], deadline: float) -> int:
        pending = 0
        for group in groups:
            reading = self._readings.get(group.path)
            if reading and reading.signature == signature(group) and not _is_retried(reading, group):
                continue
            if time.monotonic() > deadline:
                pending += 1
            else:
                self._readings[group.path] = self._reading(group)
        return pending

    def _reading(self, group: FileGroup) -> FactsReading:
        current = signature(group)
        if group.link is not None:
            return FactsReading(current, EntryFacts(), _LINK.format(group.link.target))
        try:
            return FactsReading(current, facts.read_facts(self.root, group))
        except facts.InvalidModelFiles as error:
            return FactsReading(current, EntryFacts(), str(error))
        except OSError as error:
            return FactsReading(current, EntryFacts(), facts.explain(error))

    def _index(self, tree: StoreTree) -> dict[str, list[ScannedFile]]:
        by_sha256: defaultdict[str, list[ScannedFile]] = defaultdict(list)
        for file in tree.files:
            if (record := self.record_of(file)) is None:
                continue
            shown = records.entry_file(file, record)
            if shown.sha256 is not None and shown.verified in (VerifyState.VERIFIED, VerifyState.UNVERIFIED):
                by_sha256[shown.sha256].append(file)
        return dict(by_sha256)

    def _model(self, group: FileGroup) -> StoredModel:
        listed = [(file, self.record_of(file)) for file in group.files]
        description = self._descriptions.get(group.description_path)
        return StoredModel(
            group=group,
            files=[records.entry_file(file, record) for file, record in listed],
            record={file.path: record for file, record in listed if record is not None},
            reading=self._readings.get(group.path),
            description=description[1] if description else "",
        )

    def record_of(self, file: ScannedFile) -> records.FileRecord | None:
        """The record of a file, if there is one."""
        entry = self._folder_records.get(records.record_path(file.folder))
        return entry[1].files.get(file.name) if entry else None

    def recorded(self, folder: str) -> dict[str, records.FileRecord]:
        """The records of a folder by path, also of files that are missing."""
        entry = self._folder_records.get(records.record_path(folder))
        return {f"{folder}/{name}": record for name, record in entry[1].files.items()} if entry else {}


def _read_changed(
    read: dict[str, tuple[ScannedFile, T]], files: list[ScannedFile], read_file: Callable[[ScannedFile], T]
) -> dict[str, tuple[ScannedFile, T]]:
    """These files with their contents, by path; those that are unchanged are not read again."""
    known = dict(read.values())
    return {file.path: (file, known[file] if file in known else read_file(file)) for file in files}


def read_description(root: Path, path: str) -> str:
    """The text of a description; OSError if it cannot be read."""
    data = store_fs.read_file(root, path, MAX_DESCRIPTION_BYTES)
    return data.decode("utf-8-sig", errors="replace").strip()


def signature(group: FileGroup) -> Signature:
    """Identifies the state of a model's weights."""
    return group.weights_bytes, group.modified_ns / 1e9


def _is_retried(reading: FactsReading, group: FileGroup) -> bool:
    # A configuration or a shard may follow the weights, and a copy may be in progress.
    return (
        reading.problem is not None
        and group.format is not EntryFormat.LINK
        and time.time() - group.modified_ns / 1e9 < INCOMPLETE_GRACE_S
    )
