"""The smallest model server, for tests of the instance lifecycle: `PORT [BEHAVIOUR …]`.

It has one thread and imports next to nothing, so it is ready in a moment. Behaviours:
`exits`: exit on any request after the first completed one, which is the runner's probe.
`silent`: accept connections and never respond. `stubborn`: ignore SIGTERM.
`family`: fork a child process that ignores SIGTERM too, and print `child PID`.
`thinks`: on a prompt with THINK in it, compute for 6 s in the only thread before the response.
`paced`: on a prompt with PACED in it, stream 100 tokens in 10 s on any machine.
"""

import os
import signal
import socket
import sys
import time

THINK_S = 6.0
PACED_TOKENS, PACE_S = 100, 0.1
HEAD = b"""HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"""
TOKEN = b"""\
data: {"id":"c","choices":[{"index":0,"delta":{"role":"assistant","content":"Hi"},"finish_reason":null}]}\n
"""
END = b"""\
data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n
data: {"id":"c","choices":[],"usage":{"prompt_tokens":2,"completion_tokens":1}}\n
data: [DONE]\n
"""
HEALTHY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def read_request(connection: socket.socket) -> bytes:
    """Head and body of one request."""
    data = b""
    while b"\r\n\r\n" not in data:
        if not (more := connection.recv(65536)):
            return b""
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    length = int(lengths[0].split(b":")[1]) if lengths else 0
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def think() -> None:
    deadline = time.monotonic() + THINK_S
    while time.monotonic() < deadline:
        pass


def stream_paced(connection: socket.socket) -> None:
    connection.sendall(HEAD)
    for _ in range(PACED_TOKENS):
        connection.sendall(TOKEN)
        time.sleep(PACE_S)
    connection.sendall(END)


def prepare(behaviour: set[str]) -> None:
    if "family" in behaviour and (child := os.fork()):
        sys.stdout.write(f"child {child}\n")
        sys.stdout.flush()
    elif "family" in behaviour:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.pause()
    if "stubborn" in behaviour:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def serve(port: int, behaviour: set[str]) -> None:
    """Serve one request after the other."""
    completed = 0
    listener = socket.create_server(("127.0.0.1", port))
    while True:
        connection = listener.accept()[0]
        request = b"" if "silent" in behaviour else read_request(connection)
        if not request:
            # A port probe; or the engine is silent.
            if "silent" in behaviour:
                OPEN.append(connection)
            continue
        if "exits" in behaviour and completed:
            sys.exit("no more of this")
        completed += respond(connection, request, behaviour)
        connection.close()


def respond(connection: socket.socket, request: bytes, behaviour: set[str]) -> bool:
    """Whether it was a completion."""
    if not request.startswith(b"POST"):
        connection.sendall(HEALTHY)
        return False
    if "thinks" in behaviour and b"THINK" in request:
        think()
    if "paced" in behaviour and b"PACED" in request:
        stream_paced(connection)
    else:
        connection.sendall(HEAD + TOKEN + END)
    return True


OPEN: list[socket.socket] = []

if __name__ == "__main__":
    prepare(set(sys.argv[2:]))
    serve(int(sys.argv[1]), set(sys.argv[2:]))
