"""Chunks of a stream put together to the whole answer that a client without a stream expects."""

from abc import abstractmethod
from typing import Any

import msgspec

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_PASSED = ("id", "created", "model", "system_fingerprint", "usage", "timings")

Json = dict[str, Any]


class Whole:
    """Grows with every chunk; `encode` is the whole answer."""

    kind: str
    """Its `object`."""

    def __init__(self) -> None:
        self._fields: Json = {}
        self._choices: dict[int, Json] = {}

    def add(self, data: bytes) -> None:
        """Take one chunk's JSON."""
        chunk = _decode(data)
        self._fields |= {key: chunk[key] for key in _PASSED if chunk.get(key) is not None}
        for part in chunk.get("choices") or ():
            index = part.get("index", 0)
            if index not in self._choices:
                self._choices[index] = self.begin(index)
            self.grow(self._choices[index], part)

    def encode(self, usage: Json | None = None) -> bytes:
        """The answer, its choices in order; `usage` in the place of what the last chunk said of it."""
        ordered = [self._choices[index] for index in sorted(self._choices)]
        fields = self._fields | ({"usage": usage} if usage else {})
        return msgspec.json.encode({"object": self.kind, **fields, "choices": ordered})

    @abstractmethod
    def begin(self, index: int) -> Json:
        """A choice of which nothing is known yet."""

    @abstractmethod
    def grow(self, choice: Json, part: Json) -> None:
        """Add what a chunk says of it."""
