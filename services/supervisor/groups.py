"""The groups of models: put, listed, taken away. A name that no model has yet does no harm."""

from collections.abc import Iterable

import msgspec

from modelyard.bus import audit
from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketCache, BucketStore
from schemas import buckets
from schemas.errors import BadRequest, Conflict, NotFound
from schemas.groups import GroupList, GroupRef, GroupStored, ListGroups, ModelGroup
from schemas.models import ModelSpec, find_model


class Groups:
    """The `group` commands."""

    def __init__(self, bus: Bus, groups: BucketCache[ModelGroup], models: BucketCache[ModelSpec]) -> None:
        self._store = BucketStore(bus, buckets.GROUPS)
        self._groups = groups
        self._models = models

    async def put(self, asked: ModelGroup) -> GroupStored:
        """Store a new or changed group; Conflict if another one says the opposite."""
        group = by_names(asked, self._models.values)
        if (opposite := contradicting(group, self._groups.values.values())) is not None:
            raise Conflict(opposite, param="models")
        await self._write(group)
        return GroupStored(name=group.name)

    async def delete(self, ref: GroupRef) -> GroupStored:
        """Take one away; NotFound."""
        before = self._groups.values.get(ref.name)
        if before is None:
            raise NotFound(f"There is no group {ref.name!r}; `yard groups` shows those there are.")
        await self._store.delete(ref.name)
        audit.changed(f"group {ref.name}", before, None)
        return GroupStored(name=ref.name)

    async def groups(self, _wanted: ListGroups) -> GroupList:
        """All of them."""
        return GroupList(groups=tuple(sorted(self._groups.values.values(), key=lambda group: group.name)))

    async def follow(self, old: str, new: str) -> None:
        """A model was renamed: it stays in its groups."""
        for group in tuple(self._groups.values.values()):
            if old in group.models:
                models = tuple(dict.fromkeys(new if each == old else each for each in group.models))
                await self._write(msgspec.structs.replace(group, models=models))

    async def _write(self, group: ModelGroup) -> None:
        before = self._groups.values.get(group.name)
        await self._store.put(group.name, group)
        audit.changed(f"group {group.name}", before, group)


def by_names(group: ModelGroup, models: dict[str, ModelSpec]) -> ModelGroup:
    """The group with models by their names where it has aliases; BadRequest if fewer than two are left."""
    found = ((name, find_model(name, models)) for name in group.models)
    names = tuple(dict.fromkeys(spec.name if spec else name for name, spec in found))
    try:
        return msgspec.structs.replace(group, models=names)
    except ValueError as error:
        raise BadRequest(f"{' and '.join(group.models)} are one model: {error}.", param="models") from error


def contradicting(group: ModelGroup, others: Iterable[ModelGroup]) -> str | None:
    """Which other group keeps two models apart that this one wants together, or the other way round."""
    for other in others:
        shared = sorted(set(group.models) & set(other.models))
        if other.name != group.name and other.kind is not group.kind and len(shared) > 1:
            return (
                f"{shared[0]} and {shared[1]} cannot be {group.kind}: group {other.name} says {other.kind}."
            )
    return None
