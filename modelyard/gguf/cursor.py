"""A place in a header of which the first bytes are at hand; nothing behind them is ever touched."""

import struct

from modelyard.gguf.errors import GgufError, NeedMore

MAX_HEADER_BYTES = 64 * 1024 * 1024
"""More than any real header has: a vocabulary of 262,000 tokens with its merges takes 16 MiB."""

MAX_STRINGS = 1_000_000
"""How many strings the arrays of one header may hold together; it bounds the time to skip them."""

MAX_NUMBERS = 200_000
"""How many numbers of one header are kept; as Python objects they take many times their bytes."""

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


class Cursor:
    """Reads on from `at` in `buffer`, the beginning of a file of `size_bytes`."""

    def __init__(self, buffer: bytes, size_bytes: int, at: int = 0) -> None:
        self._buffer = buffer
        self._size_bytes = size_bytes
        self._strings_left = MAX_STRINGS
        self._numbers_left = MAX_NUMBERS
        self.at = at

    def u32(self) -> int:
        """An unsigned number of 4 bytes."""
        start = self.skip(4)
        number: int = _U32.unpack_from(self._buffer, start)[0]
        return number

    def u64(self) -> int:
        """An unsigned number of 8 bytes."""
        start = self.skip(8)
        number: int = _U64.unpack_from(self._buffer, start)[0]
        return number

    def numbers(self, code: str, count: int) -> tuple[int | float | bool, ...]:
        """So many numbers, of the type that `struct` knows by `code`."""
        if count > self._numbers_left:
            raise GgufError(f"The GGUF header holds more than {MAX_NUMBERS} numbers; the file is damaged.")
        self._numbers_left -= count
        layout = struct.Struct(f"<{count}{code}")
        return layout.unpack_from(self._buffer, self.skip(layout.size))

    def raw(self, n_bytes: int) -> bytes:
        """The next bytes as they are."""
        start = self.skip(n_bytes)
        return self._buffer[start : self.at]

    def skip(self, n_bytes: int) -> int:
        """Pass over so many bytes; where they began. NeedMore or GgufError where they are not there."""
        start, end = self.at, self.at + n_bytes
        if end > len(self._buffer):
            raise self._beyond(end)
        self.at = end
        return start

    def skip_strings(self, count: int) -> None:
        """Pass over an array of strings. It is most of a header, hence the bare loop."""
        if count > self._strings_left:
            raise GgufError(f"The GGUF header holds more than {MAX_STRINGS} strings; the file is damaged.")
        self._strings_left -= count
        buffer, at, unpack = self._buffer, self.at, _U64.unpack_from
        try:
            for _ in range(count):
                at += 8 + unpack(buffer, at)[0]
        except (struct.error, OverflowError):
            # The length itself lies outside, because the string before it ends there or because bytes lack.
            raise self._beyond(at + 8) from None
        self.skip(at - self.at)

    def _beyond(self, end: int) -> Exception:
        if end > self._size_bytes:
            return GgufError(
                f"The GGUF header runs past the end of the file ({self._size_bytes} bytes);"
                " the file is cut or damaged. Download it again."
            )
        if end > MAX_HEADER_BYTES:
            return GgufError(f"The GGUF header is larger than {MAX_HEADER_BYTES} bytes; the file is damaged.")
        return NeedMore(end)
