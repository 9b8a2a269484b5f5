"""Files as the hub lists them, patterns over them, and a selection."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from msgspec import Struct

from schemas.base import Format


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


def _matches(path: str, patterns: Iterable[str]) -> bool:
    """Whether a pattern matches; `folder/` stands for everything below it."""
    return any(fnmatchcase(path, f"{pattern}*" if pattern.endswith("/") else pattern) for pattern in patterns)


def excluding(files: Iterable[RemoteFile], exclude: Sequence[str]) -> list[RemoteFile]:
    """Files that match no pattern."""
    return [file for file in files if not _matches(file.path, exclude)]


def including(files: Iterable[RemoteFile], include: Sequence[str]) -> list[RemoteFile]:
    """Files that match a pattern."""
    return [file for file in files if _matches(file.path, include)]
