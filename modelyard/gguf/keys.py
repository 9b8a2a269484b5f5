"""Typed looks at a header's entries: a value of the wrong type or size is an error, never a surprise."""

from collections.abc import Mapping

from modelyard.gguf.errors import GgufError
from modelyard.gguf.parse import Skipped, Value

_MAX_NUMBER = 2**32 - 1


class Keys:
    """The entries of one header. A `name` stands below its architecture, a `key` is written out."""

    def __init__(self, values: Mapping[str, Value], architecture: str) -> None:
        self._values = values
        self._prefix = f"{architecture}."

    def number(self, name: str, default: int = 0) -> int:
        """The whole number at ARCHITECTURE.name."""
        return self._whole(name, self._values.get(self._prefix + name, default))

    def per_layer(self, name: str, n_layer: int, default: tuple[int, ...]) -> tuple[int, ...]:
        """One number a layer: given as a list, or as one number for all of them."""
        value = self._values.get(self._prefix + name)
        if value is None:
            return default
        if not isinstance(value, tuple):
            return (self._whole(name, value),) * n_layer
        if len(value) < n_layer:
            raise self._wrong(name, f"has {len(value)} values for {n_layer} layers")
        return tuple(self._whole(name, item) for item in value[:n_layer])

    def flags(self, name: str, n_layer: int) -> tuple[bool, ...] | int | None:
        """One flag a layer, or one number that says how they repeat; None where neither is given."""
        if isinstance(self._values.get(self._prefix + name), tuple):
            return tuple(item != 0 for item in self.per_layer(name, n_layer, ()))
        return self.number(name) if self._prefix + name in self._values else None

    def text(self, key: str) -> str | None:
        """The text at `key`; None where there is none or it is too long to be one."""
        value = self._values.get(key)
        return value if isinstance(value, str) else None

    def length(self, key: str) -> int:
        """How many elements the array at `key` has; 0 where there is none."""
        value = self._values.get(key)
        if isinstance(value, Skipped):
            return value.length
        return len(value) if isinstance(value, tuple) else 0

    def _whole(self, name: str, value: Value) -> int:
        if not isinstance(value, int) or not 0 <= value <= _MAX_NUMBER:
            raise self._wrong(name, "is no whole number that could be right")
        return int(value)

    def _wrong(self, name: str, what: str) -> GgufError:
        return GgufError(f"The GGUF header's {self._prefix}{name} {what}; the file is damaged.")
