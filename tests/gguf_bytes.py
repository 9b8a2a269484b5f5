"""GGUF files in memory, byte by byte, so that tests can also write invalid ones."""

import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

Simple = int | bool | float | str
ALIGNMENT = 32


class Weight(NamedTuple):
    """One tensor to write; the number of its type is ggml's (0: F32, 12: Q4_K)."""

    name: str
    shape: tuple[int, ...] = (32,)
    kind: int = 0
    size_bytes: int = 128


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def typed(value: Simple | Sequence[Simple]) -> bytes:
    """A value with its type in front."""
    if isinstance(value, (str, int, float)):
        kind, raw = _scalar(value)
        return struct.pack("<I", kind) + raw
    items = [_scalar(item) for item in value]
    head = struct.pack("<IIQ", 9, items[0][0] if items else 4, len(items))
    return head + b"".join(raw for _, raw in items)


def _scalar(value: Simple) -> tuple[int, bytes]:
    match value:
        case bool():
            return 7, struct.pack("<?", value)
        case int():
            return (4, struct.pack("<I", value)) if 0 <= value < 2**32 else (11, struct.pack("<q", value))
        case float():
            return 6, struct.pack("<f", value)
        case str():
            return 8, text(value)


def head(n_tensors: int, n_entries: int, version: int = 3) -> bytes:
    return struct.pack("<4sIQQ", b"GGUF", version, n_tensors, n_entries)


def entry(key: str, value: Simple | Sequence[Simple]) -> bytes:
    return text(key) + typed(value)


def tensor(weight: Weight, offset: int) -> bytes:
    shape = struct.pack(f"<I{len(weight.shape)}Q", len(weight.shape), *weight.shape)
    return text(weight.name) + shape + struct.pack("<IQ", weight.kind, offset)


def gguf_bytes(
    values: Mapping[str, Simple | Sequence[Simple]], weights: Sequence[Weight] = (), version: int = 3
) -> bytes:
    """A whole file with zero weights."""
    front, size_bytes = gguf_front(values, weights, version)
    return front + bytes(size_bytes - len(front))


def gguf_front(
    values: Mapping[str, Simple | Sequence[Simple]], weights: Sequence[Weight] = (), version: int = 3
) -> tuple[bytes, int]:
    """The bytes before the weights, and the size of the whole file."""
    infos, offset = [], 0
    for weight in weights:
        infos.append(tensor(weight, offset))
        offset += -(-weight.size_bytes // ALIGNMENT) * ALIGNMENT
    front = head(len(weights), len(values), version)
    front += b"".join(entry(key, value) for key, value in values.items()) + b"".join(infos)
    front += bytes(-len(front) % ALIGNMENT)
    return front, len(front) + offset
