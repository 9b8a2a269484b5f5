"""Downloads from other nodes: several downloaders on one broker, and a hub that counts bytes."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from schemas import subjects
from schemas.downloads import Download, DownloadState, LimitDownload
from schemas.errors import YardError
from schemas.library import FindFile
from tests.hub import Hub
from tests.integration.downloader_service import Queue, downloader, registry_and_watch
from tests.integration.downloads import MIB, model_bytes
from tests.integration.library_yard import Shown, shown
from tests.integration.nodes import killed, node, process, running, spoiled
from tests.support import Yard, eventually

_S = DownloadState
REPO = "org/m-GGUF"
FILE = "m-Q4_K_M.gguf"
SIZE = 20 * MIB
MODEL = model_bytes(SIZE)


@pytest.fixture
async def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Hub]:
    async with Hub() as hub:
        hub.add_repo(REPO, {FILE: MODEL})
        for name in [name for name in os.environ if name.startswith("HF_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        yield hub


@pytest.fixture
async def queue(yard: Yard) -> AsyncIterator[Queue]:
    async with registry_and_watch(yard) as queue:
        yield queue


@pytest.fixture
async def seen(yard: Yard) -> AsyncIterator[Shown]:
    async with shown(yard) as seen:
        yield seen


async def pulled(queue: Queue, at: str, **more: object) -> Download:
    """Download the repository to a node, until it has ended."""
    return await queue.until_state(await queue.start(REPO, node=at, **more), _S.FINISHED, _S.FAILED)


async def wait_until_known(seen: Shown, hub: Hub, name: str) -> None:
    """Wait until the node's library has scanned the file."""
    query = FindFile(sha256=hub.file(REPO, FILE).sha256, node=name)

    async def is_known() -> bool:
        await seen.scan(name)
        return bool((await seen.bus.call(subjects.LIBRARY_FIND, query)).files)

    await eventually(is_known, f"the library of {name} has the file")


async def test_a_file_of_another_node_is_not_fetched_from_the_hub(
    yard: Yard, hub: Hub, queue: Queue, seen: Shown
) -> None:
    a, b = node(yard, "a"), node(yard, "b")
    async with downloader(yard), running(yard, a), running(yard, b):
        first = await pulled(queue, "a")
        assert (first.state, first.received) == (_S.FINISHED, {"hub": SIZE})
        await wait_until_known(seen, hub, "a")
        before = hub.file(REPO, FILE).bytes_sent
        second = await pulled(queue, "b")
        assert (second.state, second.error) == (_S.FINISHED, None)
        assert second.received == {"a": SIZE}
        assert hub.file(REPO, FILE).bytes_sent == before
        assert (b.models / REPO / FILE).read_bytes() == MODEL
        await wait_until_known(seen, hub, "b")  # and offers it to others


async def test_without_a_hub_listing_and_files_come_from_a_peer(
    yard: Yard, hub: Hub, queue: Queue, seen: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = node(yard, "a"), node(yard, "b")
    async with downloader(yard), running(yard, a), running(yard, b):
        first = await pulled(queue, "a")
        await wait_until_known(seen, hub, "a")
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        second = await pulled(queue, "b")
        assert (second.state, second.error) == (_S.FINISHED, None)
        assert (second.received, second.revision) == ({"a": SIZE}, first.revision)
        assert (b.models / REPO / FILE).read_bytes() == MODEL
        assert queue.registry.models[REPO].source.revision == hub.repos[REPO].sha  # type: ignore[union-attr]
        unknown = await queue.start("org/elsewhere", node="b")
        failed = await queue.until_state(unknown, _S.FAILED)
        assert failed.error is not None
        assert failed.error.code == "hub_unreachable"


async def test_after_a_peer_is_killed_only_the_missing_bytes_come_from_the_hub(
    yard: Yard, hub: Hub, queue: Queue, seen: Shown, tmp_path: Path
) -> None:
    a = node(yard, "a")
    # One connection: with several, the system's buffers would hold a good part of the file.
    b = msgspec.structs.replace(node(yard, "b"), download_segments=1)
    async with downloader(yard), running(yard, b):
        async with process(yard, a, tmp_path / "a.log") as peer:
            await queue.until_state(await started(queue, "a"), _S.FINISHED)
            await wait_until_known(seen, hub, "a")
            before = hub.file(REPO, FILE).bytes_sent
            half = await arrived(seen, 4 * MIB)
            download = await queue.start(REPO, node="b", limit_bytes_s=4 * MIB)
            async with asyncio.timeout(20):
                await half
            await killed(peer)
        limit = LimitDownload(download=download.download)
        await (await yard.bus()).call(subjects.DOWNLOAD_LIMIT, limit)
        done = await queue.until_state(download, _S.FINISHED, _S.FAILED)
        assert done.error is None
        assert (b.models / REPO / FILE).read_bytes() == MODEL
        assert done.received["a"] > 4 * MIB
        again = hub.file(REPO, FILE).bytes_sent - before
        assert again == done.received["hub"] == SIZE - done.received["a"], "no byte is fetched twice"
    assert b"Bearer" not in (tmp_path / "a.log").read_bytes()


async def started(queue: Queue, name: str) -> Download:
    """Start a download as soon as the node is there."""

    async def accepted() -> Download | None:
        with contextlib.suppress(YardError):
            return await queue.start(REPO, node=name)
        return None

    download = await eventually(accepted, f"node {name} accepts the download", timeout_s=20, every_s=0.05)
    assert download is not None
    return download


async def arrived(seen: Shown, n_bytes: int) -> "asyncio.Future[None]":
    """A future that is done when a download has more than n_bytes."""
    enough: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def on_progress(_: dict[str, str], download: Download) -> None:
        if download.state is _S.TRANSFERRING and download.bytes_done > n_bytes and not enough.done():
            enough.set_result(None)

    await seen.bus.subscribe(subjects.DOWNLOAD_PROGRESS, on_progress)
    return enough


async def test_wrong_bytes_of_a_peer_are_fetched_from_the_hub_and_it_is_blacklisted(
    yard: Yard, hub: Hub, queue: Queue, seen: Shown
) -> None:
    a, b = node(yard, "a"), node(yard, "b")
    async with downloader(yard), running(yard, a), running(yard, b):
        await pulled(queue, "a")
        await wait_until_known(seen, hub, "a")
        spoiled(a.models / REPO / FILE)
        second = await pulled(queue, "b")
        assert second.error is None
        assert second.received == {"a": SIZE, "hub": SIZE}
        assert (b.models / REPO / FILE).read_bytes() == MODEL
        (b.models / REPO / FILE).unlink()
        third = await pulled(queue, "b", name="again")
        assert (third.error, third.received) == (None, {"hub": SIZE})


async def test_several_peers_share_the_pieces(yard: Yard, hub: Hub, queue: Queue, seen: Shown) -> None:
    a, b, c = node(yard, "a"), node(yard, "b"), node(yard, "c")
    async with downloader(yard), running(yard, a), running(yard, b), running(yard, c):
        for name in "ab":
            await pulled(queue, name)
            await wait_until_known(seen, hub, name)
        before = hub.file(REPO, FILE).bytes_sent
        third = await pulled(queue, "c")
        assert sum(third.received.values()) == SIZE
        assert third.received.keys() == {"a", "b"}
        assert hub.file(REPO, FILE).bytes_sent == before
