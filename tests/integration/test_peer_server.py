"""What a node gives over HTTP: with a token of its own and nothing else; and what else it never gives."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from services.downloader.library.walk import StoreFile
from services.downloader.peers.grants import TTL_S, Given, Grants
from services.downloader.peers.server import Server
from tests.integration.downloads import MIB
from tests.integration.library_yard import put, sha256

DATA = bytes(range(256)) * 8192
SHA256 = sha256(DATA)
OTHER = sha256(b"other")
PATH = "org/m/m.gguf"


class Giving:
    """A server with one file in its store, and a clock that the test turns."""

    def __init__(self, root: Path, session: aiohttp.ClientSession) -> None:
        self.root = root
        self.now = 0.0
        self.grants = Grants(now=lambda: self.now)
        self.server = Server(self.grants)
        self.base = ""
        self._session = session

    def given(self, path: str = PATH) -> Given:
        found = (self.root / path).stat()
        return Given(self.root, StoreFile(path, found.st_size, found.st_mtime_ns))

    def token(self) -> str:
        return self.grants.issue(SHA256, self.given())

    async def begin(self, token: str) -> aiohttp.ClientResponse:
        headers = {"Authorization": f"Bearer {token}"}
        return await self._session.get(f"{self.base}/files/{SHA256}", headers=headers)

    async def get(
        self,
        token: str | None,
        *,
        path: str = f"/files/{SHA256}",
        range_: str | None = None,
        method: str = "GET",
        scheme: str = "Bearer",
    ) -> tuple[int, bytes, dict[str, str]]:
        headers = {} if token is None else {"Authorization": f"{scheme} {token}"}
        headers |= {} if range_ is None else {"Range": range_}
        async with self._session.request(method, f"{self.base}{path}", headers=headers) as answer:
            return answer.status, await answer.read(), dict(answer.headers)


@pytest.fixture
async def giving(tmp_path: Path) -> AsyncIterator[Giving]:
    root = tmp_path / "store"
    put(root, PATH, DATA)
    async with aiohttp.ClientSession() as session:
        giving = Giving(root, session)
        port = await giving.server.listen("127.0.0.1", 0)
        assert await giving.server.listen("127.0.0.1", 0) == port
        giving.base = f"http://127.0.0.1:{port}"
        yield giving
        await giving.server.stop()


@pytest.mark.parametrize(
    ("range_", "start", "end"),
    [
        ("bytes=0-99", 0, 100),
        ("bytes=1048570-1048590", 1048570, 1048591),
        ("bytes=100-", 100, len(DATA)),
        ("bytes=-7", len(DATA) - 7, len(DATA)),
        (f"bytes=5-{len(DATA) * 9}", 5, len(DATA)),
    ],
)
async def test_a_range_is_given(giving: Giving, range_: str, start: int, end: int) -> None:
    status, body, headers = await giving.get(giving.token(), range_=range_)
    assert (status, body) == (206, DATA[start:end])
    assert headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(DATA)}"


async def test_without_a_range_everything_is_given(giving: Giving) -> None:
    status, body, headers = await giving.get(giving.token())
    assert (status, body, headers["Accept-Ranges"]) == (200, DATA, "bytes")


@pytest.mark.parametrize(
    "range_", [f"bytes={len(DATA)}-", "bytes=9-5", "bytes=0-1,4-5", "bytes=x-y", "lines=1-2"]
)
async def test_a_range_that_is_none_is_refused(giving: Giving, range_: str) -> None:
    status, body, headers = await giving.get(giving.token(), range_=range_)
    assert (status, body, headers["Content-Range"]) == (416, b"", f"bytes */{len(DATA)}")


async def test_whoever_may_not_is_told_nothing(giving: Giving) -> None:
    """The same answer for what is there and what is not: nobody learns what this node has."""
    token = giving.token()
    answers = [
        await giving.get(None),
        await giving.get(None, path=f"/files/{OTHER}"),
        await giving.get(""),
        await giving.get("x" * 43),
        await giving.get("\xfc\xf6" * 20),
        await giving.get(token + "x"),
        await giving.get(token[:-1]),
        await giving.get(token, scheme="Basic"),
        await giving.get(token, method="HEAD"),
        await giving.get(token, method="POST"),
        await giving.get(token, path=f"/files/{OTHER}"),
        await giving.get(token, path=f"/files/{SHA256}?token={token}"),
        await giving.get(None, path=f"/files/{SHA256}?token={token}"),
        await giving.get(token, path=f"/files/{SHA256}/../../{PATH}"),
        await giving.get(token, path=f"/files/{SHA256.upper()}"),
        await giving.get(token, path=f"/{PATH}"),
        await giving.get(token, path="/"),
    ]
    for status, body, headers in answers:
        assert (status, body) == (401, b"")
        assert headers.keys() <= {"Server", "Content-Length", "Content-Type", "Date"}
        assert headers["Server"] == "modelyard"
    assert (await giving.get(token))[0] == 200


async def test_a_header_that_is_no_text_is_told_nothing(giving: Giving) -> None:
    """It is compared with a token as bytes, and what cannot be written as such was an error of ours."""
    giving.token()
    reader, writer = await asyncio.open_connection("127.0.0.1", int(giving.base.rpartition(":")[2]))
    writer.write(b"GET /files/%s HTTP/1.1\r\nHost: x\r\n" % SHA256.encode())
    writer.write(b"Authorization: Bearer \xff\xfe\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert answer.split()[1] == b"401"


async def test_a_token_is_for_one_file_and_for_a_minute(giving: Giving) -> None:
    put(giving.root, "other.gguf", b"other")
    other = giving.grants.issue(OTHER, giving.given("other.gguf"))
    first, second = giving.token(), giving.token()
    assert len({first, second, other}) == 3
    assert (await giving.get(other))[0] == 401
    assert (await giving.get(other, path=f"/files/{OTHER}"))[1] == b"other"
    giving.now = TTL_S - 1
    third = giving.token()
    assert [(await giving.get(each))[0] for each in (first, second, third)] == [200, 200, 200]
    giving.now = TTL_S
    assert [(await giving.get(each))[0] for each in (first, second, third)] == [401, 401, 200]


async def test_a_file_that_is_another_by_now_is_not_given(giving: Giving) -> None:
    token, place = giving.token(), giving.root / PATH
    place.write_bytes(b"shorter")
    assert (await giving.get(token))[:2] == (404, b"")
    put(giving.root, PATH, DATA)
    os.utime(place, ns=(1, 1))
    assert (await giving.get(token))[0] == 404
    place.unlink()
    assert (await giving.get(token))[0] == 404
    os.mkfifo(place)
    assert (await giving.get(token))[0] == 404


async def test_a_file_that_becomes_shorter_breaks_off(giving: Giving) -> None:
    place = giving.root / PATH
    os.truncate(place, 64 * MIB)
    answer = await giving.begin(giving.token())
    await answer.content.readexactly(1)
    os.truncate(place, 0)
    with pytest.raises(aiohttp.ClientError):
        await answer.read()
    answer.close()


async def test_no_link_leads_out_of_the_store(giving: Giving, tmp_path: Path) -> None:
    """Also one that is put in place of a folder after the promise, with a file that looks the same."""
    secret = put(tmp_path, "outside/m.gguf", DATA)
    before = (giving.root / PATH).stat()
    os.utime(secret, ns=(before.st_atime_ns, before.st_mtime_ns))
    token = giving.token()
    (giving.root / PATH).unlink()
    (giving.root / PATH).symlink_to(secret)
    assert (await giving.get(token))[:2] == (404, b"")
    (giving.root / PATH).unlink()
    (giving.root / "org/m").rmdir()
    (giving.root / "org/m").symlink_to(secret.parent)
    assert (await giving.get(token))[:2] == (404, b"")


async def test_it_moves_to_another_address(giving: Giving) -> None:
    port = await giving.server.listen("127.0.0.2", 0)
    giving.base = f"http://127.0.0.2:{port}"
    assert (await giving.get(giving.token()))[1] == DATA
    with pytest.raises(OSError):
        await giving.server.listen("192.0.2.1", 0)
