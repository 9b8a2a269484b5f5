"""A transfer between nodes that do what they should not: each costs little, and the file is right."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from services.downloader.backoff import RetryPolicy
from services.downloader.errors import TransferError
from services.downloader.givers import Pace
from services.downloader.library.walk import StoreFile
from services.downloader.peers.grants import TTL_S, Given, Grants
from services.downloader.peers.server import Server
from services.downloader.source import Source
from services.downloader.transfer import MIN_PIECE_BYTES, Options, fetch_file, open_session
from services.downloader.worker_messages import Offer
from tests.hub import Hub
from tests.integration.downloads import MIB, model_bytes
from tests.integration.library_yard import put, sha256

SIZE = 20 * MIB
MODEL = model_bytes(SIZE)
SHA256 = sha256(MODEL)
REPO, FILE = "org/m", "m.gguf"
QUICK = RetryPolicy(attempts=3, first_pause_s=0.01, max_pause_s=0.02, unreachable_s=0.0)
PACE = Pace(connect_s=1.0, silence_s=1.0, waited_s=0.2)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Fetching:
    """One transfer into an empty folder, and everything that it said."""

    dest: Path
    hub: Hub | None
    offers: list[Offer] = field(default_factory=list)
    seeks: int = 0
    received: Counter[str] = field(default_factory=Counter)
    lies: list[tuple[str, ...]] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    on_bytes: Callable[[int], None] = lambda _: None

    async def seek(self, _source: Source) -> Sequence[Offer]:
        self.seeks += 1
        return self.offers

    async def run(self, *, segments: int = 1) -> None:
        options = Options(
            policy=QUICK,
            segments=segments,
            margin_bytes=0,
            seek=self.seek,
            pace=PACE,
            on_received=lambda source, count: self.received.update({source: count}),
            on_lie=lambda _, nodes: self.lies.append(nodes),
            on_trouble=self.troubles.append,
        )
        url = None
        if self.hub is not None:
            url = f"{self.hub.url}/{REPO}/resolve/{self.hub.repos[REPO].sha}/{FILE}"
        source = Source(url=url, size_bytes=SIZE, sha256=SHA256, authorization="Bearer of-the-hub")
        async with open_session() as session:
            await fetch_file(session, source, self.dest, on_bytes=self.on_bytes, options=options)
        assert self.dest.read_bytes() == MODEL


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    async with Hub() as hub:
        hub.add_repo(REPO, {FILE: MODEL})
        yield hub


@pytest.fixture
def fetching(hub: Hub, tmp_path: Path) -> Fetching:
    return Fetching(tmp_path / "b" / FILE, hub)


class Node:
    """A node as it should be, with the file in its store."""

    def __init__(self, root: Path) -> None:
        place = put(root, FILE, MODEL).stat()
        self.now = 0.0
        self._given = Given(root, StoreFile(FILE, place.st_size, place.st_mtime_ns))
        self._grants = Grants(now=lambda: self.now)
        self.server = Server(self._grants)

    async def offer(self, name: str = "good") -> Offer:
        port = await self.server.listen("127.0.0.1", 0)
        token = self._grants.issue(SHA256, self._given)
        return Offer(node=name, url=f"http://127.0.0.1:{port}/files/{SHA256}", token=token)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    node = Node(tmp_path / "a")
    yield node
    await node.server.stop()


@asynccontextmanager
async def odd(handler: Handler, name: str = "odd") -> AsyncIterator[Offer]:
    """A node that answers as `handler` does."""
    app = web.Application()
    app.router.add_get("/{tail:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield Offer(node=name, url=f"http://127.0.0.1:{runner.addresses[0][1]}/files/x", token="a-token")
    finally:
        await runner.cleanup()


def asked(request: web.Request) -> slice:
    return slice(request.http_range.start, request.http_range.stop)


def part(request: web.Request, body: bytes) -> web.Response:
    first, end = request.http_range.start, request.http_range.stop
    return web.Response(status=206, body=body, headers={"Content-Range": f"bytes {first}-{end - 1}/{SIZE}"})


async def test_several_connections_to_one_node(fetching: Fetching, node: Node) -> None:
    fetching.offers = [await node.offer()]
    await fetching.run(segments=4)
    assert (fetching.received, fetching.seeks) == ({"good": SIZE}, 1)


async def test_a_token_that_expires_in_the_middle_is_renewed(fetching: Fetching, node: Node) -> None:
    fetching.offers = [await node.offer()]

    async def seek(_: Source) -> Sequence[Offer]:
        fetching.seeks += 1
        return [await node.offer()]

    def late(n_bytes: int) -> None:
        node.now = TTL_S * (n_bytes // MIN_PIECE_BYTES)

    fetching.seek = seek  # type: ignore[method-assign]
    fetching.on_bytes = late
    await fetching.run(segments=2)
    assert fetching.received == {"good": SIZE}
    assert fetching.seeks > 1


async def refuses(_: web.Request) -> web.StreamResponse:
    return web.Response(status=401)


async def lacks(_: web.Request) -> web.StreamResponse:
    return web.Response(status=404)


async def fails(_: web.Request) -> web.StreamResponse:
    return web.Response(status=500, headers={"Retry-After": "600"})


async def whole(_: web.Request) -> web.StreamResponse:
    return web.Response(body=MODEL)


async def another_part(_: web.Request) -> web.StreamResponse:
    return web.Response(status=206, body=MODEL[:5], headers={"Content-Range": f"bytes 3-7/{SIZE}"})


async def another_size(request: web.Request) -> web.StreamResponse:
    return web.Response(
        status=206, body=MODEL[asked(request)], headers={"Content-Range": f"bytes 0-{SIZE - 1}/{SIZE + 1}"}
    )


async def hangs(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(60)
    raise AssertionError


async def says_nothing_more(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse(status=206, headers={"Content-Range": f"bytes 0-{SIZE - 1}/{SIZE}"})
    await answer.prepare(request)
    await answer.write(MODEL[:MIB])
    await asyncio.sleep(60)
    return answer


async def trickles(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse(status=206, headers={"Content-Range": f"bytes 0-{SIZE - 1}/{SIZE}"})
    await answer.prepare(request)
    for at in range(0, SIZE, 1000):
        await answer.write(MODEL[at : at + 1000])
        await asyncio.sleep(0.05)
    return answer


@pytest.mark.parametrize(
    "handler",
    [refuses, lacks, fails, whole, another_part, another_size, hangs, says_nothing_more, trickles],
    ids=lambda handler: handler.__name__,
)
async def test_a_node_that_does_not_do_its_part_is_left_for_the_hub(
    fetching: Fetching, hub: Hub, handler: Handler
) -> None:
    async with odd(handler) as offer:
        fetching.offers = [offer]
        await fetching.run()
    kept = fetching.received["odd"] if handler in (says_nothing_more, trickles) else 0
    assert fetching.received["hub"] >= SIZE - 2 * kept
    assert hub.file(REPO, FILE).requests == 1
    assert fetching.lies == []


async def test_a_node_that_nobody_reaches_and_one_that_is_no_more_cost_nothing(
    fetching: Fetching, node: Node
) -> None:
    gone = Offer(node="gone", url="http://127.0.0.1:9/files/x", token="a-token")
    fetching.offers = [gone, await node.offer()]
    await fetching.run(segments=4)
    assert fetching.received == {"good": SIZE}


async def test_wrong_bytes_cost_one_fetch_from_the_hub(fetching: Fetching, hub: Hub, node: Node) -> None:
    async def lies(request: web.Request) -> web.StreamResponse:
        return part(request, bytes(len(MODEL[asked(request)])))

    async with odd(lies, "liar") as offer:
        fetching.offers = [offer]
        await fetching.run(segments=4)
    assert fetching.lies == [("liar",)]
    assert fetching.received == {"liar": SIZE, "hub": SIZE}
    assert fetching.seeks == 1
    assert any("liar gave wrong bytes" in one for one in fetching.troubles)


async def test_a_liar_of_an_earlier_life_is_found_out(fetching: Fetching, node: Node) -> None:
    """What was fetched before a restart is judged with the rest: the journal says who gave it."""
    calls = 0

    async def lies_once(request: web.Request) -> web.StreamResponse:
        nonlocal calls
        calls += 1
        if calls > 1:
            return web.Response(status=404)
        return part(request, bytes(len(MODEL[asked(request)])))

    stop = asyncio.Event()

    def enough(n_bytes: int) -> None:
        if n_bytes >= 4 * MIB:
            stop.set()

    async with odd(lies_once, "liar") as offer:
        fetching.offers = [offer]
        fetching.on_bytes = enough
        first = asyncio.create_task(fetching.run(segments=2))
        await asyncio.wait_for(stop.wait(), 10)
        first.cancel()
        await asyncio.wait({first})
    fetching.offers, fetching.on_bytes = [await node.offer()], lambda _: None
    await fetching.run(segments=2)
    assert fetching.lies == [("good", "liar")]


async def test_no_redirect_is_followed(fetching: Fetching, hub: Hub) -> None:
    seen: list[str | None] = []

    async def trap(request: web.Request) -> web.StreamResponse:
        seen.append(request.headers.get("Authorization"))
        return web.Response(body=MODEL)

    async with odd(trap) as target:

        async def redirects(_: web.Request) -> web.StreamResponse:
            raise web.HTTPTemporaryRedirect(target.url)

        async with odd(redirects) as offer:
            fetching.offers = [offer]
            await fetching.run()
    assert (seen, fetching.received) == ([], {"hub": SIZE})


async def test_the_tokens_of_hub_and_node_stay_apart(
    fetching: Fetching, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", hub.url.removeprefix("http://"))
    seen: list[str | None] = []

    async def cuts(request: web.Request) -> web.StreamResponse:
        seen.append(request.headers.get("Authorization"))
        return part(request, MODEL[asked(request)][:MIB])

    async with odd(cuts) as offer:
        fetching.offers = [offer]
        await fetching.run()
    assert set(seen) == {"Bearer a-token"}
    assert {one.authorization for one in hub.seen} == {"Bearer of-the-hub"}
    assert "a-token" not in repr(offer)


async def test_when_the_hub_is_away_a_slow_node_is_better_than_nothing(tmp_path: Path) -> None:
    async def slow(request: web.Request) -> web.StreamResponse:
        first, end = request.http_range.start, request.http_range.stop
        answer = web.StreamResponse(status=206, headers={"Content-Range": f"bytes {first}-{end - 1}/{SIZE}"})
        await answer.prepare(request)
        await answer.write(MODEL[first : first + 1000])
        await asyncio.sleep(0.25)
        await answer.write(MODEL[first + 1000 : end])
        return answer

    async with Hub() as hub, odd(slow, "slow") as offer:
        hub.add_repo(REPO, {FILE: MODEL})
        hub.file(REPO, FILE).faults.statuses = [503] * 2
        fetching = Fetching(tmp_path / "b" / FILE, hub, [offer])
        await fetching.run()
    assert fetching.received["slow"] > SIZE // 2


async def test_without_a_hub_the_other_nodes_are_all_there_is(tmp_path: Path, node: Node) -> None:
    async def lies(request: web.Request) -> web.StreamResponse:
        return part(request, bytes(len(MODEL[asked(request)])))

    fetching = Fetching(tmp_path / "b" / FILE, None)
    with pytest.raises(TransferError) as nobody:
        await fetching.run()
    assert nobody.value.code == "no_giver"
    async with odd(lies, "liar") as offer:
        fetching.offers = [offer]
        with pytest.raises(TransferError) as wrong:
            await fetching.run()
        assert wrong.value.code == "hash_mismatch"
        assert "liar" in wrong.value.sentence
        fetching.offers = [offer, await node.offer()]
        await fetching.run(segments=2)
    assert fetching.lies[0] == ("liar",)
    assert set(fetching.lies) == {("liar",)}, "who is honest is not blamed for another"
