"""Quick check of a GGUF file's first bytes: rejects error pages, truncated files, implausible headers."""

import struct

_HEADER = struct.Struct("<4sIQQ")
_KEY_LENGTH = struct.Struct("<Q")
HEAD_BYTES = _HEADER.size + _KEY_LENGTH.size
"""Number of first bytes that `check_gguf` needs."""

_VERSIONS = (2, 3)
_MIN_KV_BYTES = 8 + 1 + 4 + 1  # key length, key, type, value
_MIN_TENSOR_BYTES = 8 + 1 + 4 + 4 + 8  # name length, name, dimension count, type, offset
MAX_KEY_BYTES = 65_535
"""Limit of the format."""


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
        raise GgufError(f"The file is GGUF version {_version_text(version)}; versions 2 and 3 are known.")
    room_bytes = size_bytes - _HEADER.size
    if kv_count < 1 or kv_count > room_bytes // _MIN_KV_BYTES:
        raise GgufError(f"The GGUF header claims {kv_count} entries, too many for {size_bytes} bytes.")
    room_bytes -= kv_count * _MIN_KV_BYTES
    if tensor_count > room_bytes // _MIN_TENSOR_BYTES:
        raise GgufError(f"The GGUF header claims {tensor_count} tensors, too many for {size_bytes} bytes.")
    (key_bytes,) = _KEY_LENGTH.unpack_from(head, _HEADER.size)
    if not 1 <= key_bytes <= min(MAX_KEY_BYTES, size_bytes - HEAD_BYTES):
        raise GgufError(f"The GGUF header's first key claims {key_bytes} bytes; the file is damaged.")


def _version_text(version: int) -> str:
    swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
    return f"{swapped} in big-endian order" if swapped in _VERSIONS else str(version)
