"""The registry on a real broker: compare-and-set, history, undo, events, and instances that are stopped."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from nats.js import api

from modelyard.bus.connection import Bus
from modelyard.bus.ensure import ensure_bucket
from modelyard.bus.micro import Commands
from modelyard.bus.records import BucketCache, BucketStore
from modelyard.bus.tasks import Tasks
from modelyard.host.settings import Settings
from schemas import buckets, subjects
from schemas.base import Role, model_key
from schemas.errors import BadRequest, Conflict, ModelNotFound, NotFound, YardError
from schemas.instances import Accepted, InstanceState, StopInstance
from schemas.models import Mode, ModelRef, ModelSpec, ModelStored
from schemas.registry import (
    ApplyModels,
    DeleteModel,
    ListModels,
    ModelChanged,
    ModelHistory,
    PatchModel,
    PutModel,
    RenameModel,
    UndoModel,
)
from services.supervisor.service import main
from tests.standins import instance
from tests.support import Yard


class RegistryClient:
    """A caller of the registry."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus

    async def put(self, name: str = "demo", **more: Any) -> ModelStored:
        put = PutModel(**{"name": name, "path": f"{name}.gguf", **more})
        return await self.bus.call(subjects.MODEL_PUT, put)

    async def patch(self, revision: int | None = None, **patch: Any) -> ModelStored:
        request = PatchModel(model="demo", patch=patch, revision=revision)
        return await self.bus.call(subjects.MODEL_PATCH, request)

    async def spec(self, name: str = "demo") -> ModelSpec:
        return (await self.bus.call(subjects.MODEL_GET, ModelRef(model=name))).spec

    async def names(self) -> list[str]:
        listed = await self.bus.call(subjects.MODEL_LIST, ListModels())
        return [record.spec.name for record in listed.models]

    async def history(self, name: str = "demo") -> ModelHistory:
        return await self.bus.call(subjects.MODEL_HISTORY, ModelRef(model=name))

    async def undo(self, name: str = "demo", to: int | None = None) -> ModelStored:
        return await self.bus.call(subjects.MODEL_UNDO, UndoModel(model=name, to=to))

    async def refused(self, call: Any) -> YardError:
        with pytest.raises(YardError) as refused:
            await call
        return refused.value


class RegistryEvents:
    """The events of the registry, in their order."""

    def __init__(self, subscription: Any) -> None:
        self._subscription = subscription

    async def next(self) -> tuple[str, ModelChanged]:
        msg = await self._subscription.next_msg(timeout=5)
        return msg.subject, subjects.MODEL_CHANGED.decode(msg.data)


@pytest.fixture
async def registry(yard: Yard, settings: Settings) -> AsyncIterator[RegistryClient]:
    async with Tasks() as tasks:
        await main(await yard.bus(Role.SUPERVISOR), settings, tasks)
        yield RegistryClient(await yard.bus())


@pytest.fixture
async def events(yard: Yard) -> RegistryEvents:
    bus = await yard.bus()
    subscription = await bus.nc.subscribe(subjects.MODEL_CHANGED.wildcard)
    await bus.flush_subscriptions()
    return RegistryEvents(subscription)


async def test_get_and_list_by_name_alias_and_mode(registry: RegistryClient) -> None:
    stored = await registry.put(aliases=("d",))
    await registry.put("vectors", mode=Mode.EMBEDDING)
    record = await registry.bus.call(subjects.MODEL_GET, ModelRef(model="d"))
    assert record.spec == ModelSpec(name="demo", path="demo.gguf", aliases=("d",))
    assert record.revision == stored.revision
    assert await registry.names() == ["demo", "vectors"]
    vectors = await registry.bus.call(subjects.MODEL_LIST, ListModels(mode=Mode.EMBEDDING))
    assert [each.spec.name for each in vectors.models] == ["vectors"]
    assert type(await registry.refused(registry.spec("other"))) is ModelNotFound


async def test_a_change_of_a_stale_revision_is_a_conflict(registry: RegistryClient) -> None:
    first = await registry.put(revision=0)
    second = await registry.patch(first.revision, n_ctx=1024)
    stale = await registry.refused(registry.patch(first.revision, n_ctx=2048))
    assert isinstance(stale, Conflict)
    assert stale.message.startswith(f"demo has revision {second.revision} now, not revision {first.revision}")
    assert type(await registry.refused(registry.put(revision=0))) is Conflict
    assert type(await registry.refused(registry.put("new", revision=7))) is Conflict
    order = DeleteModel(model="demo", revision=first.revision)
    assert type(await registry.refused(registry.bus.call(subjects.MODEL_DELETE, order))) is Conflict
    assert (await registry.spec()).n_ctx == 1024


async def test_put_of_the_same_spec_is_no_change(registry: RegistryClient, events: RegistryEvents) -> None:
    first = await registry.put()
    assert await registry.put() == first
    await registry.patch(n_ctx=1024)
    await events.next()
    _, changed = await events.next()
    assert changed.after is not None
    assert changed.after.n_ctx == 1024


async def test_every_change_is_an_event_with_before_after_and_caller(
    registry: RegistryClient, events: RegistryEvents, yard: Yard
) -> None:
    await registry.put("org/demo:Q4")
    subject, put = await events.next()
    key = model_key("org/demo:Q4")
    assert subject == f"yard.event.model.{key}.put"
    assert (put.before, put.by) == (None, "operator")
    gateway = RegistryClient(await yard.bus(Role.GATEWAY))
    await gateway.put("org/demo:Q4", n_ctx=1024)
    _, changed = await events.next()
    assert changed.before == put.after
    assert changed.after is not None
    assert (changed.after.n_ctx, changed.by) == (1024, "gateway")
    rename = RenameModel(model="org/demo:Q4", name="short")
    await registry.bus.call(subjects.MODEL_RENAME, rename)
    subject, renamed = await events.next()
    assert subject == f"yard.event.model.{key}.renamed"
    assert renamed.before == changed.after
    assert renamed.after == msgspec.structs.replace(changed.after, name="short")
    await registry.bus.call(subjects.MODEL_DELETE, DeleteModel(model="short"))
    subject, deleted = await events.next()
    assert subject == "yard.event.model.short.deleted"
    assert (deleted.before, deleted.after) == (renamed.after, None)


async def test_history_has_the_last_20_revisions(registry: RegistryClient) -> None:
    for n_ctx in range(100, 125):
        await registry.put(n_ctx=n_ctx)
    stored = (await registry.history()).revisions
    assert [revision.spec.n_ctx for revision in stored if revision.spec] == list(range(124, 104, -1))
    assert {revision.by for revision in stored} == {"operator"}
    assert [revision.at for revision in stored] == sorted((revision.at for revision in stored), reverse=True)
    assert type(await registry.refused(registry.history("other"))) is ModelNotFound
    assert type(await registry.refused(registry.history("no name"))) is ModelNotFound


async def test_undo_is_undone_by_undo_or_goes_to_a_revision(registry: RegistryClient) -> None:
    first = await registry.put(n_ctx=100)
    await registry.put(n_ctx=200)
    await registry.put(n_ctx=300)
    await registry.undo()
    assert (await registry.spec()).n_ctx == 200
    await registry.undo()
    assert (await registry.spec()).n_ctx == 300
    await registry.undo(to=first.revision)
    assert (await registry.spec()).n_ctx == 100
    assert type(await registry.refused(registry.undo(to=999))) is NotFound


async def test_undo_restores_a_deleted_model_unless_its_alias_is_taken(registry: RegistryClient) -> None:
    await registry.put(n_ctx=200, aliases=("d",))
    await registry.bus.call(subjects.MODEL_DELETE, DeleteModel(model="d"))
    assert await registry.names() == []
    assert (await registry.history()).revisions[0].spec is None
    await registry.put("other", aliases=("d",))
    clash = await registry.refused(registry.undo())
    assert clash.message == "The name 'd' belongs to the model 'other' already."
    await registry.put("other")
    await registry.undo()
    assert (await registry.spec("d")).n_ctx == 200


async def test_a_deleted_name_can_be_put_again(registry: RegistryClient) -> None:
    await registry.put()
    await registry.bus.call(subjects.MODEL_DELETE, DeleteModel(model="demo"))
    await registry.put(n_ctx=300, revision=0)
    assert (await registry.spec()).n_ctx == 300
    assert [each.spec is None for each in (await registry.history()).revisions] == [False, True, False]


async def test_a_patch_is_checked_as_a_whole(registry: RegistryClient) -> None:
    await registry.put()
    unknown = await registry.refused(registry.patch(n_cxt=1))
    assert unknown.message == "A model has no field 'n_cxt'. Did you mean 'n_ctx'?"
    assert type(await registry.refused(registry.patch(path="../secret"))) is BadRequest
    assert (await registry.refused(registry.patch(mmproj="/etc/passwd"))).param == "mmproj"
    await registry.put("other")
    assert type(await registry.refused(registry.patch(aliases=["other"]))) is Conflict
    assert await registry.spec() == ModelSpec(name="demo", path="demo.gguf")


async def test_a_renamed_model_may_keep_its_old_name_as_alias(registry: RegistryClient) -> None:
    await registry.put(aliases=("d",))
    await registry.put("other")
    taken = RenameModel(model="d", name="other")
    assert type(await registry.refused(registry.bus.call(subjects.MODEL_RENAME, taken))) is Conflict
    await registry.bus.call(subjects.MODEL_RENAME, RenameModel(model="d", name="new", keep_alias=True))
    assert await registry.names() == ["new", "other"]
    assert (await registry.spec("demo")).aliases == ("d", "demo")
    await registry.bus.call(subjects.MODEL_RENAME, RenameModel(model="new", name="demo"))
    assert (await registry.spec()).aliases == ("d",)


async def test_many_changes_are_made_together_or_not_at_all(registry: RegistryClient) -> None:
    await registry.put("a", aliases=("one",))
    await registry.put("b", aliases=("two",))
    await registry.put("c")
    swapped = (
        PutModel(name="a", path="a.gguf", aliases=("two",)),
        PutModel(name="b", path="b.gguf", aliases=("one",)),
        PutModel(name="d", path="d.gguf", revision=0),
    )
    deletions = (DeleteModel(model="c"),)
    wrong = ApplyModels(models=(*swapped, PutModel(name="e", path="../e")), delete=deletions)
    assert type(await registry.refused(registry.bus.call(subjects.MODEL_APPLY, wrong))) is BadRequest
    right = ApplyModels(models=swapped, delete=deletions)
    dry = await registry.bus.call(subjects.MODEL_APPLY, msgspec.structs.replace(right, dry_run=True))
    assert await registry.names() == ["a", "b", "c"]
    assert await registry.bus.call(subjects.MODEL_APPLY, right) == dry
    assert (dry.stored, dry.deleted) == (("a", "b", "d"), ("c",))
    assert (await registry.spec("one")).name == "b"
    assert await registry.names() == ["a", "b", "d"]
    repeated = await registry.bus.call(subjects.MODEL_APPLY, ApplyModels(models=swapped[:2]))
    assert repeated.stored == ()


class RemoteNode:
    """Answers for a node named `elsewhere`: its instances stop when they are ordered to."""

    def __init__(self, bus: Bus) -> None:
        self.instances = BucketStore(bus, buckets.INSTANCES)
        self.stopped: list[str] = []

    async def stop(self, order: StopInstance) -> Accepted:
        self.stopped.append(order.instance)
        for state in (InstanceState.DRAINING, InstanceState.STOPPED):
            await self.instances.put(order.instance, self.of(order.instance, state))
        return Accepted()

    @staticmethod
    def of(name: str, state: InstanceState) -> Any:
        return msgspec.structs.replace(instance(name, "demo", state), node="elsewhere")


@pytest.mark.parametrize("command", [subjects.MODEL_DELETE, subjects.MODEL_RENAME, subjects.MODEL_APPLY])
async def test_a_running_model_is_deleted_or_renamed_only_by_force(
    registry: RegistryClient, yard: Yard, command: Any
) -> None:
    def request(force: bool) -> Any:
        if command is subjects.MODEL_RENAME:
            return RenameModel(model="demo", name="new", force=force)
        order = DeleteModel(model="demo", force=force)
        return order if command is subjects.MODEL_DELETE else ApplyModels(delete=(order,))

    await registry.put()
    bus = await yard.bus(Role.SUPERVISOR)
    async with Tasks() as tasks:
        node = RemoteNode(bus)
        commands = await Commands.start(bus, tasks, "another node")
        await commands.add(subjects.NODE_STOP, node.stop, node="elsewhere")
        seen = await BucketCache.start(registry.bus, buckets.INSTANCES, tasks)
        await node.instances.put("i1", node.of("i1", InstanceState.READY))
        await seen.until(lambda values: "i1" in values)
        # What the registry's own mirror shows may be a moment behind ours.
        await registry.bus.call(subjects.MODEL_START, ModelRef(model="demo"))
        refused = await registry.refused(registry.bus.call(command, request(force=False)))
        assert isinstance(refused, Conflict)
        assert "demo is running (i1)" in refused.message
        assert await registry.names() == ["demo"]
        await registry.bus.call(command, request(force=True))
        assert node.stopped == ["i1"]
    assert "demo" not in await registry.names()


async def test_an_older_bucket_gets_the_longer_history(yard: Yard) -> None:
    supervisor, gateway = await yard.bus(Role.SUPERVISOR), await yard.bus(Role.GATEWAY)
    stream = buckets.MODELS.stream
    ours = (await supervisor.js.stream_info(stream)).config
    await supervisor.js.update_stream(ours.evolve(max_msgs_per_subject=1))
    await ensure_bucket(gateway, buckets.MODELS)
    assert await _history_of(supervisor, stream) == 1, "who does not write it leaves it"
    await ensure_bucket(supervisor, buckets.MODELS)
    assert await _history_of(supervisor, stream) == 20
    await ensure_bucket(gateway, buckets.MODELS)


async def _history_of(bus: Bus, stream: str) -> int | None:
    config: api.StreamConfig = (await bus.js.stream_info(stream)).config
    return config.max_msgs_per_subject
