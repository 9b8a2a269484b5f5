"""The groups of models: put, listed, taken away. A name that no model has yet does no harm."""

from modelyard.bus import Bus
from modelyard.state import Mirror, Store
from schemas import buckets
from schemas.errors import NotFound
from schemas.groups import Group, GroupList, GroupRef, GroupStored, ListGroups


class Groups:
    """The `group` commands."""

    def __init__(self, bus: Bus, groups: Mirror[Group]) -> None:
        self._store = Store(bus, buckets.GROUPS)
        self._groups = groups

    async def put(self, group: Group) -> GroupStored:
        """Store a new or changed group."""
        await self._store.put(group.name, group)
        return GroupStored(name=group.name)

    async def delete(self, ref: GroupRef) -> GroupStored:
        """Take one away; NotFound."""
        if ref.name not in self._groups.values:
            raise NotFound(f"There is no group {ref.name!r}; `yard groups` shows those there are.")
        await self._store.delete(ref.name)
        return GroupStored(name=ref.name)

    async def groups(self, _wanted: ListGroups) -> GroupList:
        """All of them."""
        return GroupList(groups=tuple(sorted(self._groups.values.values(), key=lambda group: group.name)))
