"""What an import brings: specs, what was not taken over, and what cannot be."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from modelyard.specs.checked import spec_from
from schemas.errors import BadRequest
from schemas.models import ModelSpec

Fields = dict[str, Any]
"""A spec on its way: plain data, without what is as by default."""


STRANGE = (TypeError, ValueError, AttributeError, KeyError, NotImplementedError, RecursionError)
"""What reading raises where another program's file has something else than that program would write."""


class NotTaken(Exception):
    """Why a model cannot be taken over, as the rest of a sentence that begins with its name."""


class Found:
    """Filled by a reader, model by model."""

    def __init__(self) -> None:
        self.specs: list[ModelSpec] = []
        self.notes: list[str] = []
        self.refused: list[str] = []

    @contextmanager
    def model(self, name: str) -> Iterator[Callable[[str], None]]:
        """Read one model inside; it takes notes, and what goes wrong is its refusal."""

        def note(text: str) -> None:
            self.notes.append(f"{name}: {text}")

        try:
            yield note
        except NotTaken as error:
            self.refused.append(f"{name} cannot be taken over: {error}.")
        except BadRequest as error:
            self.refused.append(f"{name} cannot be taken over: {error.message}")
        except STRANGE:
            self.refused.append(f"{name} cannot be taken over: it is not as its program writes it.")

    def add(self, fields: Fields) -> None:
        """A model is complete; BadRequest if it makes no spec."""
        self.specs.append(spec_from(fields))
