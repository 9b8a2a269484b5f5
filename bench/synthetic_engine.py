"""An engine faster than any model, with the interface of llama-server, to measure the yard's own cost.

It is started as a llama-server (`YARD_LLAMA_SERVER`) and answers every
completion with `max_tokens` words, at once or at a pace of `YARD_BENCH_PACE_TOKENS_S` a stream.
"""

import argparse
import asyncio
import json
import os
import sys
from typing import cast

import uvloop

PACE_TOKENS_S = float(os.environ.get("YARD_BENCH_PACE_TOKENS_S", "0"))
_ID = "chatcmpl-bench"
_EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


def chunk(**fields: object) -> bytes:
    """One event of a chat completion."""
    body = {"id": _ID, "object": "chat.completion.chunk", "created": 0, "model": "bench", **fields}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


WORD = chunk(choices=[{"index": 0, "delta": {"content": "word "}, "finish_reason": None}])
LAST = chunk(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
DONE = b"data: [DONE]\n\n"


def usage(tokens: int) -> bytes:
    counts = {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": tokens + 1}
    return chunk(choices=[], usage=counts)


def completion(tokens: int) -> bytes:
    """The whole answer for a client that does not stream."""
    message = {"role": "assistant", "content": "word " * tokens}
    body = {
        "id": _ID,
        "object": "chat.completion",
        "created": 0,
        "model": "bench",
        "choices": [{"index": 0, "message": message, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": tokens + 1},
    }
    return json.dumps(body).encode()


class Connection(asyncio.Protocol):
    """One request a connection, as llama-server has it."""

    def __init__(self) -> None:
        self._data = b""
        self._transport: asyncio.Transport | None = None
        self._pacing: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods of asyncio's classes without inheriting from them.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, separator, body = self._data.partition(b"\r\n\r\n")
        if not separator:
            return
        length = next(
            (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
        )
        if len(body) >= length:
            self._respond(head, body)

    def _respond(self, head: bytes, body: bytes) -> None:
        assert self._transport is not None
        path = head.split(b" ", 2)[1]
        if path == b"/health":
            self._send(b'{"status":"ok"}')
        elif path == b"/slots":
            self._send(b"[]")
        else:
            request = json.loads(body)
            tokens = request.get("max_tokens") or 1
            if not request.get("stream"):
                self._send(completion(tokens))
                return
            if PACE_TOKENS_S:
                self._pacing = asyncio.ensure_future(self._paced(tokens))
                return
            self._transport.write(_EVENTS + WORD * tokens + LAST + usage(tokens) + DONE)
            self._transport.close()

    async def _paced(self, tokens: int) -> None:
        assert self._transport is not None
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        self._transport.write(_EVENTS)
        for number in range(tokens):
            if self._transport.is_closing():
                return
            self._transport.write(WORD)
            await asyncio.sleep(started_at + (number + 1) / PACE_TOKENS_S - loop.time())
        self._transport.write(LAST + usage(tokens) + DONE)
        self._transport.close()

    def _send(self, body: bytes) -> None:
        assert self._transport is not None
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: "
        self._transport.write(head + str(len(body)).encode() + b"\r\n\r\n" + body)
        self._transport.close()


async def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    options, _ = parser.parse_known_args()
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", options.port)
    port = server.sockets[0].getsockname()[1]
    print(f"listening on http://127.0.0.1:{port}", file=sys.stderr, flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
