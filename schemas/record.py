"""The base of every message and of every value in a bucket."""

from typing import dataclass_transform

import msgspec


# msgspec inherits frozen and kw_only; type checkers learn it only from a transform of our own.
@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(msgspec.field,))
class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Immutable, named fields only; new fields get defaults, unknown ones are ignored, types never change."""
