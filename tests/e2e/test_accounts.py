"""Usage, prices and budgets on a whole yard: answers are counted, priced and limited."""

import asyncio
import csv
import io
import json
import random
import sys
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from schemas import subjects
from schemas.budgets import BudgetRef, PutBudget
from schemas.errors import BudgetExceeded
from schemas.models import ModelSpec
from schemas.requests import Outcome
from schemas.usage import RebuildUsage, RecordsQuery, UsageQuery, UsageReport, UsageUnit
from tests import counting_engine
from tests.e2e.chat_client import chat, post
from tests.e2e.yard_process import YardProcess, running_yard, until_service_restarted, yard_command
from tests.endurance import rounds
from tests.support import eventually

KILLS = rounds(5, 20)
"""Each takes two to three seconds."""
CLIENTS = 6
TIMEOUT_S = 30.0
COUNTED = [{"role": "user", "content": "COUNT"}]


def counting_model(file: Path) -> ModelSpec:
    program = (sys.executable, "-S", "-u", counting_engine.__file__, "{port}", str(file))
    return ModelSpec(
        name="counting", path="no/file", engine="command", args=program, aliases=("alias",), n_parallel=4
    )


@pytest.fixture
async def counting_yard(tmp_path: Path) -> AsyncIterator[tuple[YardProcess, Path]]:
    file = tmp_path / "answers"
    file.touch()
    async with running_yard(tmp_path / "home", YARD_TIME_ZONE="Europe/Berlin", YARD_CURRENCY="CHF") as yard:
        await yard.put(counting_model(file))
        yield yard, file


def answer_numbers(file: Path) -> list[int]:
    return [int(line) for line in file.read_text().split()]


async def request_until(yard: YardProcess, stop: asyncio.Event) -> None:
    """One client: sends requests until `stop`, also after a lost connection."""
    body = json.dumps({"model": "alias", "messages": COUNTED, "stream": True}).encode()
    async with aiohttp.ClientSession() as session:
        while not stop.is_set():
            try:
                url = f"{yard.url}/v1/chat/completions"
                async with session.post(
                    url, data=body, headers={"Content-Type": "application/json"}
                ) as response:
                    await response.read()
            except aiohttp.ClientError:
                await asyncio.sleep(0.05)


async def recorded_numbers(yard: YardProcess) -> list[int]:
    """The numbers of all answers with a usage record."""
    numbers, query = list[int](), RecordsQuery(outcome=Outcome.OK, model="counting")
    while True:
        page = await yard.bus.call(subjects.USAGE_RECORDS, query)
        numbers += [row.record.prompt_tokens for row in page.records]
        if page.next is None:
            return numbers
        query = RecordsQuery(outcome=Outcome.OK, model="counting", after=page.next)


async def until_counted(yard: YardProcess, count: int, **query: Any) -> UsageReport:
    async def report() -> UsageReport | None:
        report = await yard.bus.call(subjects.USAGE_QUERY, UsageQuery(**query))
        return report if report.total.requests >= count else None

    return await eventually(report, f"{count} requests are counted", timeout_s=TIMEOUT_S, every_s=0.05)


@pytest.mark.timeout(60 + 6 * KILLS)
async def test_usage_equals_the_engines_answers_after_kills_of_monitor_and_gateway(
    counting_yard: tuple[YardProcess, Path],
) -> None:
    yard, file = counting_yard
    stop, rng = asyncio.Event(), random.Random(KILLS)
    clients = [asyncio.create_task(request_until(yard, stop)) for _ in range(CLIENTS)]
    for _ in range(KILLS):
        count = len(answer_numbers(file)) + rng.randrange(5, 25)
        await eventually(
            lambda count=count: len(answer_numbers(file)) >= count,
            f"{count} answers",
            timeout_s=TIMEOUT_S,
            every_s=0.005,
        )
        name = rng.choice(["monitor", "gateway"])
        process = yard.service(name)
        process.kill()
        await until_service_restarted(yard, name, process.pid)
    stop.set()
    await asyncio.gather(*clients)
    await until_counted(yard, len(answer_numbers(file)), by=(), outcome=Outcome.OK)
    numbers = answer_numbers(file)
    assert sorted(await recorded_numbers(yard)) == numbers
    total = (await yard.bus.call(subjects.USAGE_QUERY, UsageQuery(by=(), outcome=Outcome.OK))).total
    assert (total.prompt_tokens, total.completion_tokens) == (sum(numbers), 2 * len(numbers))
    # A rebuild from the stream has the same sums.
    rebuilt = await yard.bus.call(subjects.USAGE_REBUILD, RebuildUsage(discard_older=True))
    assert (rebuilt.added, rebuilt.discarded) == (0, 0)
    assert (await yard.bus.call(subjects.USAGE_QUERY, UsageQuery(by=(), outcome=Outcome.OK))).total == total
    code, out, _ = await yard_command(yard, "storage")
    assert code == 0
    assert "EVENTS" in out
    assert "requests" in out


async def get(yard: YardProcess, path: str) -> tuple[int, str, str]:
    async with aiohttp.ClientSession() as session, session.get(yard.url + path) as response:
        return response.status, response.content_type, await response.text()


async def test_usage_has_its_price_and_can_be_exported(
    counting_yard: tuple[YardProcess, Path],
) -> None:
    yard, _ = counting_yard
    code, out, err = await yard_command(
        yard, "price", "set", "alias", "--input", "1000000", "--output", "0.5"
    )
    assert (code, out) == (0, "counting has a new price.\n"), err
    code, _, err = await yard_command(yard, "price", "set", "counting", "--tier", "prompt=0-10,input=1")
    assert code == 1
    assert "no tier has a price for 11 or more prompt tokens" in err
    for _ in range(3):
        assert (await chat(yard.url, "alias", messages=COUNTED))[0] == 200
    report = await until_counted(yard, 3)
    (row,) = report.rows
    assert (row.model, row.requests, row.cost, report.currency) == ("counting", 3, "6.000003", "CHF")
    code, out, _ = await yard_command(yard, "usage", "--by", "model,key", "--step", "day", "--csv")
    table = list(csv.DictReader(io.StringIO(out)))
    assert (table[0]["key"], table[0]["cost"], table[0]["requests"]) == ("anyone", "6.000003", "3")
    assert table[0]["at"].endswith(("T00:00:00+01:00", "T00:00:00+02:00"))
    status, kind, text = await get(yard, "/api/usage/export?format=csv&model=counting&outcome=ok")
    assert (status, kind, text.count("\n")) == (200, "text/csv", 4)
    status, kind, text = await get(yard, "/api/usage/export?format=json&since=0&limit=2")
    assert [record["prompt_tokens"] for record in json.loads(text)] == [1, 2, 3]
    status, _, text = await get(yard, "/api/usage/export?by=key,outcome&step=hour&format=json")
    assert json.loads(text)[0]["outcome"] == "ok"
    for wrong in ("format=xml", "since=soon", "by=colour", "colour=red"):
        status, _, text = await get(yard, f"/api/usage/export?{wrong}")
        assert status == 400, text
    status, forecast = await post(yard.url, "/api/command/usage/forecast", b'{"unit": "requests"}')
    assert (status, forecast["so_far"]) == (200, 3.0)
    for arguments in (
        ["save", "mine", "--by", "key", "--period", "day"],
        ["list"],
        ["run", "mine"],
        ["rm", "mine"],
    ):
        code, out, err = await yard_command(yard, "report", *arguments)
        assert code == 0, err
        assert "mine" in out or "anyone" in out


async def until_status(yard: YardProcess, expected: int) -> dict[str, Any]:
    async def body() -> dict[str, Any] | None:
        status, body = await chat(yard.url, "alias", messages=COUNTED)
        return body if status == expected else None

    return await eventually(body, f"status {expected}", timeout_s=TIMEOUT_S)


async def assert_refused_everywhere(yard: YardProcess) -> None:
    """Refused over both HTTP APIs and over NATS, and shown as exhausted."""
    url, body = f"{yard.url}/v1/chat/completions", {"model": "counting", "messages": COUNTED, "stream": True}
    async with aiohttp.ClientSession() as session:
        async with session.post(url, json=body) as response:
            assert response.status == 429
            assert 0 < int(response.headers["Retry-After"]) <= 31 * 86400
        async with session.post(f"{yard.url}/api/chat", json={**body, "model": "counting"}) as response:
            assert response.status == 429
        async with session.get(f"{yard.url}/api/state/spending") as response:
            assert (await response.json())["guests"]["level"] == "exhausted"
    with pytest.raises(BudgetExceeded):
        await yard.bus.call(subjects.OPENAI, json.dumps({**body, "stream": False}).encode(), endpoint="chat")


async def first_status(yard: YardProcess) -> int:
    """The first status of a gateway that restarts."""

    async def status() -> int | None:
        try:
            return (await chat(yard.url, "alias", messages=COUNTED))[0]
        except aiohttp.ClientError:
            return None

    return await eventually(status, "the gateway replies", timeout_s=TIMEOUT_S, every_s=0.05)


async def test_an_exhausted_budget_refuses_every_api_until_it_is_raised(
    counting_yard: tuple[YardProcess, Path],
) -> None:
    yard, _ = counting_yard
    events = asyncio.Queue[str]()

    async def on_event(tokens: dict[str, str], _state: object) -> None:
        events.put_nowait(tokens["level"])

    await yard.bus.subscribe(subjects.BUDGET_CROSSED, on_event)
    assert (await chat(yard.url, "alias", messages=COUNTED))[0] == 200
    await until_counted(yard, 1)
    # Usage before the budget counts too.
    await yard.bus.call(
        subjects.BUDGET_PUT,
        PutBudget(budget="guests", limit=Decimal(2), unit=UsageUnit.REQUESTS, key="anyone", model="alias"),
    )
    assert (await chat(yard.url, "alias", messages=COUNTED))[0] == 200
    refused = await until_status(yard, 429)
    assert refused["error"]["code"] == "budget_exceeded"
    assert "The budget guests of key anyone for counting is used up" in refused["error"]["message"]
    assert await asyncio.wait_for(events.get(), TIMEOUT_S) == "exhausted"
    await assert_refused_everywhere(yard)
    killed = yard.service("gateway")
    killed.kill()
    await until_service_restarted(yard, "gateway", killed.pid)
    assert await first_status(yard) == 429, "a new gateway refuses too"
    code, out, err = await yard_command(
        yard, "budget", "set", "guests", "--limit", "1000", "--unit", "requests"
    )
    assert code == 0, err
    await until_status(yard, 200)
    code, out, _ = await yard_command(yard, "budget", "list")
    assert "guests" in out
    assert "within" in out
    await yard.bus.call(subjects.BUDGET_DELETE, BudgetRef(budget="guests"))
