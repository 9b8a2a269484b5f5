"""Workers: llama.cpp's RPC server on one node, the instance that uses it on another, and the tunnel between.

The RPC server accepts every connection, so it listens on loopback only. A guard in front of it admits only a
client that proves to know a secret of the instance and this worker. The tunnel is not encrypted.
"""
