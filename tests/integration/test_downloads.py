"""The queue of downloads on a real broker, against a hub on loopback."""

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from schemas import subjects
from schemas.downloads import (
    AddDownloads,
    Download,
    DownloadRef,
    DownloadState,
    LimitDownload,
    MoveDownload,
)
from schemas.errors import BadRequest, Conflict, NotFound, ServiceUnavailable, YardError
from tests.hub import Hub
from tests.integration.downloader_service import Queue, downloader, registry_and_watch
from tests.integration.downloads import MIB, model_bytes
from tests.support import Yard

_S = DownloadState
SIZE = 4 * MIB
SLOW = MIB // 8


@pytest.fixture
async def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Hub]:
    async with Hub() as hub:
        for name in "abcde":
            files = {
                f"{name}-Q4_K_M.gguf": model_bytes(SIZE, seed=ord(name)),
                f"{name}-Q8_0.gguf": b"GGUF" * 9,
            }
            hub.add_repo(f"org/{name}", files)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        yield hub


@pytest.fixture
async def queue(yard: Yard, hub: Hub) -> AsyncIterator[Queue]:
    async with registry_and_watch(yard) as queue:
        yield queue


def slow_down(hub: Hub, *names: str, bytes_per_s: float | None = SLOW) -> None:
    for name in names:
        hub.file(f"org/{name}", f"{name}-Q4_K_M.gguf").faults.bytes_per_s = bytes_per_s


async def order(queue: Queue, command: object, download: Download, **more: object) -> Download:
    bus = await queue.yard.bus()
    payload = msgspec.convert({"download": download.download, **more}, command.payload)  # type: ignore[attr-defined]
    return await bus.call(command, payload)  # type: ignore[arg-type,no-any-return]


async def refusal(queue: Queue, command: object, download: Download, **more: object) -> YardError:
    with pytest.raises(YardError) as caught:
        await order(queue, command, download, **more)
    assert caught.value.message.endswith(".")
    return caught.value


async def test_of_a_pasted_text_each_is_taken_or_refused_alone(yard: Yard, hub: Hub, queue: Queue) -> None:
    async with downloader(yard):
        text = f"org/a, {hub.url}/org/b\n../etc/passwd org/c:Q4_K_M org/none"
        answer = await (await yard.bus()).call(subjects.DOWNLOAD_ADD, AddDownloads(text=text))
        *taken, last = [one.download for one in answer.added if one.download]
        assert [one.error.code for one in answer.added if one.error] == ["bad_request"]
        assert [one.reference for one in taken] == ["org/a", "org/b", "org/c:Q4_K_M"]
        for one in taken:
            await queue.until_state(one, _S.FINISHED)
        assert (await queue.until_state(last, _S.FAILED)).error is not None
    assert sorted(queue.registry.models) == ["org/a", "org/b", "org/c:Q4_K_M"]
    assert queue.registry.models["org/a"].path == "org/a/a-Q4_K_M.gguf"


@pytest.mark.parametrize("text", ["", "# org/a", "org/a " + " ".join(f"org/m{n}" for n in range(500))])
async def test_a_text_that_names_nothing_or_too_much_is_refused(
    yard: Yard, hub: Hub, queue: Queue, text: str
) -> None:
    async with downloader(yard):
        with pytest.raises(BadRequest):
            await (await yard.bus()).call(subjects.DOWNLOAD_ADD, AddDownloads(text=text))
    assert queue.mirror.values == {}


async def test_so_many_are_at_work_and_the_next_is_the_one_moved_to_the_front(
    yard: Yard, hub: Hub, queue: Queue
) -> None:
    slow_down(hub, *"abcde")
    async with downloader(yard):
        first = [await queue.start(f"org/{name}") for name in "abcde"]
        for one in first[:2]:
            await queue.until_state(one, _S.TRANSFERRING)
        assert {queue.mirror.values[one.download].state for one in first[2:]} == {_S.QUEUED}
        assert isinstance(await refusal(queue, subjects.DOWNLOAD_MOVE, first[0]), Conflict)
        await order(queue, subjects.DOWNLOAD_MOVE, first[4], to=0)
        await order(queue, subjects.DOWNLOAD_CANCEL, first[0])
        await queue.until_state(first[4], _S.TRANSFERRING)
        assert {queue.mirror.values[one.download].state for one in first[2:4]} == {_S.QUEUED}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("org/a", "https://huggingface.co/org/a"),
        ("org/a", "org/a:Q4_K_M"),
        ("org/a:Q4_K_M", "org/a"),
        ("org/a:q4_k_m", "https://huggingface.co/org/a/blob/main/a-Q4_K_M.gguf"),
    ],
)
async def test_a_second_asker_joins_the_first(
    yard: Yard, hub: Hub, queue: Queue, first: str, second: str
) -> None:
    slow_down(hub, "a")
    async with downloader(yard):
        one = await queue.until_state(await queue.start(first), _S.TRANSFERRING)
        assert (await queue.start(second)).download == one.download
        assert len(queue.mirror.values) == 1


async def test_the_same_files_under_another_name_are_fetched_once(yard: Yard, hub: Hub, queue: Queue) -> None:
    async with downloader(yard):
        one, other = await queue.start("org/a"), await queue.start("org/a", name="mine")
        assert one.download != other.download
        for each in (one, other):
            await queue.until_state(each, _S.FINISHED)
    assert hub.file("org/a", "a-Q4_K_M.gguf").bytes_sent == SIZE
    assert {"org/a", "mine"} == set(queue.registry.models)


async def test_a_pause_survives_the_downloader_and_a_resume_fetches_the_rest(
    yard: Yard, hub: Hub, queue: Queue
) -> None:
    file = hub.file("org/a", "a-Q4_K_M.gguf")
    slow_down(hub, "a", bytes_per_s=2 * MIB)
    async with downloader(yard):
        one = await queue.start("org/a")
        await hub.wait_until(lambda: file.bytes_sent > SIZE // 4)
        paused = await order(queue, subjects.DOWNLOAD_PAUSE, one)
        assert (paused.state, paused.speed_bytes_s) == (_S.PAUSED, None)
        assert (await order(queue, subjects.DOWNLOAD_PAUSE, one)).state is _S.PAUSED
    async with downloader(yard):
        await queue.until_state(await queue.start("org/b"), _S.FINISHED)
        assert queue.mirror.values[one.download].state is _S.PAUSED
        slow_down(hub, "a", bytes_per_s=None)
        await order(queue, subjects.DOWNLOAD_RESUME, one)
        await queue.until_state(one, _S.FINISHED)
    assert file.bytes_sent <= 1.05 * SIZE


async def test_the_queue_survives_downloader_and_broker_in_its_order(
    yard: Yard, hub: Hub, queue: Queue
) -> None:
    slow_down(hub, *"ab")
    async with downloader(yard):
        first = [await queue.start(f"org/{name}") for name in "abcde"]
        await order(queue, subjects.DOWNLOAD_MOVE, first[4], to=0)
    assert yard.broker.pid is not None
    os.kill(yard.broker.pid, signal.SIGKILL)
    await yard.broker.wait()
    await yard.broker.start()
    slow_down(hub, *"ab", bytes_per_s=None)
    settings = msgspec.structs.replace(yard.settings, downloads_at_once=1)
    async with downloader(yard, settings):
        for one in first:
            await queue.until_state(one, _S.FINISHED)
    began = sorted(queue.mirror.values.values(), key=lambda each: each.changed_at)
    assert [each.reference for each in began] == [f"org/{name}" for name in "abecd"]


async def test_an_end_that_the_broker_missed_is_stored_when_it_is_back(
    yard: Yard, hub: Hub, queue: Queue
) -> None:
    file = hub.file("org/a", "a-Q4_K_M.gguf")
    slow_down(hub, "a", bytes_per_s=2 * MIB)
    async with downloader(yard):
        one = await queue.until_state(await queue.start("org/a"), _S.TRANSFERRING)
        assert yard.broker.pid is not None
        os.kill(yard.broker.pid, signal.SIGKILL)
        await yard.broker.wait()
        await hub.wait_until(lambda: file.bytes_sent == SIZE)
        await yard.broker.start()
        await queue.until_state(one, _S.FINISHED)
    assert file.bytes_sent == SIZE


async def test_cancelled_and_failed_ones_can_be_retried_and_ended_ones_forgotten(
    yard: Yard, hub: Hub, queue: Queue
) -> None:
    slow_down(hub, "a")
    async with downloader(yard):
        one = await queue.until_state(await queue.start("org/a"), _S.TRANSFERRING)
        assert isinstance(await refusal(queue, subjects.DOWNLOAD_FORGET, one), Conflict)
        assert isinstance(await refusal(queue, subjects.DOWNLOAD_RETRY, one), Conflict)
        assert (await order(queue, subjects.DOWNLOAD_CANCEL, one)).state is _S.CANCELLED
        assert (await order(queue, subjects.DOWNLOAD_CANCEL, one)).state is _S.CANCELLED
        assert isinstance(await refusal(queue, subjects.DOWNLOAD_PAUSE, one), Conflict)
        slow_down(hub, "a", bytes_per_s=None)
        await order(queue, subjects.DOWNLOAD_RETRY, one)
        await queue.until_state(one, _S.FINISHED)
        await order(queue, subjects.DOWNLOAD_FORGET, one)
        await queue.until(lambda known: not known)
        for command in (subjects.DOWNLOAD_CANCEL, subjects.DOWNLOAD_RESUME, subjects.DOWNLOAD_FORGET):
            assert isinstance(await refusal(queue, command, one), NotFound)
        with pytest.raises(NotFound):
            await (await yard.bus()).call(subjects.DOWNLOAD_PAUSE, DownloadRef(download="../../x"))


async def test_a_limit_can_be_set_and_lifted_while_it_is_at_work(yard: Yard, hub: Hub, queue: Queue) -> None:
    """At the first limit it would take an hour."""
    async with downloader(yard):
        one = await queue.start("org/a", limit_bytes_s=1000)
        await queue.until_state(one, _S.TRANSFERRING)
        with pytest.raises(BadRequest):
            await (await yard.bus()).call(
                subjects.DOWNLOAD_LIMIT, LimitDownload(download=one.download, limit_bytes_s=0)
            )
        await order(queue, subjects.DOWNLOAD_LIMIT, one)
        assert (await queue.until_state(one, _S.FINISHED)).limit_bytes_s is None


async def test_what_others_still_need_counts_when_room_is_looked_for(
    yard: Yard, hub: Hub, queue: Queue
) -> None:
    """Each would fit alone. The files are sparse claims: only their sizes are ever asked for."""
    room = shutil.disk_usage(yard.settings.home).free * 6 // 10
    for name in "ab":
        hub.file(f"org/{name}", f"{name}-Q4_K_M.gguf").size_bytes = room
    slow_down(hub, *"ab", bytes_per_s=1)
    async with downloader(yard, msgspec.structs.replace(yard.settings, disk_margin_bytes=0)):
        both = [await queue.start(f"org/{name}") for name in "ab"]
        await queue.until(lambda known: any(each.state is _S.FAILED for each in known.values()))
        failed = [queue.mirror.values[one.download] for one in both]
        (error,) = [each.error for each in failed if each.error]
        assert error.code == "disk_full"
        assert "other downloads still need" in error.message


async def test_a_download_of_another_machine_is_ordered_through_the_first(
    yard: Yard, hub: Hub, queue: Queue, tmp_path: Path
) -> None:
    slow_down(hub, "a")
    far = msgspec.structs.replace(yard.settings, node="far", joined=True, home=tmp_path / "far")
    far.run.mkdir(parents=True)
    far.logs.mkdir()
    shutil.copytree(yard.settings.credentials, far.credentials)
    async with downloader(yard):
        async with downloader(yard, far):
            here, there = await queue.start("org/b"), await queue.start("org/b", node="far")
            assert (here.node, there.node) == ("testnode", "far")
            for one in (here, there):
                await queue.until_state(one, _S.FINISHED)
            for home in (yard.settings, far):
                assert (home.models / "org" / "b" / "b-Q4_K_M.gguf").stat().st_size == SIZE
            slow = await queue.start("org/a", node="far")
            assert (await order(queue, subjects.DOWNLOAD_PAUSE, slow)).state is _S.PAUSED
            assert (await order(queue, subjects.DOWNLOAD_RESUME, slow)).node == "far"
            assert isinstance(await refusal(queue, subjects.DOWNLOAD_FORGET, slow), Conflict)
        with pytest.raises(ServiceUnavailable, match="far"):
            await queue.start("org/c", node="far")
        with pytest.raises(NotFound, match="no node"):
            await queue.start("org/c", node="no such *")
        assert isinstance(await refusal(queue, subjects.DOWNLOAD_CANCEL, slow), ServiceUnavailable)
        await order(queue, subjects.DOWNLOAD_FORGET, slow)
        await queue.until(lambda known: slow.download not in known)


async def test_why_nothing_arrives_is_told_at_once(yard: Yard, hub: Hub, queue: Queue) -> None:
    faults = hub.file("org/a", "a-Q4_K_M.gguf").faults
    faults.statuses, faults.retry_after = [429], "2"
    told: asyncio.Queue[Download] = asyncio.Queue()

    async def on_progress(_tokens: dict[str, str], download: Download) -> None:
        told.put_nowait(download)

    await (await yard.bus()).subscribe(subjects.DOWNLOAD_PROGRESS, on_progress)
    async with downloader(yard), asyncio.timeout(20):
        await queue.start("org/a")
        while (download := await told.get()).problem is None:
            pass
        assert download.problem == "The hub answered 429; trying again in 2 s."
        while (download := await told.get()).state is not _S.FINISHED:
            pass
        assert download.problem is None


async def test_a_move_of_what_is_not_there_is_refused(yard: Yard, hub: Hub, queue: Queue) -> None:
    async with downloader(yard):
        with pytest.raises(NotFound):
            await (await yard.bus()).call(subjects.DOWNLOAD_MOVE, MoveDownload(download="nothing"))
