"""The base of every message and of every value in a bucket."""

from typing import Any, dataclass_transform

import msgspec


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(msgspec.field,))
class _Options(msgspec.StructMeta):
    """msgspec does not inherit `kw_only`; every record has it all the same."""

    def __new__(
        cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any
    ) -> "_Options":
        return super().__new__(cls, name, bases, namespace, **{"frozen": True, "kw_only": True, **options})


class Record(msgspec.Struct, metaclass=_Options):
    """Immutable, named fields only; new fields get defaults, unknown ones are ignored, types never change."""
