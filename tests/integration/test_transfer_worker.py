"""The transfer worker process, from the job on its stdin to its exit code."""

import asyncio
import hashlib
import json
import os
import select
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from services.downloader.worker.messages import Failed, FileVerified, Finished, Resolved, TransferProgress
from tests.hub import Hub, HubFile
from tests.integration.downloads import (
    MIB,
    REPO_ROOT,
    WORKER,
    Worker,
    job_of,
    model_bytes,
    worker_environment,
)

NAME = "org/tiny-GGUF"
TOKEN = "hf_verysecret"


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    async with Hub(token=TOKEN) as hub:
        yield hub


@pytest.fixture
def store(tmp_path: Path) -> Path:
    store = tmp_path / "store"
    store.mkdir()
    return store


def written(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def sent_more_than(file: HubFile, count_bytes: int) -> bool:
    return file.bytes_sent > count_bytes


async def failure(hub: Hub, store: Path, **job: object) -> Failed:
    async with Worker(hub.url, store, job={"repo": NAME} | job) as worker:
        *_, last = await worker.finish()
    assert isinstance(last, Failed)
    assert worker.process.returncode == 1
    assert last.message.endswith(".")
    return last


async def test_a_model_with_shards_and_mmproj_arrives(hub: Hub, store: Path) -> None:
    shards = {f"Q8_0/m-Q8_0-0000{n}-of-00002.gguf": model_bytes(2 * MIB, seed=n) for n in (1, 2)}
    others = {"mmproj-F16.gguf": model_bytes(MIB), "m-Q4_K_M.gguf": b"GGUF", "README.md": b"#"}
    repo = hub.add_repo(NAME, shards | others)
    async with Worker(hub.url, store, job={"repo": NAME, "quant": "q8_0"}) as worker:
        messages = await worker.finish()
    assert worker.process.returncode == 0
    first, last = messages[0], messages[-1]
    assert isinstance(first, Resolved)
    assert [file.path for file in first.files] == [*shards, "mmproj-F16.gguf"]
    assert first.model_path == "Q8_0/m-Q8_0-00001-of-00002.gguf"
    assert (first.commit, first.quant, first.bytes_total) == (repo.sha, "Q8_0", 5 * MIB)
    assert first.mmproj_path == "mmproj-F16.gguf"
    assert last == Finished()
    assert [message.file for message in messages if isinstance(message, FileVerified)] == [
        file.path for file in first.files
    ]
    for path in (*shards, "mmproj-F16.gguf"):
        assert (store / "model" / path).read_bytes() == (shards | others)[path]
    assert written(store / "model") == {*shards, "mmproj-F16.gguf"}


async def test_progress_covers_all_files_at_a_limited_rate(hub: Hub, store: Path) -> None:
    hub.add_repo(NAME, {"m-Q4_0.gguf": model_bytes(4 * MIB)})
    hub.file(NAME, "m-Q4_0.gguf").faults.bytes_per_s = 4 * MIB
    async with Worker(hub.url, store, job={"repo": NAME}) as worker:
        messages = await worker.finish()
    steps = [message for message in messages if isinstance(message, TransferProgress)]
    assert steps[-1] == TransferProgress(bytes_done=4 * MIB, file="m-Q4_0.gguf", files_done=1)
    assert all(earlier.bytes_done <= later.bytes_done for earlier, later in pairwise(steps))
    assert 3 <= len(steps) <= 20


async def test_the_token_is_sent_to_the_hub_only_and_never_printed(hub: Hub, store: Path) -> None:
    hub.add_repo(NAME, {"m-Q4_0.gguf": model_bytes(MIB)}, gated=True)
    hub.file(NAME, "m-Q4_0.gguf").faults.redirect = "cdn"
    async with Worker(hub.url, store, job={"repo": NAME}, token=TOKEN) as worker:
        assert isinstance((await worker.finish())[-1], Finished)
    assert {request.authorization for request in hub.requests if request.server == "hub"} == {
        f"Bearer {TOKEN}"
    }
    assert {request.authorization for request in hub.requests if request.server == "cdn"} == {None}
    assert TOKEN.encode() not in worker.output
    async with Worker(hub.url, store, job={"repo": "org/other"}, token=TOKEN) as worker:
        assert isinstance((await worker.finish())[-1], Failed)
    assert TOKEN.encode() not in worker.output


async def test_a_killed_transfer_is_resumed_where_it_stopped(hub: Hub, store: Path) -> None:
    size_bytes = 32 * MIB
    content = model_bytes(size_bytes)
    hub.add_repo(NAME, {"m-Q4_0.gguf": content})
    file = hub.file(NAME, "m-Q4_0.gguf")
    file.faults.bytes_per_s = size_bytes
    for stop, at_bytes in ((signal.SIGKILL, size_bytes // 3), (signal.SIGTERM, size_bytes // 2)):
        async with Worker(hub.url, store, job={"repo": NAME}) as worker:
            await worker.go()
            await hub.wait_until(partial(sent_more_than, file, at_bytes))
            await worker.end_with(stop)
        assert worker.process.returncode == -stop
        assert written(store) == {"model/m-Q4_0.gguf.part", "model/m-Q4_0.gguf.jrnl"}
    async with Worker(hub.url, store, job={"repo": NAME}) as worker:
        assert isinstance((await worker.finish())[-1], Finished)
    assert hashlib.sha256((store / "model" / "m-Q4_0.gguf").read_bytes()).hexdigest() == file.sha256
    assert file.bytes_sent <= 1.05 * size_bytes


async def test_a_second_run_fetches_nothing(hub: Hub, store: Path) -> None:
    hub.add_repo(NAME, {"m-Q4_0.gguf": model_bytes(MIB)})
    for _ in range(2):
        async with Worker(hub.url, store, job={"repo": NAME}) as worker:
            assert isinstance((await worker.finish())[-1], Finished)
    assert hub.file(NAME, "m-Q4_0.gguf").requests == 1


@pytest.mark.parametrize(
    "path",
    [
        "../evil-Q4_0.gguf",
        "a/../../../evil-Q4_0.gguf",
        "/evil-Q4_0.gguf",
        "..\\e-Q4_0.gguf",
        "a//b-Q4_0.gguf",
    ],
)
async def test_hostile_paths_write_nothing(hub: Hub, store: Path, path: str) -> None:
    hub.add_repo(NAME, {path: model_bytes(1000)})
    assert (await failure(hub, store)).code == "unsafe_path"
    assert written(store.parent) == set()


async def test_a_symlink_out_of_the_store_is_not_followed(hub: Hub, store: Path) -> None:
    outside = store.parent / "outside"
    outside.mkdir()
    (store / "model").mkdir()
    (store / "model" / "sub").symlink_to(outside)
    hub.add_repo(NAME, {"sub/m-Q4_0.gguf": model_bytes(1000)})
    assert (await failure(hub, store)).code == "unsafe_path"
    assert written(outside) == set()


@pytest.mark.parametrize(
    ("job", "code"),
    [
        ({"folder": "/somewhere/else"}, "unsafe_path"),
        ({"folder": "model"}, "unsafe_path"),
        ({"folder": 7}, "bad_job"),
        ({"repo": "../.."}, "bad_reference"),
        ({"repo": "org/unknown"}, "repo_not_found"),
        ({"revision": "v9"}, "revision_not_found"),
        ({"quant": "Q8_0"}, "no_such_model"),
        ({"margin_bytes": 2**62}, "disk_full"),
    ],
)
async def test_an_impossible_job_fails_with_its_code(
    hub: Hub, store: Path, job: dict[str, object], code: str
) -> None:
    hub.add_repo(NAME, {"m-Q4_0.gguf": model_bytes(1000)})
    assert (await failure(hub, store, **job)).code == code
    assert written(store.parent) == set()


async def test_a_missing_store_is_not_created(hub: Hub, store: Path) -> None:
    """Its disk may not be mounted, and another disk would fill up."""
    hub.add_repo(NAME, {"m-Q4_0.gguf": model_bytes(1000)})
    store.rmdir()
    failed = await failure(hub, store)
    assert (failed.code, str(store) in failed.message) == ("disk_error", True)
    assert not store.exists()


async def test_a_store_that_disappears_during_the_transfer_fails_it(hub: Hub, store: Path) -> None:
    hub.add_repo(NAME, {"m-Q4_0.gguf": model_bytes(MIB), "mmproj-F16.gguf": model_bytes(MIB, seed=2)})
    slow = hub.file(NAME, "m-Q4_0.gguf")
    slow.faults.bytes_per_s = MIB
    async with Worker(hub.url, store, job={"repo": NAME}) as worker:
        await worker.go()
        await hub.wait_until(lambda: slow.bytes_sent > 0)
        store.rename(store.parent / "elsewhere")
        *_, last = await worker.finish()
    assert isinstance(last, Failed)
    assert not store.exists()


async def test_a_file_removed_during_the_transfer_fails_it(hub: Hub, store: Path) -> None:
    """It used to succeed, and a model without its file was registered."""
    hub.add_repo(NAME, {"m-Q4_0.gguf": model_bytes(1000), "mmproj-F16.gguf": model_bytes(MIB, seed=2)})
    hub.file(NAME, "mmproj-F16.gguf").faults.bytes_per_s = MIB
    slow = hub.file(NAME, "mmproj-F16.gguf")
    async with Worker(hub.url, store, job={"repo": NAME}) as worker:
        await worker.go()
        await hub.wait_until(lambda: slow.bytes_sent > 0)
        (store / "model" / "m-Q4_0.gguf").unlink()
        *_, last = await worker.finish()
    assert isinstance(last, Failed)
    assert (last.code, "m-Q4_0.gguf" in last.message) == ("disk_error", True)


async def test_a_gated_file_fails_with_advice(hub: Hub, store: Path) -> None:
    hub.add_repo(NAME, {"m-Q4_0.gguf": model_bytes(1000)}, gated=True)
    failed = await failure(hub, store)
    assert failed.code == "gated_repo"
    assert "HF_TOKEN" in failed.message


async def test_a_file_that_is_not_a_model_is_refused(hub: Hub, store: Path) -> None:
    hub.add_repo(NAME, {"m-Q4_0.gguf": b"<!doctype html>" + b" " * 1000})
    failed = await failure(hub, store)
    assert failed.code == "corrupt_gguf"
    assert "not a GGUF model" in failed.message


async def test_wrong_bytes_fail_with_hash_mismatch(hub: Hub, store: Path) -> None:
    hub.add_repo(NAME, {"m-Q4_0.gguf": model_bytes(1000)})
    hub.file(NAME, "m-Q4_0.gguf").faults.corrupt_times = 3
    assert (await failure(hub, store)).code == "hash_mismatch"
    assert written(store) == set()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel does this on Linux only")
async def test_it_dies_with_its_parent(hub: Hub, store: Path) -> None:
    """Its stdin stays open and its stdout is discarded, so that no closed pipe can end it instead."""
    hub.add_repo(NAME, {"m-Q4_0.gguf": model_bytes(4 * MIB)})
    file = hub.file(NAME, "m-Q4_0.gguf")
    file.faults.bytes_per_s = 100_000
    reader, writer = os.pipe()
    script = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen({WORKER!r}, stdin={reader}, stdout=subprocess.DEVNULL)\n"
        "print(child.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    pipe, environment = asyncio.subprocess.PIPE, worker_environment(hub.url, store.parent / "hf")
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script),
        stdin=pipe,
        stdout=pipe,
        pass_fds=(reader,),
        cwd=REPO_ROOT,
        env=environment,
    )
    assert parent.stdout is not None
    child = os.pidfd_open(int(await parent.stdout.readline()))
    try:
        os.write(writer, json.dumps(job_of(store, {"repo": NAME})).encode() + b'\n{"type":"go"}\n')
        await hub.wait_until(lambda: file.bytes_sent > 0)
        parent.kill()
        await parent.communicate()
        ended, _, _ = await asyncio.to_thread(select.select, [child], [], [], 10)
        assert ended
    finally:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(child, signal.SIGKILL)
        for handle in (reader, writer, child):
            os.close(handle)
