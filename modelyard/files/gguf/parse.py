"""Parses the entries and tensors of a GGUF header; long arrays are skipped, not stored.

Version 2 and 3, little endian. The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import struct
from math import prod
from typing import NamedTuple

import msgspec

from modelyard.files.gguf.formats import TENSOR_TYPES, TensorType

_HEADER = struct.Struct("<4sIQQ")
_U64 = struct.Struct("<Q")
HEAD_BYTES = _HEADER.size + _U64.size
"""Number of first bytes that `check_gguf` needs."""

_VERSIONS = (2, 3)
_MIN_KV_BYTES = 8 + 1 + 4 + 1  # key length, key, type, value
_MIN_TENSOR_BYTES = 8 + 1 + 4 + 4 + 8  # name length, name, dimension count, type, offset
MAX_KEY_BYTES = 65_535
"""Limit of the format."""
MAX_TENSORS = 16_384
"""Limit of tensors; the largest models have some thousands."""
MAX_ENTRIES = 2_048
"""Limit of entries; real headers have some dozens."""
MAX_STORED = 4_096
"""Arrays with more numbers and strings with more bytes are skipped."""
_MAX_DIMENSIONS = 4
_MAX_ELEMENTS = 2**63
_DEFAULT_ALIGNMENT = 32
_STRING, _ARRAY = 8, 9
_CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
MAX_HEADER_BYTES = 64 * 1024 * 1024
"""Limit of a header; a vocabulary of 262,000 tokens with its merges takes 16 MiB."""
MAX_STRINGS = 1_000_000
"""Limit of strings in all arrays of a header; bounds the time to skip them."""
MAX_NUMBERS = 200_000
"""Limit of stored numbers of a header; as Python objects they take many times their size."""


class GgufError(ValueError):
    """The file is not a GGUF model, truncated or invalid; the message is a sentence for the user."""


class NeedMoreBytes(Exception):
    """The header is longer than the buffer: try again with at least `at_least_bytes` of the file."""

    def __init__(self, at_least_bytes: int) -> None:
        super().__init__(f"The header needs at least {at_least_bytes} bytes.")
        self.at_least_bytes = at_least_bytes


def check_gguf(head: bytes, size_bytes: int) -> None:
    """Check the first bytes of a file of `size_bytes`; GgufError with a sentence."""
    if len(head) < HEAD_BYTES or size_bytes < HEAD_BYTES:
        raise GgufError(f"The file is too short for a GGUF model ({size_bytes} bytes).")
    magic, version, tensor_count, kv_count = _HEADER.unpack_from(head)
    if magic != b"GGUF":
        raise GgufError("The file is not a GGUF model: it does not start with the letters GGUF.")
    if version not in _VERSIONS:
        raise GgufError(f"The file is GGUF version {_version_text(version)}; versions 2 and 3 are supported.")
    room_bytes = size_bytes - _HEADER.size
    if kv_count < 1 or kv_count > room_bytes // _MIN_KV_BYTES:
        raise GgufError(f"The GGUF header claims {kv_count} entries, too many for {size_bytes} bytes.")
    room_bytes -= kv_count * _MIN_KV_BYTES
    if tensor_count > room_bytes // _MIN_TENSOR_BYTES:
        raise GgufError(f"The GGUF header claims {tensor_count} tensors, too many for {size_bytes} bytes.")
    (key_bytes,) = _U64.unpack_from(head, _HEADER.size)
    if not 1 <= key_bytes <= min(MAX_KEY_BYTES, size_bytes - HEAD_BYTES):
        raise GgufError(f"The GGUF header's first key claims {key_bytes} bytes; the file is damaged.")


def _version_text(version: int) -> str:
    swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
    return f"{swapped} in big-endian order" if swapped in _VERSIONS else str(version)


class _Cursor:
    """Position in `buffer`, the first bytes of a file of `size_bytes`; never reads beyond it."""

    def __init__(self, buffer: bytes, size_bytes: int, at: int = 0) -> None:
        self._buffer = buffer
        self._size_bytes = size_bytes
        self._strings_left = MAX_STRINGS
        self._numbers_left = MAX_NUMBERS
        self.at = at

    def u32(self) -> int:
        return int.from_bytes(self.raw(4), "little")

    def u64(self) -> int:
        return int.from_bytes(self.raw(8), "little")

    def numbers(self, code: str, count: int) -> tuple[int | float | bool, ...]:
        """`count` numbers of the `struct` format character `code`."""
        if count > self._numbers_left:
            raise GgufError(f"The GGUF header holds more than {MAX_NUMBERS} numbers; the file is damaged.")
        self._numbers_left -= count
        layout = struct.Struct(f"<{count}{code}")
        return layout.unpack_from(self._buffer, self.skip(layout.size))

    def raw(self, n_bytes: int) -> bytes:
        start = self.skip(n_bytes)
        return self._buffer[start : self.at]

    def skip(self, n_bytes: int) -> int:
        """Skip bytes and return their start; NeedMoreBytes or GgufError beyond the buffer."""
        start, end = self.at, self.at + n_bytes
        if end > len(self._buffer):
            raise self._beyond(end)
        self.at = end
        return start

    def skip_strings(self, count: int) -> None:
        """Skip an array of strings. Most of a header is such arrays, hence the bare loop."""
        if count > self._strings_left:
            raise GgufError(f"The GGUF header holds more than {MAX_STRINGS} strings; the file is damaged.")
        self._strings_left -= count
        buffer, at, unpack = self._buffer, self.at, _U64.unpack_from
        try:
            for _ in range(count):
                at += 8 + unpack(buffer, at)[0]
        except (struct.error, OverflowError):
            # The length field itself is beyond the buffer.
            raise self._beyond(at + 8) from None
        self.skip(at - self.at)

    def _beyond(self, end: int) -> Exception:
        if end > self._size_bytes:
            return GgufError(
                f"The GGUF header runs past the end of the file ({self._size_bytes} bytes);"
                " the file is truncated or damaged. Download it again."
            )
        if end > MAX_HEADER_BYTES:
            return GgufError(f"The GGUF header is larger than {MAX_HEADER_BYTES} bytes; the file is damaged.")
        return NeedMoreBytes(end)


class Skipped(msgspec.Struct, frozen=True):
    """A skipped value: its number of array elements or of string bytes."""

    length: int


Value = int | float | bool | str | tuple[int | float | bool, ...] | Skipped


class Tensor(NamedTuple):
    """One tensor; `offset` is in bytes from `data_start`."""

    name: str
    kind: TensorType
    n_elements: int
    size_bytes: int
    offset: int


class GgufContents(NamedTuple):
    """A parsed header. `header_bytes` is its length, `data_start` the offset of the weights."""

    values: dict[str, Value]
    tensors: tuple[Tensor, ...]
    header_bytes: int
    data_start: int


def parse(buffer: bytes, size_bytes: int) -> GgufContents:
    """Parse the header of a file of `size_bytes` from its first bytes.

    NeedMoreBytes if the buffer is too short, GgufError if the file is invalid.
    """
    if len(buffer) < min(HEAD_BYTES, size_bytes):
        raise NeedMoreBytes(HEAD_BYTES)
    check_gguf(buffer[:HEAD_BYTES], size_bytes)
    cursor = _Cursor(buffer, size_bytes, at=8)
    n_tensors, n_entries = cursor.u64(), cursor.u64()
    if n_tensors > MAX_TENSORS or n_entries > MAX_ENTRIES:
        raise GgufError(f"The GGUF header claims {n_entries} entries and {n_tensors} tensors; it is damaged.")
    values = _entries(cursor, n_entries)
    tensors = _tensors(cursor, n_tensors)
    alignment = _alignment(values)
    data_start = _padded(cursor.at, alignment)
    _check_offsets(tensors, alignment, size_bytes - data_start)
    return GgufContents(values, tensors, header_bytes=cursor.at, data_start=data_start)


def _entries(cursor: _Cursor, count: int) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for _ in range(count):
        key = _name(cursor)
        if key in values:
            raise GgufError(f"The GGUF header has the key {key!r} twice; the file is damaged.")
        values[key] = _value(cursor, key)
    return values


def _name(cursor: _Cursor) -> str:
    n_bytes = cursor.u64()
    if not 1 <= n_bytes <= MAX_KEY_BYTES:
        raise GgufError(f"The GGUF header has a name of {n_bytes} bytes; the file is damaged.")
    try:
        return cursor.raw(n_bytes).decode()
    except UnicodeDecodeError:
        raise GgufError("The GGUF header has a name that is not text; the file is damaged.") from None


def _value(cursor: _Cursor, key: str) -> Value:
    kind = cursor.u32()
    if kind == _ARRAY:
        return _array(cursor, key)
    if kind == _STRING:
        n_bytes = cursor.u64()
        if n_bytes > MAX_STORED:
            cursor.skip(n_bytes)
            return Skipped(n_bytes)
        return cursor.raw(n_bytes).decode(errors="replace")
    return cursor.numbers(_code(kind, key), 1)[0]


def _array(cursor: _Cursor, key: str) -> Value:
    kind, count = cursor.u32(), cursor.u64()
    if kind == _ARRAY:
        raise GgufError(f"The GGUF header's {key!r} is an array of arrays, which no model needs.")
    if kind == _STRING:
        cursor.skip_strings(count)
        return Skipped(count)
    code = _code(kind, key)
    if count > MAX_STORED:
        cursor.skip(count * struct.calcsize(f"<{code}"))
        return Skipped(count)
    return cursor.numbers(code, count)


def _code(kind: int, key: str) -> str:
    code = _CODES.get(kind)
    if code is None:
        raise GgufError(f"The GGUF header's {key!r} has the unknown type {kind}; the file is damaged.")
    return code


def _tensors(cursor: _Cursor, count: int) -> tuple[Tensor, ...]:
    tensors = tuple(_tensor(cursor) for _ in range(count))
    if len({tensor.name for tensor in tensors}) < count:
        raise GgufError("The GGUF header has two tensors of one name; the file is damaged.")
    return tensors


def _tensor(cursor: _Cursor) -> Tensor:
    name, n_dimensions = _name(cursor), cursor.u32()
    if n_dimensions > _MAX_DIMENSIONS:
        raise GgufError(f"The tensor {name!r} claims {n_dimensions} dimensions; the file is damaged.")
    shape = [cursor.u64() for _ in range(n_dimensions)]
    number, offset = cursor.u32(), cursor.u64()
    kind = TENSOR_TYPES.get(number)
    if kind is None:
        raise GgufError(f"The tensor {name!r} has the type {number}, which is unknown.")
    n_elements = prod(shape)
    row = shape[0] if shape else 1
    if n_elements >= _MAX_ELEMENTS or row % kind.block:
        raise GgufError(f"The tensor {name!r} cannot have the shape {shape} as {kind.name}; it is damaged.")
    return Tensor(name, kind, n_elements, kind.size_bytes(n_elements), offset)


def _alignment(values: dict[str, Value]) -> int:
    alignment = values.get("general.alignment", _DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or not 1 <= alignment <= 2**20 or alignment & (alignment - 1):
        raise GgufError("The GGUF header's general.alignment is not a power of two; the file is damaged.")
    return alignment


def _check_offsets(tensors: tuple[Tensor, ...], alignment: int, room_bytes: int) -> None:
    # As llama.cpp requires: tensors follow each other without a gap and end inside the file.
    offset = 0
    for tensor in tensors:
        if tensor.offset != offset:
            raise GgufError(f"The tensor {tensor.name!r} has a wrong offset; the file is damaged.")
        if offset + tensor.size_bytes > room_bytes:
            raise GgufError(
                f"The file ends before the end of its tensor {tensor.name!r}: it is truncated. "
                "Download it again."
            )
        offset = _padded(offset + tensor.size_bytes, alignment)


def _padded(at: int, alignment: int) -> int:
    return -(-at // alignment) * alignment
