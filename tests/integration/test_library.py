"""The library of a running downloader: records of a folder, and commands on its entries."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from modelyard.bus.records import BucketStore
from modelyard.host.settings import Settings
from schemas import buckets, subjects
from schemas.base import Role
from schemas.errors import BadRequest, Conflict, NotFound
from schemas.library import (
    DeleteEntry,
    DescribeEntry,
    EntryFormat,
    FindFile,
    FindOnNode,
    JobRef,
    JobState,
    LibraryRef,
    TrashRef,
    VerifyState,
)
from services.downloader.library import trash
from tests.integration.library_yard import Shown, gguf, library, put, sha256, shown
from tests.support import Yard

PATH = "org/repo/tiny-Q4_K_M.gguf"


@pytest.fixture
def root(settings: Settings) -> Path:
    return settings.models


@pytest.fixture
async def seen(yard: Yard) -> AsyncIterator[Shown]:
    async with library(yard), shown(yard) as seen:
        yield seen


async def test_an_entry_follows_a_file_that_is_added_and_removed_by_hand(root: Path, seen: Shown) -> None:
    file = put(root, PATH, gguf())
    entry = await seen.by_itself(PATH)
    assert (entry.node, entry.store, entry.format) == ("testnode", "models", EntryFormat.GGUF)
    assert (entry.size_bytes, entry.size) == (len(gguf()), f"{len(gguf())} B")
    assert (entry.facts.architecture, entry.facts.quant) == ("llama", "Q4_K_M")
    assert (entry.facts.n_ctx_train, entry.facts.has_chat_template) == (4096, True)
    assert entry.modified_at == pytest.approx(file.stat().st_mtime)
    assert (entry.verified, entry.problem) == (VerifyState.UNKNOWN, None)
    file.unlink()
    await seen.absent(PATH)


async def test_an_incomplete_file_is_no_entry_but_counts_as_used(root: Path, seen: Shown) -> None:
    put(root, "org/repo/big.gguf.part", bytes(1000))
    put(root, PATH, gguf())
    await seen.at(PATH)
    assert [entry.path for entry in seen.entries.values.values()] == [PATH]
    async with asyncio.timeout(8):
        await seen.spaces.until(lambda spaces: any(one.partial_bytes == 1000 for one in spaces.values()))


async def test_a_store_reports_its_path_and_space(root: Path, seen: Shown) -> None:
    put(root, PATH, gguf())
    await seen.scan()
    async with asyncio.timeout(8):
        await seen.spaces.until(lambda spaces: any(one.entries for one in spaces.values()))
    space = seen.spaces.values["testnode.models"]
    assert (space.path, space.default, space.entries) == (str(root), True, 1)
    assert space.used_bytes == len(gguf())
    assert 0 < space.free_bytes <= space.total_bytes


async def test_a_description_is_a_file_changed_by_compare_and_set(root: Path, seen: Shown) -> None:
    put(root, PATH, gguf())
    entry = await seen.at(PATH)
    written = await seen.bus.call(
        subjects.LIBRARY_DESCRIBE, DescribeEntry(entry=entry.key, description="Für Gespräche.\n", revision="")
    )
    assert (root / "org/repo/description.txt").read_text() == "Für Gespräche.\n"
    assert written.description == "Für Gespräche."
    stale = DescribeEntry(entry=entry.key, description="Mine.", revision="")
    with pytest.raises(Conflict, match="has changed since"):
        await seen.bus.call(subjects.LIBRARY_DESCRIBE, stale)
    fresh = msgspec.structs.replace(stale, revision=written.description_revision)
    await seen.bus.call(subjects.LIBRARY_DESCRIBE, fresh)
    assert (root / "org/repo/description.txt").read_text() == "Mine.\n"
    await seen.bus.call(subjects.LIBRARY_DESCRIBE, DescribeEntry(entry=entry.key, description=""))
    assert not (root / "org/repo/description.txt").exists()


async def test_a_description_written_by_an_editor_conflicts_before_it_is_scanned(
    root: Path, seen: Shown
) -> None:
    put(root, PATH, gguf())
    entry = await seen.at(PATH)
    put(root, "org/repo/description.txt", b"By hand.\n")
    blind = DescribeEntry(entry=entry.key, description="Over it.", revision=entry.description_revision)
    with pytest.raises(Conflict):
        await seen.bus.call(subjects.LIBRARY_DESCRIBE, blind)
    assert (root / "org/repo/description.txt").read_text() == "By hand.\n"


async def test_a_description_over_the_size_limit_is_not_overwritten(root: Path, seen: Shown) -> None:
    put(root, PATH, gguf())
    long = put(root, "org/repo/description.txt", b"x" * 100_000)
    entry = await seen.at(PATH)
    assert entry.description == ""
    with pytest.raises(Conflict, match="too large"):
        await seen.bus.call(subjects.LIBRARY_DESCRIBE, DescribeEntry(entry=entry.key, description="Short."))
    assert long.stat().st_size == 100_000


async def test_a_deleted_entry_is_restored_from_the_trash_unchanged(root: Path, seen: Shown) -> None:
    put(root, PATH, gguf())
    put(root, "org/repo/description.txt", b"Mine.\n")
    before = await seen.at(PATH)
    item = await seen.bus.call(subjects.LIBRARY_DELETE, DeleteEntry(entry=before.key))
    assert not (root / "org").exists()
    assert before.key not in await _keys(seen)
    assert item.expires_at == pytest.approx(time.time() + 24 * 3600, abs=60)
    assert (await seen.item()).key == item.key
    restored = await seen.bus.call(subjects.LIBRARY_RESTORE, TrashRef(item=item.key))
    assert restored.n_files == 2
    assert (root / PATH).read_bytes() == gguf()
    after = await seen.at(PATH)
    assert (after.key, after.description) == (before.key, "Mine.")
    with pytest.raises(NotFound):
        await seen.bus.call(subjects.LIBRARY_RESTORE, TrashRef(item=item.key))


async def test_a_restored_item_replaces_no_file(root: Path, seen: Shown) -> None:
    put(root, PATH, gguf())
    item = await seen.bus.call(subjects.LIBRARY_DELETE, DeleteEntry(entry=(await seen.at(PATH)).key))
    put(root, PATH, gguf("Newer"))
    with pytest.raises(Conflict, match="there again"):
        await seen.bus.call(subjects.LIBRARY_RESTORE, TrashRef(item=item.key))
    assert (root / PATH).read_bytes() == gguf("Newer")
    await seen.bus.call(subjects.LIBRARY_PURGE, TrashRef(item=item.key))
    assert list((root / trash.FOLDER).iterdir()) == []


async def test_a_link_out_of_the_store_is_shown_and_only_the_link_is_deleted(
    root: Path, tmp_path: Path, seen: Shown
) -> None:
    outside = put(tmp_path, "outside/model.gguf", gguf())
    (root / "linked.gguf").symlink_to(outside)
    (root / "folder").symlink_to(outside.parent)
    entry = await seen.at("linked.gguf")
    assert (entry.format, entry.link, entry.size_bytes) == (EntryFormat.LINK, str(outside), 0)
    folder = await seen.at("folder")
    for one in (entry, folder):
        await seen.bus.call(subjects.LIBRARY_DELETE, DeleteEntry(entry=one.key))
    await seen.bus.call(subjects.LIBRARY_EMPTY, FindOnNode())
    assert outside.read_bytes() == gguf()
    assert not os.path.lexists(root / "linked.gguf")


async def test_a_link_in_place_of_a_folder_is_not_followed_by_a_deletion(
    root: Path, tmp_path: Path, seen: Shown
) -> None:
    put(root, PATH, gguf())
    entry = await seen.at(PATH)
    put(tmp_path, "outside/tiny-Q4_K_M.gguf", gguf())
    (root / "org/repo").rename(tmp_path / "moved")
    (root / "org/repo").symlink_to(tmp_path / "outside")
    with pytest.raises(NotFound):
        await seen.bus.call(subjects.LIBRARY_DELETE, DeleteEntry(entry=entry.key))
    assert (tmp_path / "outside/tiny-Q4_K_M.gguf").exists()


async def test_a_verification_records_the_hash_and_a_later_one_finds_damage(root: Path, seen: Shown) -> None:
    file = put(root, PATH, gguf())
    entry = await seen.at(PATH)
    job = await seen.bus.call(subjects.LIBRARY_VERIFY, LibraryRef(entry=entry.key))
    ended = await seen.ended(job)
    assert (ended.state, ended.bytes_done, ended.damaged) == (JobState.FINISHED, len(gguf()), ())
    await seen.until(entry.key, lambda one: one.verified is VerifyState.VERIFIED)
    result = await seen.bus.call(subjects.LIBRARY_FIND, FindFile(sha256=sha256(gguf())))
    assert [(file.node, file.store, file.path) for file in result.files] == [("testnode", "models", PATH)]
    # A flipped bit in the last of its zeros: same size, same header.
    file.write_bytes(gguf()[:-1] + b"\1")
    await seen.scan()
    await seen.until(entry.key, lambda one: one.verified is VerifyState.UNVERIFIED)
    ended = await seen.ended(await seen.bus.call(subjects.LIBRARY_VERIFY, LibraryRef(entry=entry.key)))
    assert ended.damaged == (PATH,)
    await seen.until(entry.key, lambda one: one.damaged == (PATH,))
    with pytest.raises(Conflict, match="The source of"):
        await seen.bus.call(subjects.LIBRARY_REPAIR, LibraryRef(entry=entry.key))


async def test_a_verification_can_be_cancelled(root: Path, seen: Shown) -> None:
    put(root, PATH, gguf(padding=bytes(64 * 1024 * 1024)))
    entry = await seen.at(PATH)
    job = await seen.bus.call(subjects.LIBRARY_VERIFY, LibraryRef(entry=entry.key))
    same = await seen.bus.call(subjects.LIBRARY_VERIFY, LibraryRef(entry=entry.key))
    assert same.job == job.job
    cancelled = await seen.bus.call(subjects.LIBRARY_CANCEL, JobRef(job=job.job))
    assert cancelled.state in (JobState.CANCELLED, JobState.FINISHED)
    with pytest.raises(NotFound):
        await seen.bus.call(subjects.LIBRARY_CANCEL, JobRef(job="nothing"))


@pytest.mark.parametrize(
    "key", ["", "x", "testnode.models", "a.b.c.d", "../../x", "testnode.models.ZZ", "a b.c.d"]
)
async def test_an_invalid_key_is_refused(seen: Shown, key: str) -> None:
    with pytest.raises(BadRequest):
        await seen.bus.call(subjects.LIBRARY_SHOW, LibraryRef(entry=key))


async def test_unknown_entries_items_and_jobs_are_not_found(seen: Shown) -> None:
    for key in ("testnode.models.0123456789abcdef", "testnode.nowhere.0123456789abcdef"):
        with pytest.raises(NotFound):
            await seen.bus.call(subjects.LIBRARY_SHOW, LibraryRef(entry=key))
        with pytest.raises(NotFound):
            await seen.bus.call(subjects.LIBRARY_RESTORE, TrashRef(item=key))


async def test_facts_read_before_a_restart_are_not_read_again(yard: Yard, root: Path) -> None:
    put(root, PATH, gguf())
    async with shown(yard) as seen:
        async with library(yard):
            first = await seen.at(PATH)
        revision = seen.entries.revisions[first.key]
        place, past = root / PATH, (root / PATH).stat()
        place.write_bytes(b"x" * past.st_size)
        os.utime(place, ns=(past.st_atime_ns, past.st_mtime_ns))
        async with library(yard):
            await seen.scan()
            assert seen.entries.values[first.key].facts == first.facts
            assert seen.entries.revisions[first.key] == revision


async def test_an_interrupted_job_resumes_after_a_restart(yard: Yard, root: Path) -> None:
    put(root, PATH, gguf())
    async with shown(yard) as seen:
        async with library(yard):
            entry = await seen.at(PATH)
            job = await seen.bus.call(subjects.LIBRARY_VERIFY, LibraryRef(entry=entry.key))
            job = await seen.ended(job)
        cut_off = msgspec.structs.replace(job, job="cutoff", state=JobState.RUNNING, created_at=time.time())
        await BucketStore(await yard.bus(Role.DOWNLOADER), buckets.JOBS).put("cutoff", cut_off, ttl_s=600)
        async with library(yard):
            assert (await seen.ended(cut_off)).state is JobState.FINISHED


async def test_an_interrupted_deletion_completes_at_the_next_start(yard: Yard, root: Path) -> None:
    put(root, PATH, gguf())
    put(root, "org/repo/README.md", b"About it.")
    async with shown(yard) as seen:
        async with library(yard):
            entry = await seen.at(PATH)
            item = await seen.bus.call(subjects.LIBRARY_DELETE, DeleteEntry(entry=entry.key))
        # As if it had been killed between two files.
        place = root / trash.FOLDER / item.item
        manifest = msgspec.json.decode((place / "manifest.json").read_bytes())
        (place / "manifest.json").write_bytes(msgspec.json.encode(manifest | {"phase": "trashing"}))
        (root / "org/repo").mkdir(parents=True)
        (place / "files/org/repo/README.md").rename(root / "org/repo/README.md")
        async with library(yard):
            await seen.item()
            await seen.bus.call(subjects.LIBRARY_SCAN, FindOnNode())
            assert not (root / "org").exists()
            await seen.bus.call(subjects.LIBRARY_RESTORE, TrashRef(item=item.key))
            assert (root / "org/repo/README.md").read_bytes() == b"About it."


async def test_an_expired_item_of_the_trash_is_purged_after_a_restart(yard: Yard, root: Path) -> None:
    put(root, PATH, gguf())
    async with shown(yard) as seen:
        async with library(yard):
            entry = await seen.at(PATH)
            item = await seen.bus.call(subjects.LIBRARY_DELETE, DeleteEntry(entry=entry.key))
        place = root / trash.FOLDER / item.item / "manifest.json"
        manifest = msgspec.json.decode(place.read_bytes())
        place.write_bytes(msgspec.json.encode(manifest | {"trashed_at": time.time() - 25 * 3600}))
        async with library(yard):
            async with asyncio.timeout(8):
                await seen.trashed.until(lambda items: not items)
            assert list((root / trash.FOLDER).iterdir()) == []


async def test_a_command_is_forwarded_to_the_node_of_its_entry(
    yard: Yard, root: Path, tmp_path: Path
) -> None:
    there = msgspec.structs.replace(yard.settings, node="other", stores={"disk": tmp_path / "disk"})
    put(tmp_path / "disk", "x.gguf", gguf("There"))
    put(root, PATH, gguf())
    async with library(yard), library(yard, there), shown(yard) as seen:
        here, other = await seen.at(PATH, "testnode"), await seen.at("x.gguf", "other")
        assert (other.node, other.store) == ("other", "disk")
        async with asyncio.timeout(8):
            await seen.spaces.until(lambda spaces: {"testnode.models", "other.disk"} <= spaces.keys())
        # Any downloader may get them, so every one is queried several times.
        for _ in range(4):
            for entry in (here, other):
                details = await seen.bus.call(subjects.LIBRARY_SHOW, LibraryRef(entry=entry.key))
                assert details.entry.path == entry.path
        for entry in (here, other):
            job = await seen.bus.call(subjects.LIBRARY_VERIFY, LibraryRef(entry=entry.key))
            assert (await seen.ended(job)).node == entry.node
        await seen.scan("other")
        result = await seen.bus.call(subjects.LIBRARY_FIND, FindFile(sha256=sha256(gguf("There"))))
        assert [(file.node, file.path) for file in result.files] == [("other", "x.gguf")]
        with pytest.raises(BadRequest, match="other, testnode"):
            await seen.bus.call(subjects.LIBRARY_EMPTY, FindOnNode())


async def _keys(seen: Shown) -> set[str]:
    await seen.scan()
    async with asyncio.timeout(8):
        await seen.entries.until(lambda entries: not entries)
    return set(seen.entries.values)
