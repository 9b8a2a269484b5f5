"""The log of one instance on disk: a file of bounded size and the few before it."""

import contextlib
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

MAX_BYTES = 8 * 1024 * 1024
"""A file that has grown to this is put aside."""
KEPT = 2
"""Files put aside: NAME.log.1 is the newer one."""


class LogFile:
    """Appends lines; `with` closes it."""

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._file = self._open()

    def write(self, lines: list[bytes]) -> None:
        """Append lines that came without their ends. A full disk loses lines, and no engine."""
        with contextlib.suppress(OSError):
            self._file.write(b"".join(line + b"\n" for line in lines))
            if self._file.tell() >= self._max_bytes:
                self._turn()

    def _turn(self) -> None:
        self._file.close()
        for number in range(KEPT, 0, -1):
            older = self._aside(number - 1) if number > 1 else self._path
            if older.exists():
                older.replace(self._aside(number))
        self._file = self._open()

    def _aside(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    def _open(self) -> BinaryIO:
        return self._path.open("ab", buffering=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
