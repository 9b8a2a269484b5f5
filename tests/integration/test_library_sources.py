"""Where the library's files come from: transfers that leave a record, repairs, and the Hub's own cache."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modelyard.bus.connection import Bus
from modelyard.bus.tasks import Tasks
from modelyard.host.settings import Settings
from schemas import subjects
from schemas.base import Role
from schemas.downloads import StartDownload
from schemas.errors import NotFound
from schemas.library import FindFile, FindOnNode, ImportCached, JobState, LibraryRef, VerifyState
from services.downloader import service
from tests.hub import Hub
from tests.integration.library_yard import Shown, gguf, library, put, sha256, shown
from tests.support import Yard

REPO = "org/tiny-GGUF"
COMMIT = "c" * 40


@pytest.fixture
async def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Hub]:
    async with Hub() as hub:
        for name in [name for name in os.environ if name.startswith("HF_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        yield hub


async def test_a_repair_fetches_only_the_damaged_file_of_a_pulled_model(
    yard: Yard, hub: Hub, settings: Settings
) -> None:
    shards = {f"m-Q4_0-0000{n}-of-00002.gguf": gguf(f"Part {n}") for n in (1, 2)}
    hub.add_repo(REPO, shards)
    bus = await Bus.connect(settings, Role.DOWNLOADER, url=yard.url)
    (settings.run / "demo-registered").touch()
    async with Tasks() as tasks, shown(yard) as seen:
        await service.main(bus, settings, tasks)
        await _pulled(seen)
        entry = await seen.at(f"{REPO}/m-Q4_0-00001-of-00002.gguf")
        assert (entry.verified, entry.facts.n_shards) == (VerifyState.VERIFIED, 2)
        assert entry.source is not None
        assert (entry.source.repo, entry.downloaded_at is not None) == (REPO, True)
        second = settings.models / REPO / "m-Q4_0-00002-of-00002.gguf"
        second.write_bytes(gguf("Part 2")[:-1] + b"\1")
        ended = await seen.ended(await seen.bus.call(subjects.LIBRARY_VERIFY, LibraryRef(entry=entry.key)))
        assert ended.damaged == (f"{REPO}/{second.name}",)
        before = len(hub.requests)
        ended = await seen.ended(await seen.bus.call(subjects.LIBRARY_REPAIR, LibraryRef(entry=entry.key)))
        assert (ended.state, ended.error) == (JobState.FINISHED, None)
        assert second.read_bytes() == gguf("Part 2")
        assert {request.path.rpartition("/")[2] for request in hub.requests[before:]} == {second.name}
        await seen.scan()
        await seen.until(entry.key, lambda one: one.verified is VerifyState.VERIFIED and not one.damaged)
        second.unlink()
        await seen.scan()
        await seen.until(entry.key, lambda one: "1 of its 2 files are missing" in (one.problem or ""))
        await seen.ended(await seen.bus.call(subjects.LIBRARY_REPAIR, LibraryRef(entry=entry.key)))
        assert second.read_bytes() == gguf("Part 2")
    await bus.nc.close()


async def _pulled(seen: Shown) -> None:
    """No models are registered here, only files."""
    await seen.bus.call(subjects.DOWNLOAD_START, StartDownload(reference=f"{REPO}:Q4_0"))
    async with asyncio.timeout(20):
        await seen.entries.until(
            lambda all_: any(one.verified is VerifyState.VERIFIED for one in all_.values())
        )


def cached(home: Path, files: dict[str, bytes], repo: str = REPO) -> Path:
    """A snapshot as the Hub's library leaves it."""
    folder = home / "hub" / f"models--{repo.replace('/', '--')}"
    snapshot = folder / "snapshots" / COMMIT
    put(folder, "refs/main", COMMIT.encode())
    for name, data in files.items():
        digest = sha256(data) if name.endswith(".gguf") else sha256(data)[:40]
        put(folder, f"blobs/{digest}", data)
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(os.path.relpath(folder / "blobs" / digest, (snapshot / name).parent))
    return snapshot


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    return tmp_path / "hf"


async def test_an_import_from_the_hub_cache_takes_no_disk_space(
    yard: Yard, settings: Settings, home: Path
) -> None:
    snapshot = cached(home, {"m-Q4_0.gguf": gguf(), "README.md": b"About it."})
    async with library(yard), shown(yard) as seen:
        listed = await seen.bus.call(subjects.LIBRARY_CACHED, FindOnNode())
        assert [(model.repo, model.revision, model.n_files, model.imported) for model in listed.models] == [
            (REPO, COMMIT, 2, False)
        ]
        job = await seen.bus.call(subjects.LIBRARY_IMPORT, ImportCached(repo=REPO))
        ended = await seen.ended(job)
        assert (ended.state, ended.linked, ended.error) == (JobState.FINISHED, 2, None)
        entry = await seen.at(f"{REPO}/m-Q4_0.gguf")
        assert entry.verified is VerifyState.UNVERIFIED
        assert (settings.models / entry.path).samefile(snapshot / "m-Q4_0.gguf")
        details = await seen.bus.call(subjects.LIBRARY_SHOW, LibraryRef(entry=entry.key))
        assert details.files[0].sha256 == sha256(gguf())
        where = await seen.bus.call(subjects.LIBRARY_FIND, FindFile(sha256=sha256(gguf())))
        assert where.files[0].path == entry.path
        again = await seen.ended(await seen.bus.call(subjects.LIBRARY_IMPORT, ImportCached(repo=REPO)))
        assert (again.state, again.linked) == (JobState.FINISHED, 0)
        listed = await seen.bus.call(subjects.LIBRARY_CACHED, FindOnNode())
        assert listed.models[0].imported
        with pytest.raises(NotFound):
            await seen.bus.call(subjects.LIBRARY_IMPORT, ImportCached(repo="org/other"))


async def test_an_import_replaces_no_file_and_follows_no_link_out_of_the_cache(
    yard: Yard, settings: Settings, home: Path, tmp_path: Path
) -> None:
    snapshot = cached(home, {"m-Q4_0.gguf": gguf()})
    (snapshot / "secret.gguf").symlink_to(put(tmp_path, "secret", b"secret"))
    put(settings.models, f"{REPO}/m-Q4_0.gguf", b"mine")
    async with library(yard), shown(yard) as seen:
        job = await seen.bus.call(subjects.LIBRARY_IMPORT, ImportCached(repo=REPO))
        ended = await seen.ended(job)
        assert ended.state is JobState.FAILED
        assert ended.error is not None
        assert "another file" in ended.error.message
        assert (settings.models / REPO / "m-Q4_0.gguf").read_bytes() == b"mine"
        (settings.models / REPO / "m-Q4_0.gguf").unlink()
        ended = await seen.ended(await seen.bus.call(subjects.LIBRARY_IMPORT, ImportCached(repo=REPO)))
        assert ended.state is JobState.FINISHED
        assert not (settings.models / REPO / "secret.gguf").exists()
