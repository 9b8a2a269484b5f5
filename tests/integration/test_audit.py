"""Every change is on record with who asked for it, over NATS and over HTTP; so is what was refused."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import aiohttp
import msgspec
import pytest

from modelyard.bus.audit import actor_headers
from modelyard.bus.connection import Bus
from modelyard.bus.tasks import Tasks
from modelyard.client import Client
from modelyard.host.settings import Settings
from modelyard.up.child import claim_port
from schemas import subjects
from schemas.audit import Actor, Audited, AuditOutcome
from schemas.base import Role
from schemas.errors import Conflict, ModelNotFound
from schemas.models import ModelSpec
from schemas.registry import ApplyModels, GroupRef, ListModels, PutModel
from services.gateway.service import main as gateway_main
from services.supervisor.service import main as supervisor_main
from tests.commands import run_command
from tests.support import Yard

TIMEOUT_S = 20.0
KEY = "sesame-sesame-sesame"
DEMO = ModelSpec(name="demo", path="demo.gguf", env={"HF_TOKEN": "hf_secret"})


@pytest.fixture
async def supervisor(yard: Yard) -> AsyncIterator[Bus]:
    (yard.settings.models / "demo.gguf").write_bytes(b"GGUF")
    bus = await yard.bus(Role.SUPERVISOR)
    async with Tasks() as tasks:
        await supervisor_main(bus, yard.settings, tasks)
        yield bus
    await bus.close()


@asynccontextmanager
async def gateway(yard: Yard) -> AsyncIterator[str]:
    (yard.settings.credentials / "api-keys").write_text(f"{KEY}\n")
    settings: Settings = msgspec.structs.replace(yard.settings, port=claim_port("127.0.0.1", 0, "YARD_PORT"))
    bus = await yard.bus(Role.GATEWAY)
    async with Tasks() as tasks:
        await gateway_main(bus, settings, tasks)
        yield f"http://127.0.0.1:{settings.port}"
    await bus.close()


async def audit(client: Client) -> list[Audited]:
    return [record async for record in client.audit()]


async def test_a_change_is_audited_before_its_reply(supervisor: Bus, client: Client) -> None:
    await client.registry.put(DEMO)
    (put,) = await audit(client)
    assert (put.command, put.target, put.outcome) == ("model.put", "demo", AuditOutcome.DONE)
    assert put.by.role is Role.OPERATOR
    assert put.by.user
    assert put.by.node == "testnode"
    (change,) = put.changes
    assert (change.what, change.before, change.after["path"]) == ("model demo", None, "demo.gguf")
    assert "hf_secret" not in msgspec.json.encode(put).decode()


async def test_before_and_after_have_only_the_differences(supervisor: Bus, client: Client) -> None:
    await client.registry.put(DEMO)
    await client.registry.patch(model="demo", patch={"n_ctx": 4096})
    await client.registry.delete("demo")
    _, patched, deleted = await audit(client)
    assert (patched.command, patched.changes[0].after) == ("model.patch", {"n_ctx": 4096})
    assert deleted.changes[0].after is None


async def test_a_refusal_is_audited_with_its_code(supervisor: Bus, client: Client) -> None:
    with pytest.raises(ModelNotFound):
        await client.registry.delete("unknown")
    await client.registry.put(DEMO)
    with pytest.raises(Conflict):
        await client.registry.put(msgspec.structs.replace(DEMO, n_ctx=1024), revision=99)
    await client.bus.nc.request(subjects.MODEL_PUT(), b"nonsense", timeout=5)
    first, _, third, fourth = await audit(client)
    codes = [record.error.code if record.error else None for record in (first, third, fourth)]
    assert codes == ["model_not_found", "conflict", "invalid_json"]
    assert {record.outcome for record in (first, third, fourth)} == {AuditOutcome.REFUSED}
    assert not third.changes


async def test_a_read_and_a_dry_run_are_not_audited(supervisor: Bus, client: Client) -> None:
    put = PutModel(**msgspec.structs.asdict(DEMO))
    await client.registry.records()
    await client.bus.call(subjects.MODEL_LIST, ListModels())
    await client.bus.call(subjects.MODEL_APPLY, ApplyModels(models=(put,), dry_run=True))
    assert await audit(client) == []
    await client.bus.call(subjects.MODEL_APPLY, ApplyModels(models=(put,)))
    (applied,) = await audit(client)
    assert [change.what for change in applied.changes] == ["model demo"]


async def test_the_actor_over_http_is_the_key_and_ignores_client_headers(
    yard: Yard, supervisor: Bus, client: Client
) -> None:
    forged = actor_headers(Actor(role=Role.OPERATOR, key="another", user="root", address="8.8.8.8"))
    async with gateway(yard) as url, aiohttp.ClientSession() as session:
        for name in ("one", "two"):
            spec = ModelSpec(name=name, path="demo.gguf")
            async with session.post(
                f"{url}/api/command/model/put",
                data=msgspec.json.encode(spec),
                headers={**forged, "Authorization": f"Bearer {KEY}", "X-Forwarded-For": "8.8.8.8"},
            ) as answer:
                assert answer.status == 200, await answer.text()
    for record in await audit(client):
        assert record.by.role is Role.GATEWAY
        assert (record.by.address, record.by.user) == ("127.0.0.1", None)
        assert record.by.key is not None
        assert len(record.by.key) == 12
        assert record.by.key not in ("another", KEY)


async def test_the_actor_over_nats_is_the_reported_user_and_never_a_key(
    supervisor: Bus, client: Client
) -> None:
    headers = actor_headers(Actor(role=Role.GATEWAY, key="k", user="eve", address="1.1.1.1"))
    data = subjects.GROUP_DELETE.encode(GroupRef(name="unknown"))
    await client.bus.nc.request(subjects.GROUP_DELETE(), data, timeout=5, headers=headers)
    (refused,) = await audit(client)
    assert refused.by == Actor(role=Role.OPERATOR, user="eve")


async def test_the_command_shows_and_filters_audit_records(
    yard: Yard, supervisor: Bus, client: Client
) -> None:
    await client.registry.put(DEMO)
    with pytest.raises(ModelNotFound):
        await client.registry.delete("unknown")
    everything = (await run_command(yard, "audit")).out.splitlines()
    assert len(everything) == 2
    assert "model.put demo  model demo added" in everything[0]
    assert "model.delete unknown  refused (model_not_found)" in everything[1]
    assert (await run_command(yard, "audit", "--refused")).out.splitlines() == everything[1:]
    only = await run_command(yard, "audit", "--what", "demo", "--who", "testnode")
    assert only.out.splitlines() == everything[:1]
    (line,) = (await run_command(yard, "audit", "--refused", "--json")).lines
    assert line["error"]["code"] == "model_not_found"


async def test_events_are_filtered_by_kind_and_model(yard: Yard, supervisor: Bus, client: Client) -> None:
    await client.registry.put(DEMO)
    await client.registry.put(ModelSpec(name="other", path="demo.gguf"))

    async def lines(*args: str) -> list[str]:
        return [line.split()[2] for line in (await run_command(yard, "events", *args)).out.splitlines()]

    async with asyncio.timeout(TIMEOUT_S), aclosing(client.events(kind="model")) as events:
        for _ in range(2):
            await anext(events)
    assert await lines("--kind", "audit", "--model", "demo") == ["audit.done"]
    assert sorted(await lines("--model", "other")) == ["audit.done", "model.put"]
