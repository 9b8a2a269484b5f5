"""Groups of models: by name and alias, after a rename, and written by several supervisors."""

from collections.abc import AsyncIterator

import pytest

from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketCache, BucketStore
from modelyard.bus.tasks import Tasks
from modelyard.host.settings import Settings
from schemas import buckets, subjects
from schemas.base import Role
from schemas.errors import BadRequest, Conflict
from schemas.registry import GroupKind, GroupRef, ListGroups, ModelGroup, PutModel, RenameModel
from services.supervisor.registry.groups import Groups
from services.supervisor.service import main
from tests.support import Yard


@pytest.fixture
async def operator(yard: Yard, settings: Settings) -> AsyncIterator[Bus]:
    async with Tasks() as tasks:
        await main(await yard.bus(Role.SUPERVISOR), settings, tasks)
        bus = await yard.bus()
        for name in ("a", "b", "c"):
            model = PutModel(name=name, path=f"{name}.gguf", aliases=(name, f"{name}-alias"))
            await bus.call(subjects.MODEL_PUT, model)
        yield bus


async def put(bus: Bus, name: str, kind: GroupKind, *models: str) -> None:
    await bus.call(subjects.GROUP_PUT, ModelGroup(name=name, kind=kind, models=models))


async def models_of(bus: Bus, name: str) -> tuple[str, ...]:
    groups = (await bus.call(subjects.GROUP_LIST, ListGroups())).groups
    return next(group.models for group in groups if group.name == name)


async def test_a_renamed_model_stays_in_its_groups(operator: Bus) -> None:
    """Its old name stayed in the group, so the group had no effect any more."""
    await put(operator, "g", GroupKind.APART, "a", "b")
    await operator.call(subjects.MODEL_RENAME, RenameModel(model="a", name="new"))
    assert await models_of(operator, "g") == ("new", "b")


async def test_an_alias_is_stored_as_the_name_of_its_model(operator: Bus) -> None:
    await put(operator, "g", GroupKind.TOGETHER, "a-alias", "b", "not-yet")
    assert await models_of(operator, "g") == ("a", "b", "not-yet")
    with pytest.raises(BadRequest, match="are one model"):
        await put(operator, "h", GroupKind.APART, "a", "a-alias")


async def test_two_models_cannot_be_apart_and_together(operator: Bus) -> None:
    await put(operator, "g", GroupKind.APART, "a", "b")
    with pytest.raises(Conflict, match="a and b cannot be together: they are apart in group g"):
        await put(operator, "h", GroupKind.TOGETHER, "c", "b", "a")
    await put(operator, "h", GroupKind.TOGETHER, "c", "b")
    await put(operator, "g", GroupKind.TOGETHER, "a", "b")
    await operator.call(subjects.GROUP_DELETE, GroupRef(name="g"))


def write_after_next_read(monkeypatch: pytest.MonkeyPatch, group: ModelGroup) -> None:
    """Deterministic: another supervisor writes `group` right after the next read of a key."""
    head = BucketStore.head

    async def head_then_write(self: BucketStore[ModelGroup], key: str) -> object:
        monkeypatch.undo()
        found = await head(self, key)
        await self.put(key, group)
        return found

    monkeypatch.setattr(BucketStore, "head", head_then_write)


@pytest.fixture
async def groups(yard: Yard) -> AsyncIterator[Groups]:
    """The group commands of one supervisor, with a group `g` of a and b."""
    bus = await yard.bus(Role.SUPERVISOR)
    async with Tasks() as tasks:
        cache: BucketCache[ModelGroup] = await BucketCache.start(bus, buckets.GROUPS, tasks)
        groups = Groups(bus, cache, BucketCache(bus, buckets.MODELS))
        await groups.put(ModelGroup(name="g", kind=GroupKind.APART, models=("a", "b")))
        yield groups


async def test_a_put_at_the_same_time_as_another_is_a_conflict(
    groups: Groups, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It wrote over the other: it named no revision."""
    other = ModelGroup(name="g", kind=GroupKind.APART, models=("a", "c"))
    write_after_next_read(monkeypatch, other)
    with pytest.raises(Conflict, match="read it again"):
        await groups.put(ModelGroup(name="g", kind=GroupKind.APART, models=("a", "d")))
    await groups.put(ModelGroup(name="h", kind=GroupKind.APART, models=("c", "d")))
    assert other in (await groups.groups(ListGroups())).groups


async def test_a_rename_keeps_what_another_supervisor_writes_at_the_same_time(
    groups: Groups, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = ModelGroup(name="g", kind=GroupKind.APART, models=("a", "b", "c"))
    write_after_next_read(monkeypatch, other)
    await groups.rename_model("a", "new")
    (stored,) = (await groups.groups(ListGroups())).groups
    assert stored.models == ("new", "b", "c")
