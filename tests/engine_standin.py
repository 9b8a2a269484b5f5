"""A stub of a model server: `PORT NAME N_CTX`. Its chat answers contain its arguments.

`/ready` answers 503 once and 200 from then on. It starts a child process that holds its output open. If the
folder STANDIN_LOSES has two pipes, it writes its port to one, waits for the other, and exits as if another
program had taken the port.
"""

import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

requests = []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        requests.append(self.path)
        self.send_response(404 if self.path != "/ready" else 503 if len(requests) == 1 else 200)
        self.end_headers()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.path != "/v1/chat/completions":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        text = f"{sys.argv[2]} {sys.argv[3]} [{os.environ.get('CUDA_VISIBLE_DEVICES', 'all')}]"
        delta = {"role": "assistant", "content": text}
        for chunk in (
            {"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]},
            {"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
            {"id": "c", "choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": 3}},
        ):
            self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        self.wfile.write(b"data: [DONE]\n\n")


def lose_port(folder: Path, port: int) -> None:
    """The test removes the pipe, so this happens once."""
    (folder / "port").write_text(str(port))
    (folder / "taken").read_text()
    sys.exit("address already in use")


def main() -> None:
    port, loses = int(sys.argv[1]), os.environ.get("STANDIN_LOSES")
    if loses and (Path(loses) / "port").exists():
        lose_port(Path(loses), port)
    worker = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    sys.stdout.write(f"worker {worker.pid}\n")
    sys.stdout.flush()
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main()
