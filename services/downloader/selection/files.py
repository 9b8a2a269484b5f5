"""A repository as the hub lists it, patterns over its files, and a selection of them."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from msgspec import Struct

from schemas.base import Format
from schemas.models import Mode

TASKS: Mapping[Mode, tuple[str, ...]] = {
    Mode.CHAT: ("text-generation", "image-text-to-text", "any-to-any"),
    Mode.COMPLETION: ("text-generation",),
    Mode.EMBEDDING: ("feature-extraction", "sentence-similarity"),
    Mode.RERANK: ("text-ranking",),
    Mode.TRANSCRIPTION: ("automatic-speech-recognition",),
}
"""The hub's tasks of each mode."""
_MODES = {task: mode for mode in reversed(Mode) for task in TASKS[mode]}


class RemoteFile(Struct, frozen=True, kw_only=True):
    """A listed file. Small files have a git blob sha1 instead of a sha256."""

    path: str
    size_bytes: int
    sha256: str | None = None
    blob_sha1: str | None = None


class Selection(Struct, frozen=True, kw_only=True):
    """The files of one model; without a format they are plain files that make no model."""

    format: Format | None
    quant: str | None = None
    """Identifies the model within its repository."""
    model_files: tuple[RemoteFile, ...]
    """Shards in order, or all files of a folder."""
    mmproj: RemoteFile | None = None
    """The projector to fetch with it."""

    @property
    def files(self) -> tuple[RemoteFile, ...]:
        """All files to fetch, the model first."""
        return self.model_files + ((self.mmproj,) if self.mmproj else ())

    @property
    def model_path(self) -> str | None:
        """The path an engine loads, relative to the repository's folder: the first file, or the folder."""
        if self.format is None:
            return None
        return "." if self.format is Format.SAFETENSORS else self.model_files[0].path


class SelectionError(ValueError):
    """No selection; the message is a sentence, `code` is for programs."""

    def __init__(self, sentence: str, code: str = "no_such_model") -> None:
        super().__init__(sentence)
        self.code = code


def matches(path: str, patterns: Iterable[str]) -> bool:
    """Whether a pattern matches; `folder/` stands for everything below it."""
    return any(fnmatchcase(path, f"{pattern}*" if pattern.endswith("/") else pattern) for pattern in patterns)


class RepoListing(Struct, frozen=True, kw_only=True):
    """A repository at one commit (40 hex digits). What the hub does not list is None."""

    commit: str
    files: tuple[RemoteFile, ...]
    task: str | None = None
    license: str | None = None
    gated: bool = False
    private: bool = False
    downloads: int | None = None
    likes: int | None = None
    updated_at: float | None = None
    tags: tuple[str, ...] = ()


def mode_of(task: str | None) -> Mode | None:
    """The mode for a task of the hub."""
    return _MODES.get(task or "")
