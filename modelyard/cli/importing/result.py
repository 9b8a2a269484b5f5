"""The result of an import: specs, notes about fields that were left out, and models that were refused."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from modelyard.documents import spec_from
from schemas.errors import BadRequest
from schemas.models import ModelSpec

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
