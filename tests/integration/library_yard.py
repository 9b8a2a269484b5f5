"""What the library's tests share: a running library in a store of their own, and files to put into it."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from modelyard.bus.connection import Bus
from modelyard.bus.micro import Commands
from modelyard.bus.records import BucketCache
from modelyard.bus.tasks import Tasks
from modelyard.host.settings import Settings
from schemas import buckets, subjects
from schemas.base import Role
from schemas.library import JOB_ENDED, FindOnNode, LibraryEntry, LibraryJob, StoreSpace, TrashedEntry
from services.downloader.service import open_library, serve_library
from tests.gguf_bytes import Weight, gguf_bytes
from tests.support import Yard


def gguf(name: str = "Tiny", padding: bytes = b"") -> bytes:
    """A small GGUF file; other names make other bytes."""
    values = {
        "general.architecture": "llama",
        "general.name": name,
        "general.file_type": 15,
        "llama.context_length": 4096,
        "llama.block_count": 1,
        "tokenizer.chat_template": "{{ messages }}",
    }
    return gguf_bytes(values, [Weight("token_embd.weight")]) + padding


def put(root: Path, path: str, data: bytes) -> Path:
    """A file in the store, as a person would put it there."""
    place = root / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)
    return place


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Shown:
    """The library as everybody sees it: by its buckets."""

    def __init__(
        self,
        bus: Bus,
        entries: BucketCache[LibraryEntry],
        trashed: BucketCache[TrashedEntry],
        jobs: BucketCache[LibraryJob],
        spaces: BucketCache[StoreSpace],
    ) -> None:
        self.bus = bus
        self.entries = entries
        self.trashed = trashed
        self.jobs = jobs
        self.spaces = spaces

    async def at(self, path: str, node: str | None = None) -> LibraryEntry:
        """The entry at a path."""
        await self.scan(node)
        return await self.by_itself(path)

    async def by_itself(self, path: str) -> LibraryEntry:
        """As soon as the library has looked."""
        async with asyncio.timeout(8):
            await self.entries.until(lambda all_: any(one.path == path for one in all_.values()))
        return next(one for one in self.entries.values.values() if one.path == path)

    async def until(self, key: str, condition: Callable[[LibraryEntry], bool]) -> None:
        """Wait until an entry is as wanted."""
        async with asyncio.timeout(8):
            await self.entries.until(lambda all_: key in all_ and condition(all_[key]))

    async def absent(self, path: str) -> None:
        async with asyncio.timeout(8):
            await self.entries.until(lambda all_: all(one.path != path for one in all_.values()))

    async def item(self) -> TrashedEntry:
        async with asyncio.timeout(8):
            await self.trashed.until(bool)
        return next(iter(self.trashed.values.values()))

    async def ended(self, job: LibraryJob) -> LibraryJob:
        async with asyncio.timeout(20):
            await self.jobs.until(lambda all_: job.job in all_ and all_[job.job].state in JOB_ENDED)
        return self.jobs.values[job.job]

    async def scan(self, node: str | None = None) -> None:
        """Scan the stores now."""
        await self.bus.call(subjects.LIBRARY_SCAN, FindOnNode(node=node))


@contextlib.asynccontextmanager
async def shown(yard: Yard) -> AsyncIterator[Shown]:
    bus = await yard.bus()
    async with Tasks() as tasks:
        yield Shown(
            bus,
            await BucketCache.start(bus, buckets.LIBRARY, tasks),
            await BucketCache.start(bus, buckets.TRASH, tasks),
            await BucketCache.start(bus, buckets.JOBS, tasks),
            await BucketCache.start(bus, buckets.STORES, tasks),
        )


@contextlib.asynccontextmanager
async def library(yard: Yard, settings: Settings | None = None) -> AsyncIterator[None]:
    """The library of a node as its downloader runs it."""
    settings = settings or yard.settings
    bus = await Bus.connect(settings, Role.DOWNLOADER, url=yard.url)
    try:
        async with Tasks() as tasks:
            opened = await open_library(bus, settings, tasks)
            commands = await Commands.start(bus, tasks, "The library.")
            await serve_library(bus, settings, tasks, opened, commands)
            yield
    finally:
        await bus.nc.close()
