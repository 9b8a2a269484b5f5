"""Reading a header piece by piece, wherever the bytes come from: a file on disk or one on the hub."""

from modelyard.gguf.cursor import MAX_HEADER_BYTES
from modelyard.gguf.errors import GgufError, NeedMore
from modelyard.gguf.parse import Contents, parse

FIRST_BYTES = 1024 * 1024
_GROWTH = 4


class Reading:
    """`feed` it the next `wanted_bytes` of a file, again and again, until it gives the contents.

    `most_bytes` bounds what it ever wants; `growth` is by how much it wants more than it has, so that a file
    that lies about itself costs few bytes and few turns.
    """

    def __init__(
        self, name: str, size_bytes: int, *, most_bytes: int = MAX_HEADER_BYTES, growth: int = _GROWTH
    ) -> None:
        self._name = name
        self._size_bytes = size_bytes
        self._most_bytes = most_bytes
        self._growth = growth
        self._buffer = b""
        self.wanted_bytes = min(FIRST_BYTES, size_bytes, most_bytes)
        """How many bytes come next."""

    def feed(self, data: bytes) -> Contents | None:
        """The contents, or None while there must be more; GgufError says what is wrong with the file."""
        self._buffer += data
        try:
            return parse(self._buffer, self._size_bytes)
        except NeedMore as more:
            if len(data) < self.wanted_bytes:
                raise GgufError(f"{self._name} became shorter while it was read.") from None
            self.wanted_bytes = self._next(more.at_least_bytes) - len(self._buffer)
            return None

    def _next(self, at_least_bytes: int) -> int:
        """How many bytes there must be after the next turn."""
        if at_least_bytes > self._most_bytes:
            raise GgufError(
                f"The header of {self._name} is larger than {self._most_bytes} bytes; it is damaged."
            )
        grown = max(at_least_bytes, self._growth * len(self._buffer))
        return min(grown, self._most_bytes, self._size_bytes)
