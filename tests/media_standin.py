"""A small HTTP server in place of a model server: `PORT`. It transcribes, and streams large answers.

`/v1/audio/transcriptions` returns the size of the audio; `/v1/chat/completions` streams `max_tokens` bytes.
"""

import json
import re
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CHUNK_BYTES = 64 * 1024
PACE_S = 0.005
"""Faster than any model, slower than a cancellation."""


class Handler(BaseHTTPRequestHandler):
    """Two paths and a health check."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/v1/audio/transcriptions":
            self._transcribe(body)
        else:
            self._stream(json.loads(body))

    def _transcribe(self, body: bytes) -> None:
        boundary = re.search("boundary=([^;]+)", self.headers["Content-Type"])
        assert boundary is not None
        parts = body.split(b"--" + boundary[1].strip('"').encode())
        audio = next(part for part in parts if b'name="file"' in part).partition(b"\r\n\r\n")[2][:-2]
        text = json.dumps({"text": f"{len(audio)} bytes of sound, {audio[:4].decode()}"}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _stream(self, body: dict[str, int]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        delta = {"content": "x" * min(CHUNK_BYTES, body["max_tokens"])}
        chunk = json.dumps({"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        for _ in range(max(1, body["max_tokens"] // CHUNK_BYTES)):
            self.wfile.write(b"data: " + chunk.encode() + b"\n\n")
            time.sleep(PACE_S)
        end = {"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        usage = {"id": "c", "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}
        for last in (end, usage):
            self.wfile.write(b"data: " + json.dumps(last).encode() + b"\n\n")
        self.wfile.write(b"data: [DONE]\n\n")


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
