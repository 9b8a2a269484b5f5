"""Reading the headers of files on disk, and of models that are spread over several files."""

import os
import re
from pathlib import Path

from modelyard.gguf.errors import GgufError
from modelyard.gguf.header import Header, make_header
from modelyard.gguf.parse import Contents
from modelyard.gguf.reading import Reading

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
