"""The repositories of the test hub: files, counters, faults, and their form in the hub's API."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

CHUNK_BYTES = 64 * 1024
ALWAYS = 1_000_000


@dataclass(kw_only=True)
class Faults:
    """Faults of one file; `*_times` count down, ALWAYS never reaches zero."""

    cut_after_bytes: int | None = None  # of each answer's body
    cut_times: int = ALWAYS
    statuses: list[int] = field(default_factory=list)  # answered first, one each request: 500, 429, 403...
    retry_after: str | None = None  # sent along with those
    corrupt_times: int = 0  # the first byte of the body is flipped
    bytes_per_s: float | None = None
    redirect: str | None = None  # "cdn", "loop" or a URL
    ignore_range: bool = False  # answers 200 with everything
    ignore_range_end: bool = False  # answers 206 with the rest of the file
    etag: str | None = None  # "" for none at all
    content_range: str | None = None  # sent instead of the right one
    content_length: int | None = None  # sent instead of the right one
    extra_headers: dict[str, str] = field(default_factory=dict)
    extra_bytes: bytes = b""  # after the end of the file


@dataclass(kw_only=True)
class HubFile:
    """A file with its counters: GET requests at either server, and the body bytes sent by both."""

    path: str
    content: bytes | Path
    lfs: bool
    size_bytes: int
    sha256: str
    blob_sha1: str  # git's hash of a file outside LFS
    faults: Faults = field(default_factory=Faults)
    requests: int = 0
    bytes_sent: int = 0
    in_flight: int = 0
    max_in_flight: int = 0


@dataclass(kw_only=True)
class About:
    """Metadata of a repository beside its files."""

    tags: tuple[str, ...] = ("gguf",)
    task: str | None = None
    downloads: int = 0
    likes: int = 0
    trending: int = 0
    created: str = "2026-01-01T00:00:00.000Z"
    updated: str = "2026-01-01T00:00:00.000Z"
    n_params: int | None = None
    disabled: bool = False


@dataclass(kw_only=True)
class HubRepo:
    """A repository at one commit, which `main` and the commit itself name."""

    name: str
    sha: str
    gated: bool
    hides_metadata: bool  # of a gated repository, which the real hub mostly shows
    private: bool
    files: dict[str, HubFile]
    revisions: set[str]
    about: About = field(default_factory=About)


def body_chunks(file: HubFile, start: int, end: int) -> Iterator[bytes]:
    """The bytes that the hub sends for a range, with faults."""
    corrupt = file.faults.corrupt_times > 0
    file.faults.corrupt_times -= corrupt
    rest_bytes = end - start
    for chunk in _read(file.content, start):
        if rest_bytes <= 0:
            break
        part = chunk[:rest_bytes]
        rest_bytes -= len(part)
        yield bytes([part[0] ^ 0xFF]) + part[1:] if corrupt else part
        corrupt = False
    if file.faults.extra_bytes:
        yield file.faults.extra_bytes


def _read(content: bytes | Path, start: int) -> Iterator[bytes]:
    if isinstance(content, bytes):
        for offset in range(start, len(content), CHUNK_BYTES):
            yield content[offset : offset + CHUNK_BYTES]
        return
    with content.open("rb") as file:
        file.seek(start)
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def hub_file(path: str, content: bytes | Path, lfs: bool) -> HubFile:
    """Hash and measure a file, streaming it."""
    digest, size_bytes = hashlib.sha256(), 0
    for chunk in _read(content, 0):
        digest.update(chunk)
        size_bytes += len(chunk)
    return HubFile(
        path=path,
        content=content,
        lfs=lfs,
        size_bytes=size_bytes,
        sha256=digest.hexdigest(),
        blob_sha1=digest.hexdigest()[:40] if lfs else _blob_sha1(content, size_bytes),
    )


def _blob_sha1(content: bytes | Path, size_bytes: int) -> str:
    digest = hashlib.sha1(b"blob %d\0" % size_bytes)
    for chunk in _read(content, 0):
        digest.update(chunk)
    return digest.hexdigest()


def _lfs(file: HubFile, key: str) -> dict[str, object]:
    return {"lfs": {key: file.sha256, "size": file.size_bytes, "pointerSize": 134}} if file.lfs else {}


def tree_entry(file: HubFile) -> dict[str, object]:
    """One element of the answer to `/tree/REV`."""
    entry = {"type": "file", "path": file.path, "size": file.size_bytes, "oid": file.blob_sha1}
    return entry | _lfs(file, "oid")


def model_info(repo: HubRepo, *, blobs: bool) -> dict[str, object]:
    """The response to `/api/models/ID`; sizes and hashes only with blobs."""
    siblings: list[dict[str, object]] = []
    for file in repo.files.values():
        sibling: dict[str, object] = {"rfilename": file.path}
        if blobs:
            sibling |= {"size": file.size_bytes, "blobId": file.blob_sha1} | _lfs(file, "sha256")
        siblings.append(sibling)
    return {"id": repo.name, "sha": repo.sha, "siblings": siblings} | _about(repo)


def search(repos: Iterable[HubRepo], query: Mapping[str, str]) -> list[dict[str, object]]:
    """The response to `/api/models?search=…`, filtered and sorted like the real hub's."""
    matches = [repo for repo in repos if not repo.private and _is_match(repo, query)]
    key = query.get("sort", "trendingScore")
    matches.sort(key=lambda repo: str(_about(repo)[key]).rjust(20), reverse=True)
    return [{"id": repo.name} | _about(repo) for repo in matches[: int(query.get("limit", 1000))]]


def _is_match(repo: HubRepo, query: Mapping[str, str]) -> bool:
    about, size = repo.about, repo.about.n_params
    low, high = _sizes(query.get("num_parameters", ""))
    return (
        query.get("search", "").lower() in repo.name.lower()
        and query.get("author", repo.name.partition("/")[0]) == repo.name.partition("/")[0]
        and query.get("filter", about.tags[0]) in about.tags
        and query.get("pipeline_tag", about.task) == about.task
        and ("num_parameters" not in query or (size is not None and low <= size <= high))
    )


def _sizes(text: str) -> tuple[float, float]:
    bounds = dict(part.split(":") for part in text.split(",") if part)
    return float(bounds.get("min", 0)), float(bounds.get("max", "inf"))


def _about(repo: HubRepo) -> dict[str, object]:
    about = repo.about
    return {
        "tags": list(about.tags),
        "pipeline_tag": about.task,
        "downloads": about.downloads,
        "likes": about.likes,
        "trendingScore": about.trending,
        "createdAt": about.created,
        "lastModified": about.updated,
        "private": repo.private,
        "gated": "manual" if repo.gated else False,
        "disabled": about.disabled,
        **({"gguf": {"total": about.n_params}} if about.n_params else {}),
    }
