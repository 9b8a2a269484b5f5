"""Files chosen by hand: patterns over their whole paths, as the hub's own tools take them."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from services.downloader.selection.files import RemoteFile


def matches(path: str, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns matches; `folder/` stands for all that is in it."""
    return any(fnmatchcase(path, f"{pattern}*" if pattern.endswith("/") else pattern) for pattern in patterns)


def without(files: Iterable[RemoteFile], exclude: Sequence[str]) -> list[RemoteFile]:
    """The files that no pattern rules out."""
    return [file for file in files if not matches(file.path, exclude)]


def only(files: Iterable[RemoteFile], include: Sequence[str]) -> list[RemoteFile]:
    """The files that a pattern asks for."""
    return [file for file in files if matches(file.path, include)]
