"""The smallest model server there is, for tests of the life cycle: `PORT [BEHAVIOUR …]`.

It has one thread and imports next to nothing, so that it is there in a moment. What it may be told to do:
`exits`: end when it is asked anything after its first answer, which is that to the runner's probe.
`silent`: accept connections and never answer. `stubborn`: be deaf to SIGTERM.
`family`: start a process of its own, deaf to SIGTERM too, and print `child PID`.
`thinks`: at a prompt with THINK in it compute for 6 s in its only thread before it answers.
"""

import os
import signal
import socket
import sys
import time

THINK_S = 6.0
HELLO = b"""HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n\
data: {"id":"c","choices":[{"index":0,"delta":{"role":"assistant","content":"Hi"},"finish_reason":null}]}\n
data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n
data: {"id":"c","choices":[],"usage":{"prompt_tokens":2,"completion_tokens":1}}\n
data: [DONE]\n
"""
HEALTHY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def read(connection: socket.socket) -> bytes:
    """One request, head and body."""
    data = b""
    while b"\r\n\r\n" not in data:
        if not (more := connection.recv(65536)):
            return b""
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    wanted = int(lengths[0].split(b":")[1]) if lengths else 0
    while len(body) < wanted:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def think() -> None:
    until = time.monotonic() + THINK_S
    while time.monotonic() < until:
        pass


def begin(behaviour: set[str]) -> None:
    """What is to be done before it listens."""
    if "family" in behaviour and (child := os.fork()):
        sys.stdout.write(f"child {child}\n")
        sys.stdout.flush()
    elif "family" in behaviour:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.pause()
    if "stubborn" in behaviour:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def serve(port: int, behaviour: set[str]) -> None:
    """Answer one after the other."""
    answered = 0
    listener = socket.create_server(("127.0.0.1", port))
    while True:
        connection = listener.accept()[0]
        asked = b"" if "silent" in behaviour else read(connection)
        if not asked:
            # One that only looks whether somebody listens; or nobody is ever answered.
            if "silent" in behaviour:
                HELD.append(connection)
            continue
        if "exits" in behaviour and answered:
            sys.exit("no more of this")
        if asked.startswith(b"POST"):
            if "thinks" in behaviour and b"THINK" in asked:
                think()
            answered += 1
        connection.sendall(HELLO if asked.startswith(b"POST") else HEALTHY)
        connection.close()


HELD: list[socket.socket] = []

if __name__ == "__main__":
    begin(set(sys.argv[2:]))
    serve(int(sys.argv[1]), set(sys.argv[2:]))
