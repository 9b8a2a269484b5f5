#!/usr/bin/env python3
"""A stub of llama.cpp's RPC server: answers HELLO, and echoes everything else."""

import socketserver
import sys

HELLO_BYTES = 1 + 8 + 24


class Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while data := self.request.recv(65536):
            if data[0] == 14 and len(data) == HELLO_BYTES:
                self.request.sendall((28).to_bytes(8, "little") + bytes([7, 0, 0]) + bytes(25))
            else:
                self.request.sendall(data)


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


if __name__ == "__main__":
    with Server(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler) as server:
        server.serve_forever()
