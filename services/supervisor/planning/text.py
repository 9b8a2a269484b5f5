"""The plan's reasons in words."""

from collections.abc import Iterable

from schemas.placing import Option
from services.supervisor.planning.room import Room, wanted

_GIB = 1024**3
_MIB = 1024**2


def names(models: Iterable[str]) -> str:
    """Models in a row, each once."""
    unique = list(dict.fromkeys(models))
    return (
        unique[0]
        if len(unique) == 1
        else f"{', '.join(unique[:-1])} and {unique[-1]}"
        if unique
        else "nobody"
    )


def size(count: int) -> str:
    """Bytes for people."""
    return f"{count / _GIB:.1f} GiB" if count >= _GIB else f"{count / _MIB:.0f} MiB"


def is_short_of(option: Option, room: Room) -> str:
    """Why an option could never fit."""
    (node, device), need = max(wanted(option).items(), key=lambda one: one[1] - room.size(*one[0]))
    return (
        f"it needs {size(need)} on {device} of {node}, which has {size(room.size(node, device))} for models"
    )
