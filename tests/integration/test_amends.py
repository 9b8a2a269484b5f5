"""A failed model that is edited gets another chance at once; the reason stays to be read."""

import asyncio

import msgspec

from modelyard.bus.records import BucketCache, BucketStore
from modelyard.bus.tasks import Tasks
from schemas import buckets
from schemas.base import Role
from schemas.instances import Instance, InstanceState
from schemas.models import ModelSpec
from services.supervisor.agent.amends import Amends
from tests.standins import instance
from tests.support import Yard

SPEC = ModelSpec(name="demo", path="demo.gguf")


async def test_an_edit_closes_the_circuit(yard: Yard) -> None:
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
    elsewhere = msgspec.structs.replace(failed, instance="i2", node="other")
    await instances.put("i1", failed)
    await instances.put("i2", elsewhere)
    async with Tasks() as tasks, asyncio.timeout(10):
        seen: BucketCache[Instance] = await BucketCache.start(bus, buckets.INSTANCES, tasks)
        specs: BucketCache[ModelSpec] = await BucketCache.start(bus, buckets.MODELS, tasks)
        Amends(bus, tasks, "testnode", specs, seen).begin()
        await models.put("demo", msgspec.structs.replace(SPEC, start_budget_s=600.0))
        await seen.until(lambda values: not values["i1"].circuit_open)
        now = seen.values["i1"]
        assert (now.state, now.error) == (InstanceState.FAILED, "It broke.")
        assert (now.failures, now.retry_at) == (0, None)
        assert seen.values["i2"] == elsewhere, "that is for its own node to say"


async def test_the_failure_of_a_model_that_left_the_registry_is_forgotten(yard: Yard) -> None:
    """It stayed in `yard ps` for ever: only the next start of its model took it away."""
    bus = await yard.bus(Role.SUPERVISOR)
    models, instances = BucketStore(bus, buckets.MODELS), BucketStore(bus, buckets.INSTANCES)
    await models.put("demo", SPEC)
    failed = instance("i1", "demo", InstanceState.FAILED, error="It broke.")
    await instances.put("i1", failed)
    await instances.put("i2", msgspec.structs.replace(failed, instance="i2", node="other"))
    async with Tasks() as tasks, asyncio.timeout(10):
        seen: BucketCache[Instance] = await BucketCache.start(bus, buckets.INSTANCES, tasks)
        specs: BucketCache[ModelSpec] = await BucketCache.start(bus, buckets.MODELS, tasks)
        Amends(bus, tasks, "testnode", specs, seen).begin()
        assert "i1" in seen.values
        await models.delete("demo")
        await seen.until(lambda values: "i1" not in values)
        assert "i2" in seen.values, "that is for its own node to say"
