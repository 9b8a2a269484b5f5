"""The groups of models: put, listed, taken away. A name that no model has yet does no harm."""

from modelyard import audit
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
        before = self._groups.values.get(group.name)
        await self._store.put(group.name, group)
        audit.changed(f"group {group.name}", before, group)
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
