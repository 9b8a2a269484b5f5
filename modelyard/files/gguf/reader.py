"""Reads headers incrementally, from files on disk and on the hub, also of models in several shards."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from modelyard.files.gguf.header import Header, make_header
from modelyard.files.gguf.parse import MAX_HEADER_BYTES, GgufContents, GgufError, NeedMoreBytes, parse

FIRST_BYTES = 1024 * 1024
_GROWTH = 4
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


class HeaderReader:
    """Incremental parser: `feed` it the next `wanted_bytes` of a file until it returns the contents.

    `most_bytes` bounds the total. `growth` is the factor by which each read enlarges the buffer, so that an
    invalid file costs few bytes and few reads.
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
        """Number of bytes to feed next."""

    def feed(self, data: bytes) -> GgufContents | None:
        """The contents, or None while bytes are missing; GgufError if the file is invalid."""
        self._buffer += data
        try:
            return parse(self._buffer, self._size_bytes)
        except NeedMoreBytes as more:
            if len(data) < self.wanted_bytes:
                raise GgufError(f"{self._name} became shorter while it was read.") from None
            if more.at_least_bytes > self._most_bytes:
                raise GgufError(
                    f"The header of {self._name} is larger than {self._most_bytes} bytes; it is damaged."
                ) from None
            grown = max(more.at_least_bytes, self._growth * len(self._buffer))
            self.wanted_bytes = min(grown, self._most_bytes, self._size_bytes) - len(self._buffer)
            return None


def read_model(path: Path) -> Header:
    """The header of a model with all its shards; GgufError, or OSError if a file cannot be read."""
    return join_shards([read_contents(shard) for shard in shard_paths(path)])


def join_shards(shards: Sequence[GgufContents]) -> Header:
    """The header of a model from the contents of all its shards in order."""
    tensors = tuple(tensor for shard in shards for tensor in shard.tensors)
    return make_header(shards[0]._replace(tensors=tensors), n_shards=len(shards))


def read_contents(path: Path) -> GgufContents:
    """The contents of one file; reads little more than its header."""
    with path.open("rb") as file:
        reader = HeaderReader(path.name, os.fstat(file.fileno()).st_size)
        while True:
            if (contents := reader.feed(file.read(reader.wanted_bytes))) is not None:
                return contents


def shard_paths(path: Path) -> tuple[Path, ...]:
    """All shards of the model of `path` in order; GgufError names a missing one."""
    match = _SHARD.fullmatch(path.name)
    if match is None:
        return (path,)
    stem, count = match["stem"], int(match["count"])
    names = [f"{stem}-{number:05d}-of-{match['count']}.gguf" for number in range(1, count + 1)]
    shards = tuple(map(path.with_name, names))
    for shard in shards:
        if not shard.is_file():
            raise GgufError(f"{shard.name} is missing: the model has {count} files.")
    return shards or (path,)
