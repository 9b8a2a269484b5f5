"""The registry through the gateway: its commands over HTTP, and queued requests while it changes."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from modelyard.bus.records import BucketCache, BucketStore
from modelyard.bus.tasks import Tasks
from modelyard.host.settings import Settings
from schemas import buckets, subjects
from schemas.base import Role
from schemas.errors import DeadlineExceeded, ModelNotFound, StartFailed, YardError
from schemas.instances import InstanceState
from schemas.placement import Refusal, WaitingModel
from services.gateway.admin import AdminApi
from services.gateway.catalog import Catalog
from services.gateway.http import handle_errors
from services.gateway.inference.inference import Inference
from services.gateway.inference.request import InferRequest
from services.supervisor.service import main
from tests.integration.inference_path import PATH, SPEC, inference_path
from tests.standins import instance
from tests.support import Yard, eventually

Http = TestClient[web.Request, web.Application]


@pytest.fixture
async def http(yard: Yard, settings: Settings) -> AsyncIterator[Http]:
    app = web.Application(middlewares=[handle_errors({})])
    app.router.add_routes(AdminApi(await yard.bus(Role.GATEWAY), settings, {}).routes())
    async with Tasks() as tasks, TestClient(TestServer(app)) as client:
        await main(await yard.bus(Role.SUPERVISOR), settings, tasks)
        yield client


async def post(http: Http, verb: str, **body: Any) -> tuple[int, Any]:
    async with http.post(f"/api/command/model/{verb}", json=body) as response:
        return response.status, await response.json()


async def test_every_command_of_the_registry_is_a_route(http: Http) -> None:
    _, first = await post(http, "put", name="demo", path="demo.gguf")
    status, second = await post(http, "patch", model="demo", patch={"n_ctx": 1024, "mmproj": None})
    assert status == 200
    assert (await post(http, "get", model="demo"))[1]["spec"]["n_ctx"] == 1024
    assert [model["spec"]["name"] for model in (await post(http, "list"))[1]["models"]] == ["demo"]
    status, stale = await post(http, "patch", model="demo", patch={}, revision=first["revision"])
    assert (status, stale["error"]["code"], stale["error"]["param"]) == (409, "conflict", "revision")
    await post(http, "rename", model="demo", name="new", revision=second["revision"])
    await post(http, "apply", models=[{"name": "demo", "path": "d.gguf"}], delete=[{"model": "new"}])
    assert (await post(http, "undo", model="new"))[0] == 200
    assert (await post(http, "delete", model="new"))[1] == {"name": "new", "stopped": []}
    assert len((await post(http, "history", model="new"))[1]["revisions"]) == 4
    status, wrong = await post(http, "patch", model="demo", patch={"n_cxt": 1})
    assert (status, wrong["error"]["param"]) == (400, "n_cxt")
    status, wrong = await post(http, "put", name="a b", path="x")
    assert (status, wrong["error"]["code"]) == (400, "invalid_json")


@pytest.mark.parametrize(
    ("verb", "body", "code", "param"),
    [
        ("put", {"name": "m", "path": "m.gguf", "n_paralel": 1}, "bad_request", "n_paralel"),
        ("put", {"name": "m", "path": "m.gguf", "replicas": {"mix": 1}}, "bad_request", "replicas.mix"),
        ("apply", {"models": [{"name": "m", "path": "m.gguf"}], "dryrun": True}, "bad_request", "dryrun"),
        ("apply", {"models": [{"name": "m", "path": "m", "ttl": 1}]}, "bad_request", "models[0].ttl"),
        ("put", {"name": "m", "path": "../m.gguf"}, "bad_request", "path"),
        ("put", {"name": "m", "path": "m", "args": ["x" * 300_000]}, "bad_request", None),
    ],
)
async def test_fields_that_would_be_dropped_are_refused(
    http: Http, verb: str, body: dict[str, Any], code: str, param: str | None
) -> None:
    status, refused = await post(http, verb, **body)
    assert (status, refused["error"]["code"], refused["error"]["param"]) == (400, code, param)
    assert (await post(http, "list"))[1]["models"] == []


async def test_a_body_that_is_nested_too_deeply_is_invalid_json(http: Http) -> None:
    """It was an internal error; a spec a little less deep was stored, and then could not be decoded."""
    for body in ('{"a":' * 100_000, '{"name":"m","path":"m","env":' + "[" * 5000):
        async with http.post("/api/command/model/put", data=body) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (400, "invalid_json")
    deep = '{"name":"m","path":"m","parameters":{"defaults":{"a":' + "[" * 900 + "]" * 900 + "}}}"
    async with http.post("/api/command/model/put", data=deep) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (400, "invalid_json")


async def test_a_node_is_cordoned_over_http_by_its_name_in_the_body(http: Http, settings: Settings) -> None:
    async def cordon(**body: Any) -> tuple[int, Any]:
        async with http.post("/api/command/node/cordon", json=body) as response:
            return response.status, await response.json()

    assert await cordon(node=settings.node, cordoned=True) == (200, {"accepted": True})
    assert (settings.home / "cordoned").exists()
    assert (await cordon(node=settings.node, cordoned=False))[0] == 200
    for wrong in ({"cordoned": True}, {"node": "a.b", "cordoned": True}, {"node": 7, "cordoned": True}):
        status, refused = await cordon(**wrong)
        assert (status, refused["error"]["param"]) == (400, "node")
    assert (await cordon(node="nosuch", cordoned=True))[1]["error"]["code"] == "service_unavailable"


async def test_a_bucket_without_a_cache_is_read_from_the_broker(yard: Yard, settings: Settings) -> None:
    bus = await yard.bus(Role.GATEWAY)
    app = web.Application(middlewares=[handle_errors({})])
    app.router.add_routes(AdminApi(bus, settings, {}).routes())
    await BucketStore(await yard.bus(Role.SUPERVISOR), buckets.MODELS).put("demo", SPEC)

    async def state(bucket: str) -> tuple[int, Any]:
        async with http.get(f"/api/state/{bucket}") as response:
            return response.status, await response.json()

    async with TestClient(TestServer(app)) as http:
        status, models = await state("models")
        assert (status, [spec["name"] for spec in models.values()]) == (200, ["demo"])
        assert await state("reports") == (200, {})
        assert (await state("nothing"))[0] == 404
        await bus.nc.close()
        status, refused = await state("models")
        assert (status, refused["error"]["code"]) == (503, "broker_unavailable")


async def submit(inference: Inference) -> YardError:
    """The error that ends a request."""
    body = msgspec.json.encode({"model": "demo", "messages": []})
    with pytest.raises(YardError) as refused:
        async with inference.submit(InferRequest(path=PATH, body=body, model="demo", stream=False)) as answer:
            await answer.head()
    return refused.value


@contextlib.asynccontextmanager
async def queued_request(yard: Yard, inference: Inference) -> AsyncIterator[asyncio.Task[YardError]]:
    """A request that is queued; the task returns the error that ends it."""

    bus = await yard.bus()
    queued = await bus.nc.subscribe(subjects.REQUEST_QUEUED.wildcard)
    await bus.flush_subscriptions()
    task = asyncio.create_task(submit(inference))
    await queued.next_msg(timeout=20)
    yield task
    await asyncio.wait_for(task, 5)


async def test_a_queued_request_fails_when_its_model_is_deleted(yard: Yard) -> None:
    async with inference_path(yard) as (inference, _), queued_request(yard, inference) as refused:
        await BucketStore(await yard.bus(Role.SUPERVISOR), buckets.MODELS).delete("demo")
        assert isinstance(await asyncio.wait_for(refused, 20), ModelNotFound)


async def test_a_queued_request_follows_the_newest_spec(yard: Yard) -> None:
    async with inference_path(yard) as (inference, _), queued_request(yard, inference) as refused:
        shorter = msgspec.structs.replace(SPEC, queue_wait_s=0.1)
        await BucketStore(await yard.bus(Role.SUPERVISOR), buckets.MODELS).put("demo", shorter)
        assert isinstance(await asyncio.wait_for(refused, 20), DeadlineExceeded)


async def test_requests_of_a_refused_model_fail_at_once_until_it_has_an_instance(yard: Yard) -> None:
    """Queued ones and new ones, with the code and sentence of a failed start."""
    refused = Refusal(error="It cannot run here: it is too large.", retry_at=time.time() + 60.0)
    record = WaitingModel(model="demo", reason="it is too large", since=1.0, refused=refused)
    supervisor, bus = await yard.bus(Role.SUPERVISOR), await yard.bus(Role.GATEWAY)
    async with Tasks() as tasks, inference_path(yard) as (inference, _):
        catalog = Catalog(
            await BucketCache.start(bus, buckets.MODELS, tasks),
            await BucketCache.start(bus, buckets.INSTANCES, tasks),
            await BucketCache.start(bus, buckets.WAITING, tasks),
        )
        async with queued_request(yard, inference) as queued:
            await BucketStore(supervisor, buckets.WAITING).put("demo", record, ttl_s=60)
            error = await asyncio.wait_for(queued, 20)
        again = await asyncio.wait_for(submit(inference), 5)
        for failed in (error, again):
            assert isinstance(failed, StartFailed)
            assert failed.message == "demo could not be started. It cannot run here: it is too large."
            assert failed.retry_after_s in range(40, 61)
        await eventually(lambda: catalog.state("demo") == InstanceState.FAILED, "a refused model is failed")
        loading = instance("i", "demo", InstanceState.LOADING)
        await BucketStore(supervisor, buckets.INSTANCES).put("i", loading)
        await eventually(lambda: catalog.refusal("demo") is None, "a model with a live instance is served")
        assert catalog.state("demo") == InstanceState.LOADING
