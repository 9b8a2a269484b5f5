"""Hashes of files: sha256, which the hub lists for weights, and git's blob hash for small files."""

import hashlib
import os
import re
from collections.abc import Callable
from typing import BinaryIO

CHUNK_BYTES = 1024 * 1024
_SHA256 = re.compile(r"[0-9a-f]{64}")


def is_sha256(text: str) -> bool:
    return _SHA256.fullmatch(text) is not None


def sha256_of(file: BinaryIO, on_chunk: Callable[[int], None] = lambda _: None) -> str:
    """The sha256 of an open file, 64 hex digits; `on_chunk` gets the size of every chunk and may raise."""
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK_BYTES):
        digest.update(chunk)
        on_chunk(len(chunk))
    return digest.hexdigest()


def blob_sha1_of(file: BinaryIO) -> str:
    """Git's blob hash of an open file, 40 hex digits."""
    size_bytes = os.fstat(file.fileno()).st_size
    digest = hashlib.sha1(b"blob %d\0" % size_bytes, usedforsecurity=False)
    while chunk := file.read(CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()
