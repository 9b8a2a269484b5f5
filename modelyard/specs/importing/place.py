"""Where the files of another program's models lie in our store."""

import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath

_DRIVE = re.compile(r"[A-Za-z]:[/\\]")


class Place:
    """`base` is the folder of the file that is read; what lies under `root` lies under our store."""

    def __init__(self, base: Path, root: Path) -> None:
        self.base = base
        self.root = root

    def file(self, written: str, note: Callable[[str], None]) -> str:
        """The path in our store of a file as the other program writes it."""
        path = self._absolute(written)
        root = PurePosixPath(self.root.as_posix())
        if path.is_relative_to(root):
            return str(path.relative_to(root))
        note(f"put {written} into the store as {path.name}, or say with --root where the store's files lie")
        return path.name

    def _absolute(self, written: str) -> PurePosixPath:
        slashed = written.replace("\\", "/") if _DRIVE.match(written) or "/" not in written else written
        if _DRIVE.match(slashed) or slashed.startswith("/"):
            return PurePosixPath(slashed)
        # Without a look at the disk: it may be another machine's.
        parts: list[str] = []
        for part in (PurePosixPath(self.base.as_posix()) / slashed).parts:
            parts = parts[:-1] if part == ".." else [*parts, part]
        return PurePosixPath(*parts)
