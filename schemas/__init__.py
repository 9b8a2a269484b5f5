"""The contract: every subject, message, stream, bucket and error that crosses the wire, written once.

Imports msgspec and the standard library, nothing else.
"""
