"""An entry's damaged and missing files, fetched again alone from where they came."""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from pathlib import Path

import msgspec

from schemas.errors import Conflict
from schemas.library import EntryFormat, Verified
from services.downloader.library import inside, records
from services.downloader.library.meter import Meter
from services.downloader.library.refetch import (
    MESSAGES,
    Fetched,
    Fetching,
    Message,
    Order,
    Refused,
    WantedFile,
)
from services.downloader.library.shelf import Model

_LINE_LIMIT_BYTES = 1024 * 1024
Records = Mapping[str, records.FileRecord]


def missing_files(model: Model, recorded: Records, there: Iterable[str]) -> list[str]:
    """What should be there besides: shards, and what the folder's own record says that came with the model.

    Of GGUF files a record may know others that were taken away on purpose: only a projector counts.
    """
    group = model.group
    gone = {path for path, record in recorded.items() if record.repo} - set(there)
    if group.format is EntryFormat.GGUF:
        gone = {path for path in gone if "mmproj" in path.rpartition("/")[2].lower()}
    return sorted(gone | {f"{group.folder}/{name}" for name in group.missing_shards})


def wanted_files(model: Model, recorded: Records, there: Iterable[str]) -> list[WantedFile]:
    """What has to be fetched again; Conflict where nobody knows where it came from."""
    damaged = [file.path for file in model.files if file.verified is Verified.DAMAGED]
    paths = damaged + missing_files(model, recorded, there)
    known = {**recorded, **model.record}
    found = [_wanted(path, known.get(path)) for path in paths]
    lost = next((path for path, file in zip(paths, found, strict=True) if file is None), None)
    if lost is not None:
        raise Conflict(f"Nobody noted where {lost} came from; fetch the model anew: yard pull REPO:QUANT.")
    return [file for file in found if file is not None]


def _wanted(path: str, record: records.FileRecord | None) -> WantedFile | None:
    sha256 = records.wanted_sha256(record)
    if record is None or sha256 is None or not (record.repo and record.revision and record.remote):
        return None
    return WantedFile(
        repo=record.repo,
        revision=record.revision,
        remote=record.remote,
        size_bytes=record.size_bytes,
        sha256=sha256,
        path=path,
    )


async def repair(root: Path, logs: Path, files: list[WantedFile], recorded: Records, meter: Meter) -> None:
    """Fetch them, and note of each that its bytes are right."""
    meter.bytes_total = sum(file.size_bytes for file in files)
    sizes = {file.path: file.size_bytes for file in files}
    done_bytes = 0
    async with aclosing(_worker(Order(root=str(root), files=tuple(files)), logs)) as messages:
        async for message in messages:
            match message:
                case Fetching():
                    meter.file, meter.bytes_done = message.path, done_bytes + message.bytes_done
                case Fetched():
                    done_bytes += sizes.pop(message.path)
                    meter.bytes_done = done_bytes
                    await asyncio.to_thread(_note, root, message.path, recorded[message.path])
                case Refused():
                    raise Conflict(message.message)
    if sizes:
        raise Conflict("The transfer was killed; start it again, it goes on where it was.")


def _note(root: Path, path: str, record: records.FileRecord) -> None:
    now, found = time.time(), inside.stat_of(root, path)
    right = msgspec.structs.replace(
        record, checked_at=now, checked_ns=found.st_mtime_ns, downloaded_at=now, damaged=False
    )
    records.note(root, {path: right})


async def _worker(order: Order, logs: Path) -> AsyncGenerator[Message, None]:
    """The process, message by message; leaving the loop kills it."""
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
        process.stdin.write(msgspec.json.encode(order) + b"\n")
        with contextlib.suppress(ConnectionError):
            await process.stdin.drain()
        async for line in process.stdout:
            yield MESSAGES.decode(line)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
