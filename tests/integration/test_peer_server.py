"""The HTTP server for peers: a file for its token, and nothing without one."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from services.downloader.library.walk import ScannedFile
from services.downloader.peers.inventory import StoreFile
from services.downloader.peers.server import TOKEN_TTL_S, FileServer, FileTokens
from tests.integration.downloads import MIB
from tests.integration.library_yard import put, sha256

DATA = bytes(range(256)) * 8192
SHA256 = sha256(DATA)
OTHER = sha256(b"other")
PATH = "org/m/m.gguf"


class ServedFile:
    """A server with one file in its store, and a clock set by the test."""

    def __init__(self, root: Path, session: aiohttp.ClientSession) -> None:
        self.root = root
        self.now = 0.0
        self.tokens = FileTokens(now=lambda: self.now)
        self.server = FileServer(self.tokens)
        self.base = ""
        self._session = session

    def file(self, path: str = PATH) -> StoreFile:
        status = (self.root / path).stat()
        return StoreFile(self.root, ScannedFile(path, status.st_size, status.st_mtime_ns))

    def token(self) -> str:
        return self.tokens.issue(SHA256, self.file())

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
        async with self._session.request(method, f"{self.base}{path}", headers=headers) as response:
            return response.status, await response.read(), dict(response.headers)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[ServedFile]:
    root = tmp_path / "store"
    put(root, PATH, DATA)
    async with aiohttp.ClientSession() as session:
        served = ServedFile(root, session)
        port = await served.server.listen("127.0.0.1", 0)
        assert await served.server.listen("127.0.0.1", 0) == port
        served.base = f"http://127.0.0.1:{port}"
        yield served
        await served.server.stop()


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
async def test_a_range_is_sent(served: ServedFile, range_: str, start: int, end: int) -> None:
    status, body, headers = await served.get(served.token(), range_=range_)
    assert (status, body) == (206, DATA[start:end])
    assert headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(DATA)}"


async def test_without_a_range_the_whole_file_is_sent(served: ServedFile) -> None:
    status, body, headers = await served.get(served.token())
    assert (status, body, headers["Accept-Ranges"]) == (200, DATA, "bytes")


@pytest.mark.parametrize(
    "range_", [f"bytes={len(DATA)}-", "bytes=9-5", "bytes=0-1,4-5", "bytes=x-y", "lines=1-2"]
)
async def test_an_invalid_range_is_refused(served: ServedFile, range_: str) -> None:
    status, body, headers = await served.get(served.token(), range_=range_)
    assert (status, body, headers["Content-Range"]) == (416, b"", f"bytes */{len(DATA)}")


async def test_unauthorized_requests_get_an_empty_401(served: ServedFile) -> None:
    """The same response for existing and missing files: it does not reveal what the node has."""
    token = served.token()
    answers = [
        await served.get(None),
        await served.get(None, path=f"/files/{OTHER}"),
        await served.get(""),
        await served.get("x" * 43),
        await served.get("\xfc\xf6" * 20),
        await served.get(token + "x"),
        await served.get(token[:-1]),
        await served.get(token, scheme="Basic"),
        await served.get(token, method="HEAD"),
        await served.get(token, method="POST"),
        await served.get(token, path=f"/files/{OTHER}"),
        await served.get(token, path=f"/files/{SHA256}?token={token}"),
        await served.get(None, path=f"/files/{SHA256}?token={token}"),
        await served.get(token, path=f"/files/{SHA256}/../../{PATH}"),
        await served.get(token, path=f"/files/{SHA256.upper()}"),
        await served.get(token, path=f"/{PATH}"),
        await served.get(token, path="/"),
    ]
    for status, body, headers in answers:
        assert (status, body) == (401, b"")
        assert headers.keys() <= {"Server", "Content-Length", "Content-Type", "Date"}
        assert headers["Server"] == "modelyard"
    assert (await served.get(token))[0] == 200


async def test_a_header_that_is_not_text_gets_a_401(served: ServedFile) -> None:
    """It is compared as bytes; one that cannot be encoded used to be an internal error."""
    served.token()
    reader, writer = await asyncio.open_connection("127.0.0.1", int(served.base.rpartition(":")[2]))
    writer.write(b"GET /files/%s HTTP/1.1\r\nHost: x\r\n" % SHA256.encode())
    writer.write(b"Authorization: Bearer \xff\xfe\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert answer.split()[1] == b"401"


async def test_a_token_is_valid_for_one_file_and_a_minute(served: ServedFile) -> None:
    put(served.root, "other.gguf", b"other")
    other = served.tokens.issue(OTHER, served.file("other.gguf"))
    first, second = served.token(), served.token()
    assert len({first, second, other}) == 3
    assert (await served.get(other))[0] == 401
    assert (await served.get(other, path=f"/files/{OTHER}"))[1] == b"other"
    served.now = TOKEN_TTL_S - 1
    third = served.token()
    assert [(await served.get(token))[0] for token in (first, second, third)] == [200, 200, 200]
    served.now = TOKEN_TTL_S
    assert [(await served.get(token))[0] for token in (first, second, third)] == [401, 401, 200]


async def test_a_changed_file_is_not_sent(served: ServedFile) -> None:
    token, place = served.token(), served.root / PATH
    place.write_bytes(b"shorter")
    assert (await served.get(token))[:2] == (404, b"")
    put(served.root, PATH, DATA)
    os.utime(place, ns=(1, 1))
    assert (await served.get(token))[0] == 404
    place.unlink()
    assert (await served.get(token))[0] == 404
    os.mkfifo(place)
    assert (await served.get(token))[0] == 404


async def test_a_truncated_file_aborts_the_response(served: ServedFile) -> None:
    place = served.root / PATH
    os.truncate(place, 64 * MIB)
    answer = await served.begin(served.token())
    await answer.content.readexactly(1)
    os.truncate(place, 0)
    with pytest.raises(aiohttp.ClientError):
        await answer.read()
    answer.close()


async def test_no_symlink_leads_out_of_the_store(served: ServedFile, tmp_path: Path) -> None:
    """Also one that replaces a folder after the offer, with a file of the same size and time."""
    secret = put(tmp_path, "outside/m.gguf", DATA)
    before = (served.root / PATH).stat()
    os.utime(secret, ns=(before.st_atime_ns, before.st_mtime_ns))
    token = served.token()
    (served.root / PATH).unlink()
    (served.root / PATH).symlink_to(secret)
    assert (await served.get(token))[:2] == (404, b"")
    (served.root / PATH).unlink()
    (served.root / "org/m").rmdir()
    (served.root / "org/m").symlink_to(secret.parent)
    assert (await served.get(token))[:2] == (404, b"")


async def test_the_server_moves_to_another_address(served: ServedFile) -> None:
    port = await served.server.listen("127.0.0.2", 0)
    served.base = f"http://127.0.0.2:{port}"
    assert (await served.get(served.token()))[1] == DATA
    with pytest.raises(OSError):
        await served.server.listen("192.0.2.1", 0)
