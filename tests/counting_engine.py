"""A model server that counts its answers: `PORT FILE`. The nth answer reports n prompt tokens.

Only requests that contain COUNT are counted, so a runner's probe is not. The number is written to the file
before the last chunk of the answer is sent.
"""

import itertools
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

DELAY_S = 0.05
numbers = itertools.count(1)
lock = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    """Streams one word and the usage."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.send_chunk({"index": 0, "delta": {"role": "assistant", "content": "Hi"}, "finish_reason": None})
        time.sleep(DELAY_S)
        self.send_chunk({"index": 0, "delta": {}, "finish_reason": "stop"})
        number = self.next_number() if b"COUNT" in body else 1
        self.send_chunk(usage={"prompt_tokens": number, "completion_tokens": 2})
        self.wfile.write(b"data: [DONE]\n\n")

    def send_chunk(self, *choices: object, **more: object) -> None:
        chunk = {"id": "c", "choices": choices, **more}
        self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")

    def next_number(self) -> int:
        with lock, Path(sys.argv[2]).open("a") as file:
            number = next(numbers)
            file.write(f"{number}\n")
        return number

    def log_message(self, *_: object) -> None:
        """Log nothing."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
