"""A cheap load generator: raw HTTP/1.1 over sockets that stay open where the server allows it."""

import asyncio
import json
import time
from dataclasses import dataclass, field

import msgspec

HELLO = [{"role": "user", "content": "Hello!"}]


@dataclass
class Samples:
    """Results of one load; times in milliseconds."""

    total_ms: list[float] = field(default_factory=list)
    first_ms: list[float] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0

    def percentile(self, share: float) -> float:
        ordered = sorted(self.total_ms)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    @property
    def first_p50_ms(self) -> float:
        return sorted(self.first_ms)[len(self.first_ms) // 2]

    @property
    def requests_per_s(self) -> float:
        return len(self.total_ms) / self.seconds

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds


@dataclass(frozen=True)
class Target:
    """A server on loopback and a model."""

    name: str
    port: int
    model: str


def request(target: Target, max_tokens: int, *, stream: bool) -> bytes:
    """The whole HTTP request."""
    body = json.dumps(
        {"model": target.model, "messages": HELLO, "max_tokens": max_tokens, "stream": stream}
    ).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{target.port}\r\n"
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


class Connection:
    """One client; it opens a new socket when the server closed the last one."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, data: bytes, samples: Samples) -> None:
        """Send a request and read its answer; times are added to `samples`."""
        started_at = time.perf_counter()
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._target.port)
        reader, writer = self._streams
        writer.write(data)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if b" 200 " not in head[:20]:
            raise RuntimeError(f"{self._target.name} answered {head[:60]!r}")
        tokens = await self._read_body(reader, head, started_at, samples)
        samples.total_ms.append((time.perf_counter() - started_at) * 1000)
        samples.tokens += tokens
        if b"connection: close" in head:
            self.close()

    async def _read_body(
        self, reader: asyncio.StreamReader, head: bytes, started_at: float, samples: Samples
    ) -> int:
        if b"content-length:" in head:
            length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
            body = await reader.readexactly(length)
            samples.first_ms.append((time.perf_counter() - started_at) * 1000)
            return int(msgspec.json.decode(body)["usage"]["completion_tokens"])
        tokens, has_started, tail = 0, False, b""
        while b"data: [DONE]" not in tail:
            data = await reader.read(65536)
            if not data:
                break
            if not has_started:
                samples.first_ms.append((time.perf_counter() - started_at) * 1000)
                has_started = True
            tokens += data.count(b'"content":')
            tail = tail[-20:] + data
        if b"chunked" in head and not tail.endswith(b"0\r\n\r\n"):
            await reader.readuntil(b"0\r\n\r\n")
        return tokens

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def load(target: Target, *, clients: int, requests: int, max_tokens: int, stream: bool) -> Samples:
    """`requests` in total, by `clients` that each send one after the other."""
    samples, data = Samples(), request(target, max_tokens, stream=stream)

    async def client() -> None:
        connection = Connection(target)
        for _ in range(requests // clients):
            await connection.send(data, samples)
        connection.close()

    started_at = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    samples.seconds = time.perf_counter() - started_at
    return samples
