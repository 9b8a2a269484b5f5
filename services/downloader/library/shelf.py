"""One store as it lies on the disk. A look at it opens only what is new or was changed since the last one."""

import shutil
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import modelyard
from modelyard.bus import logs
from schemas.library import MAX_DESCRIPTION_BYTES, EntryFacts, EntryFile, EntryFormat, VerifyState
from services.downloader.library import facts, inside, records
from services.downloader.library.grouping import DESCRIPTION, Group, groups_of
from services.downloader.library.records import FolderRecord
from services.downloader.library.walk import Found, Tree, walk

log = logs.get(__name__)

READING_S = 1.0
"""One look reads headers no longer than this; the next goes on, and what is known is shown meanwhile."""
FRESH_S = 10.0
"""A file that is no good yet may still be on its way here."""

Signature = tuple[int, float]
"""Bytes and time of the files with weights: while they are the same, so are the facts."""


class Reading(NamedTuple):
    """What the files of a model said, or why they could not be read."""

    signature: Signature
    facts: EntryFacts
    problem: str | None = None


class Model(NamedTuple):
    """A group with everything that is known of it."""

    group: Group
    files: list[EntryFile]
    """Those with weights first."""
    record: dict[str, records.FileRecord]
    """By path."""
    reading: Reading | None
    """None: its turn has not come yet."""
    description: str

    @property
    def judged(self) -> list[EntryFile]:
        """The files that must be right: those with weights, and others of which the sha256 is known."""
        count = len(self.group.weights)
        return self.files[:count] + [file for file in self.files[count:] if file.sha256 is not None]


class Look(NamedTuple):
    """What one look at a store found."""

    models: list[Model]
    tree: Tree
    took_s: float
    pending: int
    """How many models have not been read yet."""
    known: dict[str, list[Found]]
    """Files by the sha256 that they should have, but for those that are known to be damaged."""


class Shelf:
    """Blocking; call it in a thread, and one call at a time."""

    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self.root = root
        self._readings: dict[str, Reading] = {}
        self._folder_records: dict[str, tuple[Found, FolderRecord]] = {}
        self._descriptions: dict[str, tuple[Found, str]] = {}
        self._last: Look | None = None

    def remember(self, path: str, reading: Reading) -> None:
        """What an earlier process has read."""
        self._readings[path] = reading

    def look(self, reading_s: float = READING_S) -> Look:
        """Walk the store; OSError if it cannot be read. The same object again where nothing has changed."""
        began = time.monotonic()
        tree = walk(self.root)
        if self._last is not None and self._last.tree == tree and not self._unsettled(self._last):
            return self._last
        groups = groups_of(tree)
        self._read_notes(tree)
        pending = self._read_new(groups, began + reading_s)
        self._forget(groups)
        models = [self._model(group) for group in groups]
        self._last = Look(models, tree, time.monotonic() - began, pending, self._known(tree))
        return self._last

    def _unsettled(self, look: Look) -> bool:
        return look.pending > 0 or any(
            model.reading is not None and _may_get_better(model.reading, model.group) for model in look.models
        )

    def _read_notes(self, tree: Tree) -> None:
        """Records and descriptions: opened when they are new or changed, forgotten when they are gone."""
        noted = {file.path: file for file in tree.files if file.name == records.NAME}
        described = {file.path: file for file in tree.files if file.name.endswith(DESCRIPTION)}
        for path, file in noted.items():
            if path not in self._folder_records or self._folder_records[path][0] != file:
                self._folder_records[path] = (file, records.load(self.root, file.folder))
        for path, file in described.items():
            if path not in self._descriptions or self._descriptions[path][0] != file:
                self._descriptions[path] = (file, self._description(path))
        for path in self._folder_records.keys() - noted.keys():
            del self._folder_records[path]
        for path in self._descriptions.keys() - described.keys():
            del self._descriptions[path]

    def _description(self, path: str) -> str:
        try:
            return decode_description(inside.read(self.root, path, MAX_DESCRIPTION_BYTES))
        except OSError as error:
            log.warning("description_not_read", path=path, error=str(error))
            return ""

    def _read_new(self, groups: Iterable[Group], until: float) -> int:
        pending = 0
        for group in groups:
            known = self._readings.get(group.path)
            if (
                known is not None
                and known.signature == signature(group)
                and not _may_get_better(known, group)
            ):
                continue
            if time.monotonic() > until:
                pending += 1
            else:
                self._readings[group.path] = self._reading(group)
        return pending

    def _reading(self, group: Group) -> Reading:
        mark = signature(group)
        if group.link is not None:
            return Reading(mark, EntryFacts(), _LINK.format(group.link.target))
        try:
            return Reading(mark, facts.read_facts(self.root, group))
        except facts.NoFacts as error:
            return Reading(mark, EntryFacts(), str(error))
        except OSError as error:
            return Reading(mark, EntryFacts(), facts.explain(error))

    def _forget(self, groups: Iterable[Group]) -> None:
        there = {group.path for group in groups}
        for path in self._readings.keys() - there:
            del self._readings[path]

    def _known(self, tree: Tree) -> dict[str, list[Found]]:
        known: defaultdict[str, list[Found]] = defaultdict(list)
        for file in tree.files:
            if (record := self.record_of(file)) is None:
                continue
            shown = records.of(file, record)
            if shown.sha256 is not None and shown.verified in (VerifyState.VERIFIED, VerifyState.UNVERIFIED):
                known[shown.sha256].append(file)
        return dict(known)

    def _model(self, group: Group) -> Model:
        listed = [(file, self.record_of(file)) for file in group.files]
        description = self._descriptions.get(group.description_path)
        return Model(
            group=group,
            files=[records.of(file, record) for file, record in listed],
            record={file.path: record for file, record in listed if record is not None},
            reading=self._readings.get(group.path),
            description=description[1] if description else "",
        )

    def record_of(self, file: Found) -> records.FileRecord | None:
        """What the record beside a file says of it."""
        noted = self._folder_records.get(records.path_in(file.folder))
        return noted[1].files.get(file.name) if noted else None

    def recorded(self, folder: str) -> dict[str, records.FileRecord]:
        """What should lie in a folder by its own record, by path."""
        noted = self._folder_records.get(records.path_in(folder))
        return {f"{folder}/{name}": record for name, record in noted[1].files.items()} if noted else {}

    def room(self) -> tuple[int, int]:
        """Bytes of the disk, and those that are free for us."""
        usage = shutil.disk_usage(self.root)
        return usage.total, usage.free


_LINK = (
    "It is a symbolic link to {0}; links are not followed. Move or copy the files themselves into the store."
)


def decode_description(data: bytes) -> str:
    """What a person sees of a description."""
    return data.decode("utf-8-sig", errors="replace").strip()


def signature(group: Group) -> Signature:
    """What tells whether a model's files are the same as before."""
    return group.weights_bytes, group.modified_ns / 1e9


def _may_get_better(reading: Reading, group: Group) -> bool:
    """A configuration or a shard may come after the weights, and a copy may still be going on."""
    return (
        reading.problem is not None
        and group.format is not EntryFormat.LINK
        and time.time() - group.modified_ns / 1e9 < FRESH_S
    )


def read_by() -> str:
    """Who read the facts: another version reads them again."""
    return modelyard.__version__
