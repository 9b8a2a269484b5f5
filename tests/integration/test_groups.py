"""The groups of models on a real broker: by whatever name a model is called, and after it changed it."""

from collections.abc import AsyncIterator

import pytest

from modelyard.bus.connection import Bus
from modelyard.bus.tasks import Tasks
from modelyard.host.settings import Settings
from schemas import subjects
from schemas.base import Role
from schemas.errors import BadRequest, Conflict
from schemas.groups import GroupKind, GroupRef, ListGroups, ModelGroup
from schemas.registry import PutModel, RenameModel
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


async def test_a_model_that_is_renamed_stays_in_its_groups(operator: Bus) -> None:
    """Its name stood there as before, so the rule held for nobody any more."""
    await put(operator, "g", GroupKind.APART, "a", "b")
    await operator.call(subjects.MODEL_RENAME, RenameModel(model="a", name="new"))
    assert await models_of(operator, "g") == ("new", "b")


async def test_an_alias_stands_for_its_model(operator: Bus) -> None:
    await put(operator, "g", GroupKind.TOGETHER, "a-alias", "b", "nobody-yet")
    assert await models_of(operator, "g") == ("a", "b", "nobody-yet")
    with pytest.raises(BadRequest, match="are one model"):
        await put(operator, "h", GroupKind.APART, "a", "a-alias")


async def test_two_models_cannot_be_apart_and_together(operator: Bus) -> None:
    await put(operator, "g", GroupKind.APART, "a", "b")
    with pytest.raises(Conflict, match="a and b cannot be together: group g says apart"):
        await put(operator, "h", GroupKind.TOGETHER, "c", "b", "a")
    await put(operator, "h", GroupKind.TOGETHER, "c", "b")
    await put(operator, "g", GroupKind.TOGETHER, "a", "b")
    await operator.call(subjects.GROUP_DELETE, GroupRef(name="g"))
