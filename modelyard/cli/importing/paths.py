"""Paths of another program's files as paths in the store."""

import re
from pathlib import Path, PurePosixPath

from modelyard.cli.importing.result import Note

_DRIVE = re.compile(r"[A-Za-z]:[/\\]")


class StorePaths:
    """`base` is the folder of the imported file; files under `root` are in the store under the same paths."""

    def __init__(self, base: Path, root: Path) -> None:
        self.base = base
        self.root = root

    def file(self, written: str, note: Note) -> str:
        """The path in the store of a file as the other program writes it."""
        path = self._absolute(written)
        root = PurePosixPath(self.root.as_posix())
        if path.is_relative_to(root):
            return str(path.relative_to(root))
        note(f"put {written} into the store as {path.name}, or give the folder of the store with --root")
        return path.name

    def _absolute(self, written: str) -> PurePosixPath:
        slashed = written.replace("\\", "/") if _DRIVE.match(written) or "/" not in written else written
        if _DRIVE.match(slashed) or slashed.startswith("/"):
            return PurePosixPath(slashed)
        # Without reading the disk: the paths may be another machine's.
        parts: list[str] = []
        for part in (PurePosixPath(self.base.as_posix()) / slashed).parts:
            parts = parts[:-1] if part == ".." else [*parts, part]
        return PurePosixPath(*parts)
