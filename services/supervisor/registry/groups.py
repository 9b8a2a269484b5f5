"""The groups of models. A name in a group that no model has is ignored."""

from collections.abc import Iterable, Mapping

import msgspec

from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketCache, Records
from schemas import buckets
from schemas.errors import BadRequest, Conflict, NotFound
from schemas.models import ModelSpec, find_model
from schemas.registry import GroupList, GroupRef, GroupStored, ListGroups, ModelGroup

_ATTEMPTS = 5
"""Of a change that another writer was faster than."""


class Groups:
    """The `group` commands. Every write is a compare-and-set: each supervisor of the yard answers them."""

    def __init__(self, bus: Bus, groups: BucketCache[ModelGroup], models: BucketCache[ModelSpec]) -> None:
        self._records = Records(bus, buckets.GROUPS, groups, "group")
        self._models = models

    async def put(self, request: ModelGroup) -> GroupStored:
        """Store a new or changed group; Conflict if another one contradicts it, or it was just changed."""
        group = with_model_names(request, self._models.values)
        head = await self._records.head(group.name)
        if (contradiction := find_contradiction(group, self._records.values.values())) is not None:
            raise Conflict(contradiction, param="models")
        await self._records.replace(head, group)
        return GroupStored(name=group.name)

    async def delete(self, ref: GroupRef) -> GroupStored:
        """Delete a group; NotFound."""
        if ref.name not in self._records.values:
            raise NotFound(f"There is no group {ref.name!r}; `yard groups` shows those there are.")
        await self._records.delete(ref.name)
        return GroupStored(name=ref.name)

    async def groups(self, _query: ListGroups) -> GroupList:
        return GroupList(groups=tuple(sorted(self._records.values.values(), key=lambda group: group.name)))

    async def rename_model(self, old: str, new: str) -> None:
        """A renamed model stays in its groups."""
        for group in tuple(self._records.values.values()):
            if old in group.models:
                await self._rename_in(group.name, old, new)

    async def _rename_in(self, name: str, old: str, new: str) -> None:
        for attempt in range(_ATTEMPTS):
            head = await self._records.head(name)
            if head.value is None or old not in head.value.models:
                return
            models = tuple(dict.fromkeys(new if model == old else model for model in head.value.models))
            try:
                await self._records.replace(head, msgspec.structs.replace(head.value, models=models))
                return
            except Conflict:
                if attempt == _ATTEMPTS - 1:
                    raise


def with_model_names(group: ModelGroup, models: Mapping[str, ModelSpec]) -> ModelGroup:
    """The group with aliases replaced by names; BadRequest if fewer than two models are left."""
    specs = ((name, find_model(name, dict(models))) for name in group.models)
    names = tuple(dict.fromkeys(spec.name if spec else name for name, spec in specs))
    try:
        return msgspec.structs.replace(group, models=names)
    except ValueError as error:
        raise BadRequest(f"{' and '.join(group.models)} are one model: {error}.", param="models") from error


def find_contradiction(group: ModelGroup, others: Iterable[ModelGroup]) -> str | None:
    """Another group that keeps two models apart that this one runs together, or the other way round."""
    for other in others:
        shared = sorted(set(group.models) & set(other.models))
        if other.name != group.name and other.kind is not group.kind and len(shared) > 1:
            first, second, *_ = shared
            return (
                f"{first} and {second} cannot be {group.kind}: they are {other.kind} in group {other.name}."
            )
    return None
