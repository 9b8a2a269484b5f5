"""A file that is no GGUF model, or has implausible counts, is refused by its first bytes."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.files.gguf.parse import HEAD_BYTES, check_gguf


def head(magic: bytes = b"GGUF", version: int = 3, tensors: int = 2, kvs: int = 3, key: int = 20) -> bytes:
    return struct.pack("<4sIQQQ", magic, version, tensors, kvs, key)


def refusal(first: bytes, size_bytes: int) -> str | None:
    try:
        check_gguf(first, size_bytes)
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("version", [2, 3])
def test_a_valid_header_passes(version: int) -> None:
    assert refusal(head(version=version) + b"general.architecture", 10_000) is None


def test_a_first_shard_may_hold_no_tensors() -> None:
    assert refusal(head(tensors=0), 10_000) is None


@pytest.mark.parametrize(
    ("first", "size_bytes", "words"),
    [
        (b"", 0, "too short"),
        (b"GGUF", 10_000, "too short"),
        (head(), HEAD_BYTES - 1, "too short"),
        (b"<!doctype html><html><body>Sorry</body>", 10_000, "not a GGUF model"),
        (head(magic=b"FUGG"), 10_000, "not a GGUF model"),
        (head(version=1), 10_000, "GGUF version 1;"),
        (head(version=4), 10_000, "GGUF version 4;"),
        (head(version=3 << 24), 10_000, "3 in big-endian order"),
        (head(kvs=0), 10_000, "claims 0 entries"),
        (head(kvs=2**64 - 1), 10_000, "too many for 10000 bytes"),
        (head(tensors=2**63), 10_000, "tensors, too many"),
        (head(tensors=400, kvs=10), 10_000, "tensors, too many"),
        (head(key=0), 10_000, "first key claims 0 bytes"),
        (head(key=9_969), 10_000, "first key claims"),
        (head(key=2**40), 2**41, "first key claims"),
    ],
)
def test_a_broken_header_is_refused_with_a_sentence(first: bytes, size_bytes: int, words: str) -> None:
    assert words in (refusal(first, size_bytes) or "")


@given(first=st.binary(max_size=64), size_bytes=st.integers(0, 2**63))
def test_any_bytes_raise_only_gguf_errors(first: bytes, size_bytes: int) -> None:
    for candidate in (first, b"GGUF\x03\0\0\0" + first):
        try:
            check_gguf(candidate, size_bytes)
        except ValueError as error:
            assert str(error).endswith((".", "supported."))
