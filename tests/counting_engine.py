"""A model server that counts what it answers: `PORT FILE`. The nth answer says it had n prompt tokens.

Only requests with COUNT in them are counted; the probe of a runner is none. The number is written before
the last piece of the answer is sent.
"""

import itertools
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

THINK_S = 0.05
numbers = itertools.count(1)
writing = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    """Streams one word and what it used."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.say({"index": 0, "delta": {"role": "assistant", "content": "Hi"}, "finish_reason": None})
        time.sleep(THINK_S)
        self.say({"index": 0, "delta": {}, "finish_reason": "stop"})
        number = self.count() if b"COUNT" in body else 1
        self.say(usage={"prompt_tokens": number, "completion_tokens": 2})
        self.wfile.write(b"data: [DONE]\n\n")

    def say(self, *choices: object, **more: object) -> None:
        chunk = {"id": "c", "choices": choices, **more}
        self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")

    def count(self) -> int:
        with writing, Path(sys.argv[2]).open("a") as file:
            number = next(numbers)
            file.write(f"{number}\n")
        return number

    def log_message(self, *_: object) -> None:
        """Say nothing."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
