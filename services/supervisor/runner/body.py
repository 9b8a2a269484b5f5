"""What the engine is asked: always a stream, since a closed non-streaming request would run on unnoticed."""

from typing import Any

import msgspec

from schemas.record import Record

_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_options_decoder = msgspec.json.Decoder(dict[str, Any])


class UpstreamBody(Record):
    """The body for the engine, and whether the client asked for the usage chunk that we always ask for."""

    data: bytes
    wants_usage: bool


def upstream_body(body: bytes) -> UpstreamBody:
    """Turn a client's chat body into a streaming one with usage; every other field stays byte for byte.

    msgspec.DecodeError if it is no JSON object, or `stream_options` is none.
    """
    fields = _decoder.decode(body)
    given = fields.get("stream_options", msgspec.Raw(b"null"))
    options = {} if bytes(given) == b"null" else _options_decoder.decode(given)
    wants_usage = options.get("include_usage") is True
    fields["stream"] = msgspec.Raw(b"true")
    fields["stream_options"] = msgspec.Raw(msgspec.json.encode({**options, "include_usage": True}))
    return UpstreamBody(data=msgspec.json.encode(fields), wants_usage=wants_usage)
