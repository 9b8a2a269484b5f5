"""Spans of a request, as a collector receives them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.e2e.chat_client import HELLO
from tests.e2e.yard_process import running_yard

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


@contextlib.asynccontextmanager
async def collector() -> AsyncIterator[tuple[str, asyncio.Queue[Span]]]:
    spans: asyncio.Queue[Span] = asyncio.Queue()

    async def on_export(request: web.Request) -> web.Response:
        exported = ExportTraceServiceRequest.FromString(await request.read())
        for resource in exported.resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    spans.put_nowait(span)
        return web.Response()

    app = web.Application()
    app.router.add_post("/v1/traces", on_export)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", spans
    finally:
        await runner.cleanup()


async def test_a_request_is_one_trace_from_its_client_to_its_engine(tmp_path: Path) -> None:
    async with (
        collector() as (endpoint, spans),
        running_yard(
            tmp_path / "home", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_BSP_SCHEDULE_DELAY="100"
        ) as yard,
        aiohttp.ClientSession() as session,
    ):
        body = {"model": "demo", "messages": HELLO, "max_tokens": 3}
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        async with session.post(f"{yard.url}/v1/chat/completions", json=body, headers=headers) as response:
            assert response.status == 200
        async with asyncio.timeout(20):
            by_name = {span.name: span for span in (await spans.get(), await spans.get())}
    gateway, runner = by_name["/v1/chat/completions"], by_name["engine /v1/chat/completions"]
    assert gateway.trace_id.hex() == runner.trace_id.hex() == TRACE
    assert gateway.parent_span_id.hex() == PARENT
    assert runner.parent_span_id == gateway.span_id
    attributes = {attribute.key: attribute.value for attribute in runner.attributes}
    assert attributes["gen_ai.usage.output_tokens"].int_value == 3
