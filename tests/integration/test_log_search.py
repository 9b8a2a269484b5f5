"""Finding lines: of engines and of services, page by page, in both orders, over HTTP and by the command."""

import asyncio
import logging as stdlib
import time
from collections.abc import Iterator
from contextlib import aclosing

import pytest
import structlog

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.log_publisher import MAX_LINES, LogPublisher
from modelyard.bus.records import BucketStore
from modelyard.client import Client
from modelyard.client import logs as log_search
from modelyard.client.logs import level_of
from schemas import buckets, subjects
from schemas.base import Role
from schemas.errors import BadRequest
from schemas.instances import InstanceState
from schemas.logs import LogBatch, LogLevel, LogLine, LogOrder, LogQuery
from schemas.models import ModelSpec
from tests.commands import run_command
from tests.standins import instance
from tests.support import Yard

NOW = time.time()


async def engine(
    bus: Bus, model: str, *texts: str, at: float = NOW, node: str = "n1", name: str = ""
) -> None:
    batch = LogBatch(model=model, lines=tuple(LogLine(at=at, text=text) for text in texts))
    await bus.emit(subjects.INSTANCE_LOG, batch, node=node, instance=name or f"i-{model}")


async def found(
    client: Client, query: LogQuery, order: LogOrder = LogOrder.OLDEST, limit: int = 1000
) -> list[str]:
    """The texts of all pages."""
    texts: list[str] = []
    cursor = None
    while True:
        page = await client.search_logs(query, order=order, limit=limit, cursor=cursor)
        assert len(page.lines) <= limit
        texts += [line.text for line in page.lines]
        cursor = page.cursor
        if cursor is None:
            return texts


@pytest.fixture
def logged() -> Iterator[tuple[logs.Logger, LogPublisher]]:
    """A logger as services have it, and what goes on the wire of it."""
    root, before = stdlib.getLogger(), structlog.get_config()
    handlers, level = root.handlers[:], root.level
    wire = LogPublisher()
    logs.configure("info", wire)
    yield logs.get("test"), wire
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**before)


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("llama_model_load: error loading model", LogLevel.ERROR),
        ("0.01.234.567 E srv: no", LogLevel.ERROR),
        ("W srv: low", LogLevel.WARNING),
        ("warning: old format", LogLevel.WARNING),
        ("main: server is listening", LogLevel.INFO),
        ("D slot update", LogLevel.DEBUG),
        ("terror", LogLevel.INFO),
    ],
)
def test_the_level_of_an_engine_line_is_guessed_from_its_text(text: str, level: LogLevel) -> None:
    assert level_of(LogLine(at=1, text=text)) is level
    assert level_of(LogLine(at=1, text=text, level="warning")) is LogLevel.WARNING


async def test_lines_are_found_by_source_and_text(yard: Yard, client: Client) -> None:
    runner = await yard.bus(Role.RUNNER)
    await engine(runner, "a", "Hello one", "an ERROR here", at=NOW - 100)
    await engine(runner, "b", "hello two", at=NOW - 50, node="n2", name="0123456789abcdef")
    for query, expected in (
        (LogQuery(), ["Hello one", "an ERROR here", "hello two"]),
        (LogQuery(text="HELLO"), ["Hello one", "hello two"]),
        (LogQuery(model="a"), ["Hello one", "an ERROR here"]),
        (LogQuery(node="n2"), ["hello two"]),
        (LogQuery(instance="0123456789abcdef"), ["hello two"]),
        (LogQuery(level=LogLevel.WARNING), ["an ERROR here"]),
        (LogQuery(since=NOW - 60), ["hello two"]),
        (LogQuery(until=NOW - 60), ["Hello one", "an ERROR here"]),
        (LogQuery(since=NOW - 60, until=NOW - 55), []),
        (LogQuery(service="gateway"), []),
    ):
        assert await found(client, query) == expected, query
        assert await found(client, query, LogOrder.NEWEST) == expected[::-1], query


@pytest.mark.parametrize("order", list(LogOrder))
@pytest.mark.parametrize("limit", [1, 7, 1000])
async def test_pages_have_every_line_once(
    yard: Yard, client: Client, order: LogOrder, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_search, "_WINDOW", 8)
    monkeypatch.setattr(log_search, "_MAX_SCANNED", 20)
    runner = await yard.bus(Role.RUNNER)
    for number in range(60):
        model = "a" if number % 10 == 0 else "b"
        await engine(runner, model, *(f"{number}.{part} {model}" for part in range(3)))
    expected = [f"{number}.{part} a" for number in range(0, 60, 10) for part in range(3)]
    texts = await found(client, LogQuery(model="a"), order, limit)
    assert texts == (expected if order is LogOrder.OLDEST else expected[::-1])


async def test_an_empty_yard_has_no_lines(client: Client) -> None:
    for order in LogOrder:
        assert await found(client, LogQuery(), order) == []


@pytest.mark.parametrize("cursor", ["x", "1", "1.2.3", "-1.0", "9" * 40 + ".0"])
async def test_an_invalid_cursor_is_refused(client: Client, cursor: str) -> None:
    with pytest.raises(BadRequest, match="cursor"):
        await client.search_logs(LogQuery(), cursor=cursor)
    with pytest.raises(BadRequest, match="limit"):
        await client.search_logs(LogQuery(), limit=0)
    with pytest.raises(BadRequest, match="token"):
        await client.search_logs(LogQuery(node="a.>"))


async def test_following_has_no_gap_between_stored_and_new_lines(yard: Yard, client: Client) -> None:
    runner = await yard.bus(Role.RUNNER)
    await engine(runner, "a", "past")
    async with asyncio.timeout(20), aclosing(client.find_logs(LogQuery(model="a"), follow=True)) as lines:
        assert (await anext(lines)).text == "past"
        await engine(runner, "b", "another's")
        await engine(runner, "a", "present")
        assert (await anext(lines)).text == "present"


async def test_a_service_line_is_found_with_its_level_and_model(
    yard: Yard, client: Client, logged: tuple[logs.Logger, LogPublisher]
) -> None:
    gateway = await yard.bus(Role.GATEWAY)
    log, wire = logged
    log.info("request_refused", model="demo", status=429)
    log.debug("not_told")
    try:
        {}["nothing"]
    except KeyError:
        log.exception("it_failed")
    await wire.send(gateway, "gateway")
    async with asyncio.timeout(20):
        while not (await client.search_logs(LogQuery())).lines:
            await asyncio.sleep(0.02)
    (line,) = (await client.search_logs(LogQuery(model="demo"))).lines
    assert (line.text, line.level, line.source, line.node) == (
        "request_refused model=demo status=429",
        "info",
        "gateway",
        "testnode",
    )
    (error,) = (await client.search_logs(LogQuery(level=LogLevel.ERROR, service="gateway"))).lines
    assert error.text.startswith("it_failed\nTraceback")
    assert await found(client, LogQuery(text="not_told")) == []


async def test_a_flood_is_truncated_with_its_count(
    yard: Yard, client: Client, logged: tuple[logs.Logger, LogPublisher]
) -> None:
    monitor = await yard.bus(Role.MONITOR)
    log, wire = logged
    for number in range(5000):
        log.info("flood", number=number)
    heard: asyncio.Queue[object] = asyncio.Queue()

    async def on_batch(_: dict[str, str], batch: object) -> None:
        heard.put_nowait(batch)

    await client.bus.subscribe(subjects.SERVICE_LOG, on_batch)
    await wire.send(monitor, "monitor")
    await wire.send(monitor, "monitor")
    log.info("after")
    await wire.send(monitor, "monitor")
    try:
        async with asyncio.timeout(20):
            first, second = await heard.get(), await heard.get()
    except TimeoutError:
        pytest.fail(f"sent {monitor.nc.stats}, received {client.bus.nc.stats}")
    assert (len(first.lines), first.dropped) == (MAX_LINES, 5000 - MAX_LINES)  # type: ignore[attr-defined]
    assert (len(second.lines), second.dropped) == (1, 0)  # type: ignore[attr-defined]


async def test_the_command_searches_and_follows(yard: Yard, client: Client) -> None:
    runner, supervisor = await yard.bus(Role.RUNNER), await yard.bus(Role.SUPERVISOR)
    await BucketStore(supervisor, buckets.MODELS).put(
        "demo", ModelSpec(name="demo", path="p", aliases=("d",))
    )
    await BucketStore(supervisor, buckets.INSTANCES).put(
        "i-demo", instance("i-demo", "demo", InstanceState.READY)
    )
    await engine(runner, "demo", "first", "a warning", "last")
    await engine(runner, "other", "else")
    plain = await run_command(yard, "logs", "--grep", "warn")
    assert plain.out.endswith("n1  warning  demo: a warning\n")
    texts = [line["text"] for line in (await run_command(yard, "logs", "d", "--newest", "--json")).lines]
    assert texts == ["last", "a warning", "first"]
    assert [line["text"] for line in (await run_command(yard, "logs", "-n", "1", "--json")).lines] == [
        "first"
    ]
    assert (await run_command(yard, "logs", "demo")).out == "first\na warning\nlast\n"
