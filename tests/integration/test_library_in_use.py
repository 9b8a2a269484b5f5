"""An entry in use is not deleted, unless forced."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from modelyard.bus.records import BucketStore
from modelyard.host.settings import Settings
from schemas import buckets, subjects
from schemas.base import Role, model_key
from schemas.downloads import Download, DownloadState
from schemas.errors import Conflict
from schemas.instances import Instance, InstanceState, Reason
from schemas.library import DeleteEntry, TrashRef
from schemas.models import ModelSpec
from tests.integration.library_yard import Shown, gguf, library, put, shown
from tests.support import Yard

PATH = "org/repo/tiny-Q4_K_M.gguf"


@pytest.fixture
def root(settings: Settings) -> Path:
    return settings.models


@pytest.fixture
async def seen(yard: Yard) -> AsyncIterator[Shown]:
    async with library(yard), shown(yard) as seen:
        yield seen


async def test_an_entry_used_by_a_model_is_deleted_only_by_force(yard: Yard, root: Path, seen: Shown) -> None:
    registry = BucketStore(await yard.bus(Role.SUPERVISOR), buckets.MODELS)
    await registry.put(model_key("mine"), ModelSpec(name="mine", path=PATH))
    put(root, PATH, gguf())
    entry = await seen.at(PATH)
    assert entry.used_by == ("mine",)
    with pytest.raises(Conflict, match=r"used by mine.*yard rm mine"):
        await seen.bus.call(subjects.LIBRARY_DELETE, DeleteEntry(entry=entry.key))
    await registry.delete(model_key("mine"))
    await seen.until(entry.key, lambda one: not one.used_by)
    await registry.put(model_key("other"), ModelSpec(name="other", path="x.gguf", mmproj=PATH))
    await seen.until(entry.key, lambda one: one.used_by == ("other",))
    await seen.bus.call(subjects.LIBRARY_DELETE, DeleteEntry(entry=entry.key, force=True))
    assert not (root / PATH).exists()


async def test_an_entry_of_a_running_instance_is_not_deleted_after_its_model_is_removed(
    yard: Yard, root: Path, seen: Shown
) -> None:
    supervisor = await yard.bus(Role.SUPERVISOR)
    registry, instances = BucketStore(supervisor, buckets.MODELS), BucketStore(supervisor, buckets.INSTANCES)
    await registry.put(model_key("mine"), ModelSpec(name="mine", path=PATH))
    put(root, PATH, gguf())
    entry = await seen.at(PATH)
    draining = Instance(
        instance="i1",
        model="mine",
        node="testnode",
        engine="embedded",
        revision=1,
        state=InstanceState.DRAINING,
        reason=Reason.REQUESTED,
        changed_at=time.time(),
    )
    await instances.put("i1", draining, ttl_s=60)
    await registry.delete(model_key("mine"))
    await seen.until(entry.key, lambda one: not one.used_by)
    with pytest.raises(Conflict, match="An instance of mine runs from"):
        await seen.bus.call(subjects.LIBRARY_DELETE, DeleteEntry(entry=entry.key))
    stopped = msgspec.structs.replace(draining, state=InstanceState.STOPPED)
    await instances.put("i1", stopped, ttl_s=60)
    await _deleted(seen, entry.key)


async def _deleted(seen: Shown, key: str) -> None:
    """The downloader receives the instance's end a moment after it was written."""
    async with asyncio.timeout(8):
        while True:
            try:
                await seen.bus.call(subjects.LIBRARY_DELETE, DeleteEntry(entry=key))
                return
            except Conflict:
                await asyncio.sleep(0)


async def test_an_entry_of_a_running_download_is_not_deleted(yard: Yard, root: Path, seen: Shown) -> None:
    """A model that is read again has no partial file."""
    put(root, PATH, gguf())
    entry = await seen.at(PATH)
    repo, _, name = PATH.rpartition("/")
    node = yard.settings.node
    download = Download(
        download="d1",
        reference=f"{repo}:Q4_K_M",
        model="m",
        state=DownloadState.TRANSFERRING,
        created_at=1.0,
        changed_at=1.0,
        node=node,
        files=(name,),
    )
    downloads = BucketStore(await yard.bus(Role.DOWNLOADER), buckets.DOWNLOADS)
    await downloads.put("d1", download)
    await _refused(seen, entry.key, "downloaded")
    await downloads.put("d1", msgspec.structs.replace(download, files=("another.gguf",)))
    await _deleted(seen, entry.key)


async def _refused(seen: Shown, key: str, words: str) -> None:
    """The downloader receives it a moment after it was written."""
    async with asyncio.timeout(8):
        while True:
            try:
                trashed = await seen.bus.call(subjects.LIBRARY_DELETE, DeleteEntry(entry=key))
            except Conflict as error:
                assert words in error.message
                return
            await seen.bus.call(subjects.LIBRARY_RESTORE, TrashRef(item=trashed.key))


async def test_an_entry_whose_folder_is_being_written_is_not_deleted(root: Path, seen: Shown) -> None:
    put(root, PATH, gguf())
    entry = await seen.at(PATH)
    put(root, "org/repo/more.gguf.part", b"half")
    with pytest.raises(Conflict, match="still being written"):
        await seen.bus.call(subjects.LIBRARY_DELETE, DeleteEntry(entry=entry.key))
