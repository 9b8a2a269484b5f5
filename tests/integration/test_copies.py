"""Entries brought from node to node, with no hub anywhere."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from schemas import subjects
from schemas.base import Role
from schemas.errors import BadRequest, Conflict, NotFound, ServiceUnavailable, YardError
from schemas.library import CopyEntry, JobState, LibraryEntry, LibraryJob, LibraryRef, VerifyState
from schemas.peers import ListEntryFiles, ListRepoFiles, RequestFile
from tests.commands import run_command
from tests.integration.downloads import MIB, model_bytes
from tests.integration.library_yard import Shown, gguf, put, sha256, shown
from tests.integration.nodes import killed, node, process, running, spoiled
from tests.support import Yard


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("HF_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


@pytest.fixture
async def seen(yard: Yard) -> AsyncIterator[Shown]:
    async with shown(yard) as seen:
        yield seen


async def ordered(seen: Shown, entry: LibraryEntry, at: str = "b") -> LibraryJob:
    return await seen.bus.call(subjects.LIBRARY_COPY, CopyEntry(entry=entry.key, node=at))


async def copied(seen: Shown, entry: LibraryEntry, at: str = "b") -> LibraryJob:
    return await seen.ended(await ordered(seen, entry, at))


def files_of(root: Path) -> dict[str, bytes]:
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if path.name != ".modelyard.json"}


async def test_a_copy_has_all_companion_files_of_its_entry(yard: Yard, seen: Shown) -> None:
    a, b = node(yard, "a"), node(yard, "b")
    files = {
        "mine/config.json": b'{"model_type": "llama"}',
        "mine/model.safetensors": (2).to_bytes(8, "little") + b"{}",
        "mine/empty.txt": b"",
        "mine/description.txt": b"Von mir selbst.",
    }
    for path, data in files.items():
        put(a.models, path, data)
    put(a.models, "other/m.gguf", gguf())
    async with running(yard, a), running(yard, b):
        done = await copied(seen, await seen.at("mine", "a"))
        assert (done.error, done.state, done.node) == (None, JobState.FINISHED, "b")
        total = sum(map(len, files.values()))
        assert (done.bytes_done, done.bytes_total, done.received) == (total, total, {"a": total})
        assert files_of(b.models) == files
        there = await seen.at("mine", "b")
        async with asyncio.timeout(8):
            await seen.entries.until(lambda all_: any(one.node == "b" for one in all_.values()))
        there = next(one for one in seen.entries.values.values() if one.node == "b")
        assert (there.verified, there.downloaded_at) == (VerifyState.VERIFIED, None)
        assert there.description == "Von mir selbst."
        again = await copied(seen, await seen.at("mine", "a"))
        assert (again.state, again.received) == (JobState.FINISHED, {})


async def test_a_copy_has_the_projector_that_several_models_share(yard: Yard, seen: Shown) -> None:
    a, b = node(yard, "a"), node(yard, "b")
    files = {f"org/v/{name}": gguf(name) for name in ("v-Q4_0.gguf", "mmproj-F16.gguf")}
    for path, data in files.items():
        put(a.models, path, data)
    put(a.models, "org/v/v-Q8_0.gguf", gguf("another quant"))
    async with running(yard, a), running(yard, b):
        done = await copied(seen, await seen.at("org/v/v-Q4_0.gguf", "a"))
        assert (done.error, done.received) == (None, {"a": sum(map(len, files.values()))})
        assert files_of(b.models) == files


async def test_a_killed_copy_resumes(yard: Yard, seen: Shown, tmp_path: Path) -> None:
    data = model_bytes(96 * MIB)
    a, b = node(yard, "a"), node(yard, "b")
    b = msgspec.structs.replace(b, download_segments=1)
    put(a.models, "large.gguf", data)
    part = b.models / "large.gguf.part"
    async with running(yard, a):
        entry = await seen.at("large.gguf", "a")
        async with process(yard, b, tmp_path / "b.log") as taking:
            job = await there(seen, entry)
            async with asyncio.timeout(30):
                while not part.exists() or journaled(part) < MIB:
                    await asyncio.sleep(0)
            await killed(taking)
        had = journaled(part)
        async with running(yard, b):
            done = await seen.ended(job)
        assert (done.error, done.state) == (None, JobState.FINISHED)
        assert (b.models / "large.gguf").read_bytes() == data
        assert done.received["a"] <= len(data) - had


async def there(seen: Shown, entry: LibraryEntry) -> LibraryJob:
    """The order, as soon as the node takes one."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await ordered(seen, entry)
            except (ServiceUnavailable, NotFound):
                await asyncio.sleep(0.05)


def journaled(part: Path) -> int:
    """How many bytes the journal beside a part claims."""
    journal = part.with_suffix(".jrnl")
    lines = journal.read_bytes().splitlines() if journal.exists() else []
    ranges = [line for line in map(_decoded, lines) if line and line[0] == "written"]
    return sum(end - start for _, start, end in ranges)


def _decoded(line: bytes) -> list[object]:
    try:
        return msgspec.json.decode(line, type=list[object])
    except msgspec.DecodeError:
        return []


async def test_a_copy_replaces_no_file(yard: Yard, seen: Shown) -> None:
    a, b = node(yard, "a"), node(yard, "b")
    put(a.models, "m.gguf", gguf("mine"))
    theirs = put(b.models, "m.gguf", gguf("ours"))
    async with running(yard, a), running(yard, b):
        entry = await seen.at("m.gguf", "a")
        async with asyncio.timeout(8):
            await seen.entries.until(lambda all_: {one.node for one in all_.values()} == {"a", "b"})
        entry = next(one for one in seen.entries.values.values() if one.node == "a")
        done = await copied(seen, entry)
        assert done.state is JobState.FAILED
        assert done.error is not None
        assert "m.gguf is in the store already, and it is another file" in done.error.message
        assert theirs.read_bytes() == gguf("ours")


async def test_a_damaged_file_does_not_count_as_copied(yard: Yard, seen: Shown) -> None:
    a, b = node(yard, "a"), node(yard, "b")
    place = put(a.models, "m.gguf", gguf(padding=bytes(100)))
    async with running(yard, a), running(yard, b):
        entry = await seen.at("m.gguf", "a")
        await seen.ended(await seen.bus.call(subjects.LIBRARY_VERIFY, LibraryRef(entry=entry.key)))
        spoiled(place)
        done = await copied(seen, entry)
        assert done.state is JobState.FAILED
        assert done.error is not None
        assert "m.gguf of a does not match its record" in done.error.message
        assert files_of(b.models) == {}


@pytest.mark.parametrize(
    ("entry", "at", "error"),
    [
        ("a.models.0123456789abcdef", "b", NotFound),
        ("a.models.{m}", "a", Conflict),
        ("c.models.{m}", "b", ServiceUnavailable),
        ("a.models.{m}", "c", ServiceUnavailable),
        ("a.models.{m}", "../b", YardError),
        ("a.superseded.{m}", "b", NotFound),
        ("../a.models.x", "b", BadRequest),
    ],
)
async def test_an_invalid_copy_is_refused(
    yard: Yard, seen: Shown, entry: str, at: str, error: type[YardError]
) -> None:
    a, b = node(yard, "a"), node(yard, "b")
    put(a.models, "m.gguf", gguf())
    async with running(yard, a), running(yard, b):
        key = entry.format(m=(await seen.at("m.gguf", "a")).entry)
        with pytest.raises(error) as refused:
            await seen.bus.call(subjects.LIBRARY_COPY, CopyEntry(entry=key, node=at))
        assert refused.value.message.endswith(".")


async def test_the_command_line_copies(yard: Yard, seen: Shown) -> None:
    a, b = node(yard, "a"), node(yard, "b")
    put(a.models, "m.gguf", gguf())
    async with running(yard, a), running(yard, b):
        await seen.at("m.gguf", "a")
        done = await run_command(yard, "library", "copy", "m.gguf", "--node", "b")
        assert (done.code, done.err) == (0, "")
        assert "m is in b.models" in done.out
        assert "from a" in done.out
        assert files_of(b.models) == {"m.gguf": gguf()}


async def test_a_node_offers_only_its_own_files_and_only_to_downloaders(yard: Yard, seen: Shown) -> None:
    a = node(yard, "a")
    put(a.models, "m.gguf", gguf())
    right = sha256(gguf())
    async with running(yard, a):
        entry = await seen.at("m.gguf", "a")
        peer = await yard.bus(Role.DOWNLOADER)

        async def offer(wanted: str, size_bytes: int, host: str = "127.0.0.1") -> str:
            query = RequestFile(sha256=wanted, size_bytes=size_bytes, node="b", host=host)
            return (await peer.call(subjects.PEER_OFFER, query, node="a")).url

        with pytest.raises(NotFound):
            await offer(right, len(gguf()))  # its sha256 is not computed yet
        await peer.call(subjects.PEER_ENTRY, ListEntryFiles(entry=entry.key), node="a")
        assert (await offer(right, len(gguf()))).endswith(f"/files/{right}")
        for wanted, size_bytes, host in (
            (right, 1, "127.0.0.1"),
            ("0" * 64, len(gguf()), "127.0.0.1"),
            (right, len(gguf()), "192.168.7.7"),
            (right, len(gguf()), "no address"),
        ):
            with pytest.raises(NotFound):
                await offer(wanted, size_bytes, host)
        with pytest.raises(YardError):
            await peer.call(subjects.PEER_ENTRY, ListEntryFiles(entry="a.models.x/../y"), node="a")
        with pytest.raises(NotFound):
            await peer.call(subjects.PEER_REPO, ListRepoFiles(repo="org/none"), node="a")
        stranger = await yard.bus(Role.GATEWAY)
        with pytest.raises(YardError):
            query = RequestFile(sha256=right, size_bytes=len(gguf()), node="b", host="127.0.0.1")
            await stranger.call(subjects.PEER_OFFER, query, node="a", timeout_s=0.3)
