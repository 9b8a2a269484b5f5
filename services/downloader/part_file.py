"""The bytes of a file that have arrived so far, on disk, with their sha256 kept up to date."""

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from services.downloader.disk import hash_file
from services.downloader.errors import disk_error

_UNWRITTEN_BYTES = 256 * 1024  # at most so much is lost when the process is killed


class PartFile:
    """An open `.part` file; opening it hashes what is there already, so that it can be continued."""

    def __init__(self, path: Path, on_bytes: Callable[[int], None]) -> None:
        self._path = path
        self._on_bytes = on_bytes
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            self._digest = hash_file(path, on_bytes)
            self._file = path.open("ab", buffering=_UNWRITTEN_BYTES)
        except OSError as error:
            raise disk_error(error, path.name) from error
        self.size_bytes = self._file.tell()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        """A full disk shows up again on closing; the first error is the one to tell."""
        try:
            self._file.close()
        except OSError as error:
            if kind is None:
                raise disk_error(error, self._path.name) from error

    @property
    def sha256(self) -> str:
        """Of everything written, 64 hex digits."""
        return self._digest.hexdigest()

    def append(self, chunk: bytes) -> None:
        """Write and hash a chunk; a full disk raises TransferError."""
        try:
            self._file.write(chunk)
        except OSError as error:
            raise disk_error(error, self._path.name) from error
        self._digest.update(chunk)
        self.size_bytes += len(chunk)
        self._on_bytes(self.size_bytes)

    def restart(self) -> None:
        """Forget every byte."""
        try:
            self._file.truncate(0)
            self._digest = hash_file(self._path, self._on_bytes)
        except OSError as error:
            raise disk_error(error, self._path.name) from error
        self.size_bytes = 0
        self._on_bytes(0)
