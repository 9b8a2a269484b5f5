"""Single files brought into a store, by a process of its own, and noted beside them."""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from functools import partial
from pathlib import Path

import msgspec

from schemas.errors import Conflict
from services.downloader.library import records, store_fs
from services.downloader.library.job_progress import JobProgress
from services.downloader.library.refetch import MESSAGES, Fetched, Fetching, Order, Refused
from services.downloader.peers.finder import Finder
from services.downloader.worker_messages import Distrust, Listing, Offers, Seek

_LINE_LIMIT_BYTES = 1024 * 1024


async def fetch(
    order: Order, logs: Path, finder: Finder, recorded: Mapping[str, records.FileRecord], meter: JobProgress
) -> None:
    """Bring the files of an order, and note of each that its bytes are right."""
    sizes = {file.path: file.size_bytes for file in order.files}
    done_bytes = meter.bytes_done
    async with aclosing(_worker(order, logs, finder)) as messages:
        async for message in messages:
            meter.add(0)
            match message:
                case Fetching():
                    meter.file, meter.bytes_done = message.path, done_bytes + message.bytes_done
                    meter.received = message.received
                case Fetched():
                    done_bytes += sizes.pop(message.path)
                    meter.bytes_done, meter.received = done_bytes, message.received
                    await asyncio.to_thread(_note, Path(order.root), message.path, recorded[message.path])
                case Refused():
                    raise Conflict(message.message)
    if sizes:
        raise Conflict("The transfer was killed; start it again, it goes on where it was.")


def _note(root: Path, path: str, record: records.FileRecord) -> None:
    now, found = time.time(), store_fs.stat_path(root, path)
    right = msgspec.structs.replace(
        record,
        checked_at=now if record.sha256 else None,
        checked_ns=found.st_mtime_ns if record.sha256 else 0,
        downloaded_at=now if record.repo else None,
        damaged=False,
    )
    records.update(root, {path: right})


async def _worker(
    order: Order, logs: Path, finder: Finder
) -> AsyncGenerator[Fetching | Fetched | Refused, None]:
    """The process, message by message, its questions answered; leaving the loop kills it."""
    pipe = asyncio.subprocess.PIPE
    with logs.open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.downloader.library.refetch"),
            stdin=pipe,
            stdout=pipe,
            stderr=errors,
            env=dict(os.environ),
            start_new_session=True,
            limit=_LINE_LIMIT_BYTES,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        await _tell(process.stdin, order)
        async for line in process.stdout:
            match message := MESSAGES.decode(line):
                case Seek() | Distrust():
                    await finder.hear(message, partial(_tell, process.stdin))
                case _:
                    yield message
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _tell(stdin: asyncio.StreamWriter, what: Order | Offers | Listing) -> None:
    """One that is gone is noticed by who reads its messages."""
    with contextlib.suppress(ConnectionError):
        stdin.write(msgspec.json.encode(what) + b"\n")
        await stdin.drain()
