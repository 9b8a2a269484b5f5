"""The registry on a real broker: compare-and-set, history, undo, events, and instances that must go."""

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


class Asking:
    """A caller of the registry, who hears its events."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus

    async def put(self, name: str = "demo", **more: Any) -> ModelStored:
        put = PutModel(**{"name": name, "path": f"{name}.gguf", **more})
        return await self.bus.call(subjects.MODEL_PUT, put)

    async def patch(self, revision: int | None = None, **patch: Any) -> ModelStored:
        asked = PatchModel(model="demo", patch=patch, revision=revision)
        return await self.bus.call(subjects.MODEL_PATCH, asked)

    async def spec(self, name: str = "demo") -> ModelSpec:
        return (await self.bus.call(subjects.MODEL_GET, ModelRef(model=name))).spec

    async def names(self) -> list[str]:
        listed = await self.bus.call(subjects.MODEL_LIST, ListModels())
        return [record.spec.name for record in listed.models]

    async def history(self, name: str = "demo") -> ModelHistory:
        return await self.bus.call(subjects.MODEL_HISTORY, ModelRef(model=name))

    async def undo(self, name: str = "demo", to: int | None = None) -> ModelStored:
        return await self.bus.call(subjects.MODEL_UNDO, UndoModel(model=name, to=to))

    async def refused(self, asking: Any) -> YardError:
        with pytest.raises(YardError) as refused:
            await asking
        return refused.value


class Heard:
    """The events of the registry, in their order."""

    def __init__(self, subscription: Any) -> None:
        self._subscription = subscription

    async def next(self) -> tuple[str, ModelChanged]:
        msg = await self._subscription.next_msg(timeout=5)
        return msg.subject, subjects.MODEL_CHANGED.decode(msg.data)


@pytest.fixture
async def asking(yard: Yard, settings: Settings) -> AsyncIterator[Asking]:
    async with Tasks() as tasks:
        await main(await yard.bus(Role.SUPERVISOR), settings, tasks)
        yield Asking(await yard.bus())


@pytest.fixture
async def heard(yard: Yard) -> Heard:
    bus = await yard.bus()
    subscription = await bus.nc.subscribe(subjects.MODEL_CHANGED.wildcard)
    await bus.flush_subscriptions()
    return Heard(subscription)


async def test_what_was_put_is_there_by_name_and_alias(asking: Asking) -> None:
    stored = await asking.put(aliases=("d",))
    await asking.put("vectors", mode=Mode.EMBEDDING)
    record = await asking.bus.call(subjects.MODEL_GET, ModelRef(model="d"))
    assert record.spec == ModelSpec(name="demo", path="demo.gguf", aliases=("d",))
    assert record.revision == stored.revision
    assert await asking.names() == ["demo", "vectors"]
    vectors = await asking.bus.call(subjects.MODEL_LIST, ListModels(mode=Mode.EMBEDDING))
    assert [each.spec.name for each in vectors.models] == ["vectors"]
    assert type(await asking.refused(asking.spec("other"))) is ModelNotFound


async def test_a_change_of_what_somebody_else_changed_is_refused(asking: Asking) -> None:
    first = await asking.put(revision=0)
    second = await asking.patch(first.revision, n_ctx=1024)
    stale = await asking.refused(asking.patch(first.revision, n_ctx=2048))
    assert isinstance(stale, Conflict)
    assert stale.message.startswith(f"demo has revision {second.revision} now, not revision {first.revision}")
    assert type(await asking.refused(asking.put(revision=0))) is Conflict
    assert type(await asking.refused(asking.put("new", revision=7))) is Conflict
    order = DeleteModel(model="demo", revision=first.revision)
    assert type(await asking.refused(asking.bus.call(subjects.MODEL_DELETE, order))) is Conflict
    assert (await asking.spec()).n_ctx == 1024


async def test_the_same_spec_again_is_no_change(asking: Asking, heard: Heard) -> None:
    first = await asking.put()
    assert await asking.put() == first
    await asking.patch(n_ctx=1024)
    await heard.next()
    _, changed = await heard.next()
    assert changed.after is not None
    assert changed.after.n_ctx == 1024


async def test_every_change_tells_before_and_after_and_who(asking: Asking, heard: Heard, yard: Yard) -> None:
    await asking.put("org/demo:Q4")
    subject, put = await heard.next()
    key = model_key("org/demo:Q4")
    assert subject == f"yard.event.model.{key}.put"
    assert (put.before, put.by) == (None, "operator")
    gateway = Asking(await yard.bus(Role.GATEWAY))
    await gateway.put("org/demo:Q4", n_ctx=1024)
    _, changed = await heard.next()
    assert changed.before == put.after
    assert changed.after is not None
    assert (changed.after.n_ctx, changed.by) == (1024, "gateway")
    rename = RenameModel(model="org/demo:Q4", name="short")
    await asking.bus.call(subjects.MODEL_RENAME, rename)
    subject, renamed = await heard.next()
    assert subject == f"yard.event.model.{key}.renamed"
    assert renamed.before == changed.after
    assert renamed.after == msgspec.structs.replace(changed.after, name="short")
    await asking.bus.call(subjects.MODEL_DELETE, DeleteModel(model="short"))
    subject, deleted = await heard.next()
    assert subject == "yard.event.model.short.deleted"
    assert (deleted.before, deleted.after) == (renamed.after, None)


async def test_the_last_20_revisions_are_kept(asking: Asking) -> None:
    for n_ctx in range(100, 125):
        await asking.put(n_ctx=n_ctx)
    kept = (await asking.history()).revisions
    assert [each.spec.n_ctx for each in kept if each.spec] == list(range(124, 104, -1))
    assert {each.by for each in kept} == {"operator"}
    assert [each.at for each in kept] == sorted((each.at for each in kept), reverse=True)
    assert type(await asking.refused(asking.history("other"))) is ModelNotFound
    assert type(await asking.refused(asking.history("no name"))) is ModelNotFound


async def test_undo_goes_back_and_forth_or_to_a_revision(asking: Asking) -> None:
    first = await asking.put(n_ctx=100)
    await asking.put(n_ctx=200)
    await asking.put(n_ctx=300)
    await asking.undo()
    assert (await asking.spec()).n_ctx == 200
    await asking.undo()
    assert (await asking.spec()).n_ctx == 300
    await asking.undo(to=first.revision)
    assert (await asking.spec()).n_ctx == 100
    assert type(await asking.refused(asking.undo(to=999))) is NotFound


async def test_undo_brings_a_deleted_model_back_unless_its_name_is_taken(asking: Asking) -> None:
    await asking.put(n_ctx=200, aliases=("d",))
    await asking.bus.call(subjects.MODEL_DELETE, DeleteModel(model="d"))
    assert await asking.names() == []
    assert (await asking.history()).revisions[0].spec is None
    await asking.put("other", aliases=("d",))
    clash = await asking.refused(asking.undo())
    assert clash.message == "The name 'd' belongs to the model 'other' already."
    await asking.put("other")
    await asking.undo()
    assert (await asking.spec("d")).n_ctx == 200


async def test_a_deleted_name_can_be_put_anew(asking: Asking) -> None:
    await asking.put()
    await asking.bus.call(subjects.MODEL_DELETE, DeleteModel(model="demo"))
    await asking.put(n_ctx=300, revision=0)
    assert (await asking.spec()).n_ctx == 300
    assert [each.spec is None for each in (await asking.history()).revisions] == [False, True, False]


async def test_a_patch_is_checked_as_a_whole(asking: Asking) -> None:
    await asking.put()
    unknown = await asking.refused(asking.patch(n_cxt=1))
    assert unknown.message == "A model has no field 'n_cxt'. Did you mean 'n_ctx'?"
    assert type(await asking.refused(asking.patch(path="../secret"))) is BadRequest
    assert (await asking.refused(asking.patch(mmproj="/etc/passwd"))).param == "mmproj"
    await asking.put("other")
    assert type(await asking.refused(asking.patch(aliases=["other"]))) is Conflict
    assert await asking.spec() == ModelSpec(name="demo", path="demo.gguf")


async def test_a_renamed_model_may_keep_its_old_name_as_alias(asking: Asking) -> None:
    await asking.put(aliases=("d",))
    await asking.put("other")
    taken = RenameModel(model="d", name="other")
    assert type(await asking.refused(asking.bus.call(subjects.MODEL_RENAME, taken))) is Conflict
    await asking.bus.call(subjects.MODEL_RENAME, RenameModel(model="d", name="new", keep_alias=True))
    assert await asking.names() == ["new", "other"]
    assert (await asking.spec("demo")).aliases == ("d", "demo")
    await asking.bus.call(subjects.MODEL_RENAME, RenameModel(model="new", name="demo"))
    assert (await asking.spec()).aliases == ("d",)


async def test_many_changes_are_made_together_or_not_at_all(asking: Asking) -> None:
    await asking.put("a", aliases=("one",))
    await asking.put("b", aliases=("two",))
    await asking.put("c")
    swapped = (
        PutModel(name="a", path="a.gguf", aliases=("two",)),
        PutModel(name="b", path="b.gguf", aliases=("one",)),
        PutModel(name="d", path="d.gguf", revision=0),
    )
    gone = (DeleteModel(model="c"),)
    wrong = ApplyModels(models=(*swapped, PutModel(name="e", path="../e")), delete=gone)
    assert type(await asking.refused(asking.bus.call(subjects.MODEL_APPLY, wrong))) is BadRequest
    right = ApplyModels(models=swapped, delete=gone)
    dry = await asking.bus.call(subjects.MODEL_APPLY, msgspec.structs.replace(right, dry_run=True))
    assert await asking.names() == ["a", "b", "c"]
    assert await asking.bus.call(subjects.MODEL_APPLY, right) == dry
    assert (dry.stored, dry.deleted) == (("a", "b", "d"), ("c",))
    assert (await asking.spec("one")).name == "b"
    assert await asking.names() == ["a", "b", "d"]
    again = await asking.bus.call(subjects.MODEL_APPLY, ApplyModels(models=swapped[:2]))
    assert again.stored == ()


class Node:
    """Takes the order to stop an instance of another node, and obeys."""

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
async def test_a_model_that_runs_leaves_by_force_alone(asking: Asking, yard: Yard, command: Any) -> None:
    def asked(force: bool) -> Any:
        if command is subjects.MODEL_RENAME:
            return RenameModel(model="demo", name="new", force=force)
        order = DeleteModel(model="demo", force=force)
        return order if command is subjects.MODEL_DELETE else ApplyModels(delete=(order,))

    await asking.put()
    bus = await yard.bus(Role.SUPERVISOR)
    async with Tasks() as tasks:
        node = Node(bus)
        commands = await Commands.start(bus, tasks, "another node")
        await commands.add(subjects.NODE_STOP, node.stop, node="elsewhere")
        seen = await BucketCache.start(asking.bus, buckets.INSTANCES, tasks)
        await node.instances.put("i1", node.of("i1", InstanceState.READY))
        await seen.until(lambda values: "i1" in values)
        # What the registry's own mirror shows may be a moment behind ours.
        await asking.bus.call(subjects.MODEL_START, ModelRef(model="demo"))
        refused = await asking.refused(asking.bus.call(command, asked(force=False)))
        assert isinstance(refused, Conflict)
        assert "demo is running (i1)" in refused.message
        assert await asking.names() == ["demo"]
        await asking.bus.call(command, asked(force=True))
        assert node.stopped == ["i1"]
    assert "demo" not in await asking.names()


async def test_a_broker_of_before_gets_the_longer_history(yard: Yard) -> None:
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
