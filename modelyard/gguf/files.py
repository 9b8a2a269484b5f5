"""Reading the headers of files on disk, and of models that are spread over several files."""

import os
import re
from pathlib import Path

from modelyard.gguf.cursor import MAX_HEADER_BYTES
from modelyard.gguf.errors import GgufError, NeedMore
from modelyard.gguf.header import Header, make_header
from modelyard.gguf.parse import Contents, parse

_FIRST_BYTES = 1024 * 1024
_GROWTH = 4
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


def read_model(path: Path) -> Header:
    """The header of a model, its other shards counted in; GgufError, or OSError for what cannot be read."""
    shards = shard_paths(path)
    contents = [read_contents(shard) for shard in shards]
    tensors = tuple(tensor for part in contents for tensor in part.tensors)
    return make_header(contents[0]._replace(tensors=tensors), n_shards=len(shards))


def read_contents(path: Path) -> Contents:
    """The entries and tensors of one file, reading about as much of it as its header is long."""
    with path.open("rb") as file:
        size_bytes = os.fstat(file.fileno()).st_size
        buffer, wanted = b"", _FIRST_BYTES
        while True:
            buffer += file.read(wanted - len(buffer))
            try:
                return parse(buffer, size_bytes)
            except NeedMore as more:
                if len(buffer) < wanted:
                    raise GgufError(f"{path.name} became shorter while it was read.") from None
                wanted = min(MAX_HEADER_BYTES, max(more.at_least_bytes, _GROWTH * len(buffer)))


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
