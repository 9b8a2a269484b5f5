"""What an import gives (specs, notes about what was left out, refused models), and paths in the store."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from modelyard.documents import spec_from
from schemas.errors import BadRequest
from schemas.models import ModelSpec

_DRIVE = re.compile(r"[A-Za-z]:[/\\]")

Fields = dict[str, Any]
"""A spec as plain data, without fields that have their default."""
Note = Callable[[str], None]
"""Records something that was left out."""

UNEXPECTED_SHAPE = (TypeError, ValueError, AttributeError, KeyError, NotImplementedError, RecursionError)
"""Raised while reading a file that its program would not have written."""


class CannotImport(Exception):
    """Why a model cannot be imported, as the rest of a sentence that begins with its name."""


class ImportResult:
    """Filled by a reader, model by model."""

    def __init__(self) -> None:
        self.specs: list[ModelSpec] = []
        self.notes: list[str] = []
        self.refused: list[str] = []

    @contextmanager
    def model(self, name: str) -> Iterator[Note]:
        """The block that reads one model; an error inside becomes its refusal."""

        def note(text: str) -> None:
            self.notes.append(f"{name}: {text}")

        try:
            yield note
        except CannotImport as error:
            self.refused.append(f"{name} cannot be imported: {error}.")
        except BadRequest as error:
            self.refused.append(f"{name} cannot be imported: {error.message}")
        except UNEXPECTED_SHAPE:
            self.refused.append(f"{name} cannot be imported: it is not in the format of its program.")

    def add(self, fields: Fields) -> None:
        """Add a complete model; BadRequest if it is not a valid spec."""
        self.specs.append(spec_from(fields))


class StorePaths(NamedTuple):
    """`base` is the folder of the imported file; files under `root` are in the store under the same paths."""

    base: Path
    root: Path

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
