"""Reading a header piece by piece, wherever the bytes come from: a file on disk or one on the hub."""

import os
import re
from pathlib import Path

from modelyard.files.gguf.check import GgufError, NeedMore
from modelyard.files.gguf.header import Header, make_header
from modelyard.files.gguf.parse import MAX_HEADER_BYTES, Contents, parse

FIRST_BYTES = 1024 * 1024
_GROWTH = 4


_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


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


def read_model(path: Path) -> Header:
    """The header of a model, its other shards counted in; GgufError, or OSError for what cannot be read."""
    shards = shard_paths(path)
    contents = [read_contents(shard) for shard in shards]
    tensors = tuple(tensor for part in contents for tensor in part.tensors)
    return make_header(contents[0]._replace(tensors=tensors), n_shards=len(shards))


def read_contents(path: Path) -> Contents:
    """The entries and tensors of one file, reading about as much of it as its header is long."""
    with path.open("rb") as file:
        reading = Reading(path.name, os.fstat(file.fileno()).st_size)
        while True:
            if (contents := reading.feed(file.read(reading.wanted_bytes))) is not None:
                return contents


def shard_paths(path: Path) -> tuple[Path, ...]:
    """All files of the model that `path` is or begins, first shard first; GgufError names one that lacks."""
    match = _SHARD.fullmatch(path.name)
    if match is None:
        return (path,)
    shards = []
    for number in range(1, int(match["count"]) + 1):
        shard = path.with_name(f"{match['stem']}-{number:05d}-of-{match['count']}.gguf")
        if not shard.is_file():
            raise GgufError(f"{shard.name} is missing: the model has {int(match['count'])} files.")
        shards.append(shard)
    return tuple(shards) or (path,)
