"""What the hub lists about repositories, as data that needs none of its library."""

from collections.abc import Mapping

from msgspec import Struct

from schemas.models import Mode
from services.downloader.selection.files import RemoteFile

TASKS: Mapping[Mode, tuple[str, ...]] = {
    Mode.CHAT: ("text-generation", "image-text-to-text", "any-to-any"),
    Mode.COMPLETION: ("text-generation",),
    Mode.EMBEDDING: ("feature-extraction", "sentence-similarity"),
    Mode.RERANK: ("text-ranking",),
    Mode.TRANSCRIPTION: ("automatic-speech-recognition",),
}
"""The hub's tasks of each mode."""
_MODES = {task: mode for mode in reversed(Mode) for task in TASKS[mode]}


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
