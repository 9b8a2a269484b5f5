"""Workers: llama.cpp's RPC server on one node, the instance that uses it on another, and the way between.

The RPC server takes whoever connects, so it listens on loopback only. In front of it stands a guard, which
lets in who proves to know a secret that only the instance and this worker have. What then passes is not
encrypted.
"""
