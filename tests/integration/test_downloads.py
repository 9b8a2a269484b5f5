"""The download queue on a real broker, against a hub on loopback."""

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


async def command_for(queue: Queue, command: object, download: Download, **more: object) -> Download:
    bus = await queue.yard.bus()
    payload = msgspec.convert({"download": download.download, **more}, command.payload)  # type: ignore[attr-defined]
    return await bus.call(command, payload)  # type: ignore[arg-type,no-any-return]


async def refusal(queue: Queue, command: object, download: Download, **more: object) -> YardError:
    with pytest.raises(YardError) as caught:
        await command_for(queue, command, download, **more)
    assert caught.value.message.endswith(".")
    return caught.value


async def test_each_reference_of_a_pasted_text_is_accepted_or_refused_alone(
    yard: Yard, hub: Hub, queue: Queue
) -> None:
    async with downloader(yard):
        text = f"org/a, {hub.url}/org/b\n../etc/passwd org/c:Q4_K_M org/none"
        answer = await (await yard.bus()).call(subjects.DOWNLOAD_ADD, AddDownloads(text=text))
        *accepted, last = [item.download for item in answer.added if item.download]
        assert [item.error.code for item in answer.added if item.error] == ["bad_request"]
        assert [download.reference for download in accepted] == ["org/a", "org/b", "org/c:Q4_K_M"]
        for download in accepted:
            await queue.until_state(download, _S.FINISHED)
        assert (await queue.until_state(last, _S.FAILED)).error is not None
    assert sorted(queue.registry.models) == ["org/a", "org/b", "org/c:Q4_K_M"]
    assert queue.registry.models["org/a"].path == "org/a/a-Q4_K_M.gguf"


@pytest.mark.parametrize("text", ["", "# org/a", "org/a " + " ".join(f"org/m{n}" for n in range(500))])
async def test_a_text_without_references_or_with_too_many_is_refused(
    yard: Yard, hub: Hub, queue: Queue, text: str
) -> None:
    async with downloader(yard):
        with pytest.raises(BadRequest):
            await (await yard.bus()).call(subjects.DOWNLOAD_ADD, AddDownloads(text=text))
    assert queue.downloads.values == {}


async def test_two_downloads_run_and_the_first_in_the_queue_is_next(
    yard: Yard, hub: Hub, queue: Queue
) -> None:
    slow_down(hub, *"abcde")
    async with downloader(yard):
        downloads = [await queue.start(f"org/{name}") for name in "abcde"]
        for download in downloads[:2]:
            await queue.until_state(download, _S.TRANSFERRING)
        assert {queue.downloads.values[download.download].state for download in downloads[2:]} == {_S.QUEUED}
        assert isinstance(await refusal(queue, subjects.DOWNLOAD_MOVE, downloads[0]), Conflict)
        await command_for(queue, subjects.DOWNLOAD_MOVE, downloads[4], to=0)
        await command_for(queue, subjects.DOWNLOAD_CANCEL, downloads[0])
        await queue.until_state(downloads[4], _S.TRANSFERRING)
        assert {queue.downloads.values[download.download].state for download in downloads[2:4]} == {_S.QUEUED}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("org/a", "https://huggingface.co/org/a"),
        ("org/a", "org/a:Q4_K_M"),
        ("org/a:Q4_K_M", "org/a"),
        ("org/a:q4_k_m", "https://huggingface.co/org/a/blob/main/a-Q4_K_M.gguf"),
    ],
)
async def test_a_duplicate_start_returns_the_running_download(
    yard: Yard, hub: Hub, queue: Queue, first: str, second: str
) -> None:
    slow_down(hub, "a")
    async with downloader(yard):
        download = await queue.until_state(await queue.start(first), _S.TRANSFERRING)
        assert (await queue.start(second)).download == download.download
        assert len(queue.downloads.values) == 1


async def test_the_same_files_under_another_name_are_fetched_once(yard: Yard, hub: Hub, queue: Queue) -> None:
    async with downloader(yard):
        first, second = await queue.start("org/a"), await queue.start("org/a", name="mine")
        assert first.download != second.download
        for download in (first, second):
            await queue.until_state(download, _S.FINISHED)
    assert hub.file("org/a", "a-Q4_K_M.gguf").bytes_sent == SIZE
    assert {"org/a", "mine"} == set(queue.registry.models)


async def test_a_pause_survives_a_restart_and_resume_fetches_the_rest(
    yard: Yard, hub: Hub, queue: Queue
) -> None:
    file = hub.file("org/a", "a-Q4_K_M.gguf")
    slow_down(hub, "a", bytes_per_s=2 * MIB)
    async with downloader(yard):
        download = await queue.start("org/a")
        await hub.wait_until(lambda: file.bytes_sent > SIZE // 4)
        paused = await command_for(queue, subjects.DOWNLOAD_PAUSE, download)
        assert (paused.state, paused.speed_bytes_s) == (_S.PAUSED, None)
        assert (await command_for(queue, subjects.DOWNLOAD_PAUSE, download)).state is _S.PAUSED
    async with downloader(yard):
        await queue.until_state(await queue.start("org/b"), _S.FINISHED)
        assert queue.downloads.values[download.download].state is _S.PAUSED
        slow_down(hub, "a", bytes_per_s=None)
        await command_for(queue, subjects.DOWNLOAD_RESUME, download)
        await queue.until_state(download, _S.FINISHED)
    assert file.bytes_sent <= 1.05 * SIZE


async def test_queue_order_survives_a_restart_of_downloader_and_broker(
    yard: Yard, hub: Hub, queue: Queue
) -> None:
    slow_down(hub, *"ab")
    async with downloader(yard):
        downloads = [await queue.start(f"org/{name}") for name in "abcde"]
        await command_for(queue, subjects.DOWNLOAD_MOVE, downloads[4], to=0)
    assert yard.broker.pid is not None
    os.kill(yard.broker.pid, signal.SIGKILL)
    await yard.broker.wait()
    await yard.broker.start()
    slow_down(hub, *"ab", bytes_per_s=None)
    settings = msgspec.structs.replace(yard.settings, downloads_at_once=1)
    async with downloader(yard, settings):
        for download in downloads:
            await queue.until_state(download, _S.FINISHED)
    finished = sorted(queue.downloads.values.values(), key=lambda download: download.changed_at)
    assert [download.reference for download in finished] == [f"org/{name}" for name in "abecd"]


async def test_a_final_state_is_stored_once_the_broker_is_back(yard: Yard, hub: Hub, queue: Queue) -> None:
    file = hub.file("org/a", "a-Q4_K_M.gguf")
    slow_down(hub, "a", bytes_per_s=2 * MIB)
    async with downloader(yard):
        download = await queue.until_state(await queue.start("org/a"), _S.TRANSFERRING)
        assert yard.broker.pid is not None
        os.kill(yard.broker.pid, signal.SIGKILL)
        await yard.broker.wait()
        await hub.wait_until(lambda: file.bytes_sent == SIZE)
        await yard.broker.start()
        await queue.until_state(download, _S.FINISHED)
    assert file.bytes_sent == SIZE


async def test_ended_downloads_can_be_retried_and_forgotten(yard: Yard, hub: Hub, queue: Queue) -> None:
    slow_down(hub, "a")
    async with downloader(yard):
        download = await queue.until_state(await queue.start("org/a"), _S.TRANSFERRING)
        assert isinstance(await refusal(queue, subjects.DOWNLOAD_FORGET, download), Conflict)
        assert isinstance(await refusal(queue, subjects.DOWNLOAD_RETRY, download), Conflict)
        assert (await command_for(queue, subjects.DOWNLOAD_CANCEL, download)).state is _S.CANCELLED
        assert (await command_for(queue, subjects.DOWNLOAD_CANCEL, download)).state is _S.CANCELLED
        assert isinstance(await refusal(queue, subjects.DOWNLOAD_PAUSE, download), Conflict)
        slow_down(hub, "a", bytes_per_s=None)
        await command_for(queue, subjects.DOWNLOAD_RETRY, download)
        await queue.until_state(download, _S.FINISHED)
        await command_for(queue, subjects.DOWNLOAD_FORGET, download)
        await queue.until(lambda downloads: not downloads)
        for command in (subjects.DOWNLOAD_CANCEL, subjects.DOWNLOAD_RESUME, subjects.DOWNLOAD_FORGET):
            assert isinstance(await refusal(queue, command, download), NotFound)
        with pytest.raises(NotFound):
            await (await yard.bus()).call(subjects.DOWNLOAD_PAUSE, DownloadRef(download="../../x"))


async def test_a_limit_can_be_set_and_removed_during_a_transfer(yard: Yard, hub: Hub, queue: Queue) -> None:
    """With the first limit it would take an hour."""
    async with downloader(yard):
        download = await queue.start("org/a", limit_bytes_s=1000)
        await queue.until_state(download, _S.TRANSFERRING)
        with pytest.raises(BadRequest):
            await (await yard.bus()).call(
                subjects.DOWNLOAD_LIMIT, LimitDownload(download=download.download, limit_bytes_s=0)
            )
        await command_for(queue, subjects.DOWNLOAD_LIMIT, download)
        assert (await queue.until_state(download, _S.FINISHED)).limit_bytes_s is None


async def test_disk_space_check_counts_the_missing_bytes_of_other_downloads(
    yard: Yard, hub: Hub, queue: Queue
) -> None:
    """Each would fit alone. The files are only claimed to be so large: their bytes are never requested."""
    room = shutil.disk_usage(yard.settings.home).free * 6 // 10
    for name in "ab":
        hub.file(f"org/{name}", f"{name}-Q4_K_M.gguf").size_bytes = room
    slow_down(hub, *"ab", bytes_per_s=1)
    async with downloader(yard, msgspec.structs.replace(yard.settings, disk_margin_bytes=0)):
        both = [await queue.start(f"org/{name}") for name in "ab"]
        await queue.until(lambda downloads: any(item.state is _S.FAILED for item in downloads.values()))
        current = [queue.downloads.values[item.download] for item in both]
        (error,) = [item.error for item in current if item.error]
        assert error.code == "disk_full"
        assert "other downloads still need" in error.message


async def test_commands_are_forwarded_to_the_node_of_the_download(
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
            for download in (here, there):
                await queue.until_state(download, _S.FINISHED)
            for home in (yard.settings, far):
                assert (home.models / "org" / "b" / "b-Q4_K_M.gguf").stat().st_size == SIZE
            slow = await queue.start("org/a", node="far")
            assert (await command_for(queue, subjects.DOWNLOAD_PAUSE, slow)).state is _S.PAUSED
            assert (await command_for(queue, subjects.DOWNLOAD_RESUME, slow)).node == "far"
            assert isinstance(await refusal(queue, subjects.DOWNLOAD_FORGET, slow), Conflict)
        with pytest.raises(ServiceUnavailable, match="far"):
            await queue.start("org/c", node="far")
        with pytest.raises(NotFound, match="no node"):
            await queue.start("org/c", node="no such *")
        assert isinstance(await refusal(queue, subjects.DOWNLOAD_CANCEL, slow), ServiceUnavailable)
        await command_for(queue, subjects.DOWNLOAD_FORGET, slow)
        await queue.until(lambda downloads: slow.download not in downloads)


async def test_a_problem_is_published_at_once(yard: Yard, hub: Hub, queue: Queue) -> None:
    faults = hub.file("org/a", "a-Q4_K_M.gguf").faults
    faults.statuses, faults.retry_after = [429], "2"
    published: asyncio.Queue[Download] = asyncio.Queue()

    async def on_progress(_tokens: dict[str, str], download: Download) -> None:
        published.put_nowait(download)

    await (await yard.bus()).subscribe(subjects.DOWNLOAD_PROGRESS, on_progress)
    async with downloader(yard), asyncio.timeout(20):
        await queue.start("org/a")
        while (download := await published.get()).problem is None:
            pass
        assert download.problem == "The hub answered 429; trying again in 2 s."
        while (download := await published.get()).state is not _S.FINISHED:
            pass
        assert download.problem is None


async def test_a_move_of_an_unknown_download_is_refused(yard: Yard, hub: Hub, queue: Queue) -> None:
    async with downloader(yard):
        with pytest.raises(NotFound):
            await (await yard.bus()).call(subjects.DOWNLOAD_MOVE, MoveDownload(download="nothing"))
