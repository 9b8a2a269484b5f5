"""`yard pull` of many and `yard downloads`, with a real downloader behind them."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from schemas.downloads import DownloadState
from tests.commands import (
    TIMEOUT_S,
    read_line_with,
    refusal_code,
    run_command,
    start_command,
    start_on_terminal,
)
from tests.hub import Hub
from tests.integration.downloader_service import Queue, downloader, registry_and_watch
from tests.integration.downloads import MIB, model_bytes
from tests.support import Yard

_S = DownloadState


@pytest.fixture
async def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Hub]:
    async with Hub() as hub:
        for name in "abc":
            hub.add_repo(f"org/{name}", {f"{name}-Q4_K_M.gguf": model_bytes(MIB, seed=ord(name))})
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        yield hub


@pytest.fixture
async def queue(yard: Yard, hub: Hub) -> AsyncIterator[Queue]:
    async with registry_and_watch(yard) as queue, downloader(yard):
        yield queue


def slow_down(hub: Hub, name: str) -> None:
    hub.file(f"org/{name}", f"{name}-Q4_K_M.gguf").faults.bytes_per_s = 1000


async def test_several_references_are_pulled_and_failures_are_printed(yard: Yard, queue: Queue) -> None:
    done = await run_command(yard, "pull", "org/a", "org/b,nonsense", "org/none")
    assert done.code == 1
    assert "org/a: finished" in done.out
    assert "org/b: finished" in done.out
    assert [line.split(":")[1].strip() for line in done.err.splitlines()[:2]] == ["nonsense", "org/none"]
    assert done.err.splitlines()[-1] == "yard: 2 of 4 models were not downloaded."
    assert sorted(queue.registry.models) == ["org/a", "org/b"]


async def test_references_are_read_from_standard_input(yard: Yard, queue: Queue) -> None:
    done = await run_command(yard, "pull", "-", "--json", stdin="# mine\norg/a\n- org/b\n")
    assert done.code == 0
    ends = {line["model"]: line["state"] for line in done.lines}
    assert ends == {"org/a": "finished", "org/b": "finished"}


async def test_a_name_for_several_references_is_refused(yard: Yard, queue: Queue) -> None:
    assert await refusal_code(yard, "pull", "org/a", "org/b", "--name", "mine") == "bad_request"
    assert queue.downloads.values == {}


async def test_several_downloads_have_bars_on_a_terminal(yard: Yard, queue: Queue) -> None:
    terminal = await start_on_terminal(yard, "pull", "org/a", "org/b")
    await terminal.wait_for("org/")
    assert await terminal.wait() == 0
    assert {each.state for each in queue.downloads.values.values()} == {_S.FINISHED}


async def test_the_queue_is_listed_and_changed_by_ids_and_names(yard: Yard, hub: Hub, queue: Queue) -> None:
    for name in "abc":
        slow_down(hub, name)
    queued = await run_command(yard, "pull", "org/a org/b org/c", "--detach", "--limit", "20kB")
    assert (queued.code, len(queued.out.splitlines())) == (0, 3)
    await queue.until(
        lambda known: sum(download.state is _S.TRANSFERRING for download in known.values()) == 2
    )
    listed = (await run_command(yard, "downloads", "--json")).document
    assert [download["model"] for download in listed] == ["org/a", "org/b", "org/c"]
    assert {download["limit_bytes_s"] for download in listed} == {20_000}
    assert (await run_command(yard, "downloads", "pause", "org/a")).out == "org/a: paused\n"
    assert await refusal_code(yard, "downloads", "move", "org/a") == "conflict"
    assert await refusal_code(yard, "downloads", "pause", "org/x") == "not_found"
    assert await refusal_code(yard, "downloads", "limit", "org/b", "--to", "much") == "bad_request"
    (limited,) = (
        await run_command(yard, "downloads", "limit", listed[1]["download"], "--to", "none", "--json")
    ).document
    assert limited["limit_bytes_s"] is None
    cancelled = await run_command(yard, "downloads", "cancel", "--all")
    assert sorted(cancelled.out.splitlines()) == ["org/a: cancelled", "org/b: cancelled", "org/c: cancelled"]
    assert "org/c" in (await run_command(yard, "downloads")).out
    await run_command(yard, "downloads", "forget", "--all")
    assert (await run_command(yard, "downloads", "--json")).document == []


async def test_the_log_prints_every_update(yard: Yard, hub: Hub, queue: Queue) -> None:
    slow_down(hub, "a")
    await queue.until_state(await queue.start("org/a"), _S.TRANSFERRING)
    process = await start_command(yard, "downloads", "--log")
    assert process.stdout is not None
    async with asyncio.timeout(TIMEOUT_S):
        await read_line_with(process.stdout, b"org/a: transferring")
        await queue.start("org/none")
        line = await read_line_with(process.stdout, b"failed")
        process.send_signal(signal.SIGINT)
        await process.communicate()
    assert b"org/none: failed: org/none is not on the hub" in line
    assert process.returncode == 130
