"""Back-off is reset by an edit; failures of deleted models and before a later start are deleted."""

import asyncio

import msgspec

from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketCache, BucketStore
from modelyard.bus.tasks import Tasks
from schemas import buckets
from schemas.base import Role
from schemas.instances import Instance, InstanceState
from schemas.models import ModelSpec
from services.supervisor.node.agent import NodeAgent
from services.supervisor.node.backoff import BackoffReset
from services.supervisor.node.device_memory import Reservations
from services.supervisor.runner.record import Launch
from tests.standins import instance
from tests.support import Yard

SPEC = ModelSpec(name="demo", path="demo.gguf")


async def begin_reset(bus: Bus, tasks: Tasks) -> BucketCache[Instance]:
    """The back-off reset of `testnode`, and the instances as it sees them."""
    seen: BucketCache[Instance] = await BucketCache.start(bus, buckets.INSTANCES, tasks)
    specs: BucketCache[ModelSpec] = await BucketCache.start(bus, buckets.MODELS, tasks)
    BackoffReset(bus, tasks, "testnode", specs, seen).begin()
    return seen


async def test_an_edit_closes_the_circuit_and_keeps_the_error(yard: Yard) -> None:
    bus = await yard.bus(Role.SUPERVISOR)
    models, instances = BucketStore(bus, buckets.MODELS), BucketStore(bus, buckets.INSTANCES)
    revision = await models.put("demo", SPEC)
    failed = msgspec.structs.replace(
        instance("i1", "demo", InstanceState.FAILED, error="It broke."),
        revision=revision,
        started_at=1.0,
        failures=5,
        retry_at=9e9,
        circuit_open=True,
    )
    other_node = msgspec.structs.replace(failed, instance="i2", node="other")
    await instances.put("i1", failed)
    await instances.put("i2", other_node)
    async with Tasks() as tasks, asyncio.timeout(10):
        seen = await begin_reset(bus, tasks)
        await models.put("demo", msgspec.structs.replace(SPEC, start_budget_s=600.0))
        await seen.until(lambda values: not values["i1"].circuit_open)
        now = seen.values["i1"]
        assert (now.state, now.error) == (InstanceState.FAILED, "It broke.")
        assert (now.failures, now.retry_at) == (0, None)
        assert seen.values["i2"] == other_node, "its own node writes that record"


async def test_the_failure_of_a_deleted_model_is_deleted(yard: Yard) -> None:
    """It stayed in `yard ps` forever: only the next start of its model deleted it."""
    bus = await yard.bus(Role.SUPERVISOR)
    models, instances = BucketStore(bus, buckets.MODELS), BucketStore(bus, buckets.INSTANCES)
    await models.put("demo", SPEC)
    failed = instance("i1", "demo", InstanceState.FAILED, error="It broke.")
    await instances.put("i1", failed)
    await instances.put("i2", msgspec.structs.replace(failed, instance="i2", node="other"))
    async with Tasks() as tasks, asyncio.timeout(10):
        seen = await begin_reset(bus, tasks)
        assert "i1" in seen.values
        await models.delete("demo")
        await seen.until(lambda values: "i1" not in values)
        assert "i2" in seen.values, "its own node writes that record"


async def test_a_failure_is_deleted_by_its_own_node_once_the_model_starts_on_another(yard: Yard) -> None:
    """The node of the new start deleted it, although it writes only the records of its own instances."""
    bus = await yard.bus(Role.SUPERVISOR)
    instances = BucketStore(bus, buckets.INSTANCES)
    await BucketStore(bus, buckets.MODELS).put("demo", SPEC)
    failed = msgspec.structs.replace(instance("i1", "demo", InstanceState.FAILED), changed_at=5.0)
    await instances.put("i1", failed)
    await instances.put("i2", msgspec.structs.replace(failed, instance="i2", node="third"))
    async with Tasks() as tasks, asyncio.timeout(10):
        seen = await begin_reset(bus, tasks)
        assert "i1" in seen.values
        started = instance("i3", "demo", InstanceState.STARTING)
        await instances.put("i3", msgspec.structs.replace(started, node="other", started_at=6.0))
        await seen.until(lambda values: "i1" not in values)
        assert {"i2", "i3"} <= seen.values.keys(), "its own node writes that record"


async def test_a_start_deletes_the_failures_of_its_own_node_alone(yard: Yard) -> None:
    """It deleted those of every node. Deterministic: no runner can be started, so no other record changes."""
    (yard.settings.logs / "runners.log").mkdir(parents=True)
    bus = await yard.bus(Role.SUPERVISOR)
    store: BucketStore[Instance] = BucketStore(bus, buckets.INSTANCES)
    failed = instance("i1", "demo", InstanceState.FAILED, error="It broke.")
    await store.put("i1", failed)
    await store.put("i2", msgspec.structs.replace(failed, instance="i2", node="other"))
    async with Tasks() as tasks:
        seen: BucketCache[Instance] = await BucketCache.start(bus, buckets.INSTANCES, tasks)
        agent = NodeAgent(bus, tasks, yard.settings, seen, Reservations())
        launch = Launch(instance="i3", spec=SPEC, revision=1, nats_url=yard.url)
        await agent.start(launch, ())
    assert await store.get("i1") is None
    assert await store.get("i2") is not None
