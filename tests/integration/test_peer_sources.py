"""A transfer from peers that misbehave: it costs little, and the file is correct."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from services.downloader.errors import TransferError
from services.downloader.library.walk import ScannedFile
from services.downloader.peers.inventory import StoreFile
from services.downloader.peers.server import TOKEN_TTL_S, FileServer, FileTokens
from services.downloader.transfer.file_transfer import (
    MIN_PIECE_BYTES,
    TransferOptions,
    fetch_file,
    open_session,
)
from services.downloader.transfer.options import FileSource, PeerTimeouts, RetryPolicy
from services.downloader.worker.messages import PeerOffer
from tests.hub import Hub
from tests.integration.downloads import MIB, model_bytes
from tests.integration.library_yard import put, sha256

SIZE = 20 * MIB
MODEL = model_bytes(SIZE)
SHA256 = sha256(MODEL)
REPO, FILE = "org/m", "m.gguf"
QUICK = RetryPolicy(attempts=3, first_pause_s=0.01, max_pause_s=0.02, unreachable_s=0.0)
PEER_TIMEOUTS = PeerTimeouts(connect_s=1.0, silence_s=1.0, measured_s=0.2)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Transfer:
    """One transfer into an empty folder, with its callbacks recorded."""

    dest: Path
    hub: Hub | None
    offers: list[PeerOffer] = field(default_factory=list)
    queries: int = 0
    received: Counter[str] = field(default_factory=Counter)
    mismatches: list[tuple[str, ...]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    on_bytes: Callable[[int], None] = lambda _: None

    async def find_peers(self, _source: FileSource) -> Sequence[PeerOffer]:
        self.queries += 1
        return self.offers

    async def run(self, *, segments: int = 1) -> None:
        options = TransferOptions(
            retry_policy=QUICK,
            segments=segments,
            margin_bytes=0,
            find_peers=self.find_peers,
            peer_timeouts=PEER_TIMEOUTS,
            on_received=lambda source, count: self.received.update({source: count}),
            on_hash_mismatch=lambda _, nodes: self.mismatches.append(nodes),
            on_problem=self.problems.append,
        )
        url = None
        if self.hub is not None:
            url = f"{self.hub.url}/{REPO}/resolve/{self.hub.repos[REPO].sha}/{FILE}"
        source = FileSource(url=url, size_bytes=SIZE, sha256=SHA256, authorization="Bearer of-the-hub")
        async with open_session() as session:
            await fetch_file(session, source, self.dest, on_bytes=self.on_bytes, options=options)
        assert self.dest.read_bytes() == MODEL


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    async with Hub() as hub:
        hub.add_repo(REPO, {FILE: MODEL})
        yield hub


@pytest.fixture
def transfer(hub: Hub, tmp_path: Path) -> Transfer:
    return Transfer(tmp_path / "b" / FILE, hub)


class GoodPeer:
    """A correct peer, with the file in its store."""

    def __init__(self, root: Path) -> None:
        place = put(root, FILE, MODEL).stat()
        self.now = 0.0
        self._file = StoreFile(root, ScannedFile(FILE, place.st_size, place.st_mtime_ns))
        self._tokens = FileTokens(now=lambda: self.now)
        self.server = FileServer(self._tokens)

    async def offer(self, name: str = "good") -> PeerOffer:
        port = await self.server.listen("127.0.0.1", 0)
        token = self._tokens.issue(SHA256, self._file)
        return PeerOffer(node=name, url=f"http://127.0.0.1:{port}/files/{SHA256}", token=token)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[GoodPeer]:
    node = GoodPeer(tmp_path / "a")
    yield node
    await node.server.stop()


@asynccontextmanager
async def peer(handler: Handler, name: str = "bad") -> AsyncIterator[PeerOffer]:
    """A peer that responds as `handler` does."""
    app = web.Application()
    app.router.add_get("/{tail:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield PeerOffer(node=name, url=f"http://127.0.0.1:{runner.addresses[0][1]}/files/x", token="a-token")
    finally:
        await runner.cleanup()


def requested(request: web.Request) -> slice:
    return slice(request.http_range.start, request.http_range.stop)


def part(request: web.Request, body: bytes) -> web.Response:
    first, end = request.http_range.start, request.http_range.stop
    return web.Response(status=206, body=body, headers={"Content-Range": f"bytes {first}-{end - 1}/{SIZE}"})


async def test_several_connections_to_one_peer(transfer: Transfer, node: GoodPeer) -> None:
    transfer.offers = [await node.offer()]
    await transfer.run(segments=4)
    assert (transfer.received, transfer.queries) == ({"good": SIZE}, 1)


async def test_an_expired_token_is_renewed(transfer: Transfer, node: GoodPeer) -> None:
    transfer.offers = [await node.offer()]

    async def find_peers(_: FileSource) -> Sequence[PeerOffer]:
        transfer.queries += 1
        return [await node.offer()]

    def advance_clock(n_bytes: int) -> None:
        node.now = TOKEN_TTL_S * (n_bytes // MIN_PIECE_BYTES)

    transfer.find_peers = find_peers  # type: ignore[method-assign]
    transfer.on_bytes = advance_clock
    await transfer.run(segments=2)
    assert transfer.received == {"good": SIZE}
    assert transfer.queries > 1


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
        status=206,
        body=MODEL[requested(request)],
        headers={"Content-Range": f"bytes 0-{SIZE - 1}/{SIZE + 1}"},
    )


async def hangs(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(60)
    raise AssertionError


async def stalls(request: web.Request) -> web.StreamResponse:
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
    [refuses, lacks, fails, whole, another_part, another_size, hangs, stalls, trickles],
    ids=lambda handler: handler.__name__,
)
async def test_a_misbehaving_peer_is_replaced_by_the_hub(
    transfer: Transfer, hub: Hub, handler: Handler
) -> None:
    async with peer(handler) as offer:
        transfer.offers = [offer]
        await transfer.run()
    received = transfer.received["bad"] if handler in (stalls, trickles) else 0
    assert transfer.received["hub"] >= SIZE - 2 * received
    assert hub.file(REPO, FILE).requests == 1
    assert transfer.mismatches == []


async def test_an_unreachable_peer_costs_nothing(transfer: Transfer, node: GoodPeer) -> None:
    absent = PeerOffer(node="absent", url="http://127.0.0.1:9/files/x", token="a-token")
    transfer.offers = [absent, await node.offer()]
    await transfer.run(segments=4)
    assert transfer.received == {"good": SIZE}


async def test_wrong_bytes_cost_one_fetch_from_the_hub(transfer: Transfer, hub: Hub, node: GoodPeer) -> None:
    async def sends_zeros(request: web.Request) -> web.StreamResponse:
        return part(request, bytes(len(MODEL[requested(request)])))

    async with peer(sends_zeros, "bad") as offer:
        transfer.offers = [offer]
        await transfer.run(segments=4)
    assert transfer.mismatches == [("bad",)]
    assert transfer.received == {"bad": SIZE, "hub": SIZE}
    assert transfer.queries == 1
    assert any("bad sent wrong bytes" in sentence for sentence in transfer.problems)


async def test_wrong_bytes_of_an_earlier_process_are_attributed(transfer: Transfer, node: GoodPeer) -> None:
    """The journal records which peers sent the bytes before a restart."""
    calls = 0

    async def sends_zeros_once(request: web.Request) -> web.StreamResponse:
        nonlocal calls
        calls += 1
        if calls > 1:
            return web.Response(status=404)
        return part(request, bytes(len(MODEL[requested(request)])))

    stop = asyncio.Event()

    def enough(n_bytes: int) -> None:
        if n_bytes >= 4 * MIB:
            stop.set()

    async with peer(sends_zeros_once, "bad") as offer:
        transfer.offers = [offer]
        transfer.on_bytes = enough
        first = asyncio.create_task(transfer.run(segments=2))
        await asyncio.wait_for(stop.wait(), 10)
        first.cancel()
        await asyncio.wait({first})
    transfer.offers, transfer.on_bytes = [await node.offer()], lambda _: None
    await transfer.run(segments=2)
    assert transfer.mismatches == [("bad", "good")]


async def test_no_redirect_is_followed(transfer: Transfer, hub: Hub) -> None:
    seen: list[str | None] = []

    async def trap(request: web.Request) -> web.StreamResponse:
        seen.append(request.headers.get("Authorization"))
        return web.Response(body=MODEL)

    async with peer(trap) as target:

        async def redirects(_: web.Request) -> web.StreamResponse:
            raise web.HTTPTemporaryRedirect(target.url)

        async with peer(redirects) as offer:
            transfer.offers = [offer]
            await transfer.run()
    assert (seen, transfer.received) == ([], {"hub": SIZE})


async def test_the_tokens_of_hub_and_node_stay_apart(
    transfer: Transfer, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", hub.url.removeprefix("http://"))
    seen: list[str | None] = []

    async def cuts(request: web.Request) -> web.StreamResponse:
        seen.append(request.headers.get("Authorization"))
        return part(request, MODEL[requested(request)][:MIB])

    async with peer(cuts) as offer:
        transfer.offers = [offer]
        await transfer.run()
    assert set(seen) == {"Bearer a-token"}
    assert {request.authorization for request in hub.requests} == {"Bearer of-the-hub"}
    assert "a-token" not in repr(offer)


async def test_a_slow_peer_is_used_while_the_hub_fails(tmp_path: Path) -> None:
    async def slow(request: web.Request) -> web.StreamResponse:
        first, end = request.http_range.start, request.http_range.stop
        answer = web.StreamResponse(status=206, headers={"Content-Range": f"bytes {first}-{end - 1}/{SIZE}"})
        await answer.prepare(request)
        await answer.write(MODEL[first : first + 1000])
        await asyncio.sleep(0.25)
        await answer.write(MODEL[first + 1000 : end])
        return answer

    async with Hub() as hub, peer(slow, "slow") as offer:
        hub.add_repo(REPO, {FILE: MODEL})
        hub.file(REPO, FILE).faults.statuses = [503] * 2
        transfer = Transfer(tmp_path / "b" / FILE, hub, [offer])
        await transfer.run()
    assert transfer.received["slow"] > SIZE // 2


async def test_without_a_hub_peers_are_the_only_source(tmp_path: Path, node: GoodPeer) -> None:
    async def sends_zeros(request: web.Request) -> web.StreamResponse:
        return part(request, bytes(len(MODEL[requested(request)])))

    transfer = Transfer(tmp_path / "b" / FILE, None)
    with pytest.raises(TransferError) as no_peer:
        await transfer.run()
    assert no_peer.value.code == "no_peer"
    async with peer(sends_zeros, "bad") as offer:
        transfer.offers = [offer]
        with pytest.raises(TransferError) as wrong:
            await transfer.run()
        assert wrong.value.code == "hash_mismatch"
        assert "bad" in wrong.value.sentence
        transfer.offers = [offer, await node.offer()]
        await transfer.run(segments=2)
    assert transfer.mismatches[0] == ("bad",)
    assert set(transfer.mismatches) == {("bad",)}, "only the peer with wrong bytes is blacklisted"
