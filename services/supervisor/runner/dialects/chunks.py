"""OpenAI's completion chunks: chat completions and text completions."""

from typing import Any

import msgspec

from schemas.record import Record
from schemas.requests import Continues
from services.supervisor.runner.dialects.base import Dialect, Fields, engine_error
from services.supervisor.runner.dialects.chat_whole import ChatWhole
from services.supervisor.runner.dialects.sse import event_data, write_event
from services.supervisor.runner.dialects.text_whole import TextWhole

DONE = b"[DONE]"


class _Details(Record):
    cached_tokens: int = 0


class _Usage(Record):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None


class _Timings(Record):
    predicted_per_second: float | None = None


class _Chunk(Record):
    choices: tuple[msgspec.Raw, ...] | None = None
    usage: _Usage | None = None
    timings: _Timings | None = None
    # Not `Raw | None`: msgspec takes nothing but null for that.
    error: msgspec.Raw = msgspec.Raw()


_decode = msgspec.json.Decoder(_Chunk).decode
_options = msgspec.json.Decoder(dict[str, Any])
_any = msgspec.json.Decoder(dict[str, Any])


class Chunks(Dialect):
    """Usage is always asked for; the chunk that carries it is shown only to those who asked themselves."""

    def __init__(self, whole: ChatWhole | TextWhole, continues: Continues | None = None) -> None:
        super().__init__()
        self._whole = whole
        self._continues = continues
        self._wants_usage = False
        self._counted = False

    def prepare(self, fields: Fields) -> None:
        super().prepare(fields)
        given = bytes(fields.get("stream_options", msgspec.Raw(b"null")))
        options = {} if given == b"null" else _options.decode(given)
        self._wants_usage = options.get("include_usage") is True
        fields["stream_options"] = msgspec.Raw(msgspec.json.encode({**options, "include_usage": True}))

    def see(self, event: bytes) -> bytes:
        if self._continues is None:
            return super().see(event)
        if (data := event_data(event)) is None or not self.read(data):
            return b""
        return write_event(self._as_before(data, self._continues))

    def read(self, data: bytes) -> bool:
        if data == DONE:
            self.done = True
            return True
        try:
            chunk = _decode(data)
        except msgspec.DecodeError:
            # What we cannot read counts for nothing and is the client's to judge.
            return True
        if bytes(chunk.error) not in (b"", b"null"):
            self.error = engine_error(data, 500)
        self._count(chunk)
        return self._wants_usage or chunk.usage is None or bool(chunk.choices)

    def _count(self, chunk: _Chunk) -> None:
        meter = self.meter
        if chunk.timings is not None:
            meter.tokens_per_s = chunk.timings.predicted_per_second
        if chunk.usage is not None:
            before = self._continues.completion_tokens if self._continues else 0
            self._counted = True
            meter.prompt_tokens = chunk.usage.prompt_tokens - before
            meter.completion_tokens = chunk.usage.completion_tokens + before
            details = chunk.usage.prompt_tokens_details
            meter.cached_tokens = min(details.cached_tokens if details else 0, meter.prompt_tokens)
        elif chunk.choices and not self._counted:
            # Until the engine says how many there were, a chunk with choices is about a token.
            meter.completion_tokens += 1

    def _as_before(self, data: bytes, first: Continues) -> bytes:
        """A chunk of the second part as one of the first: its id, its time, one usage for both."""
        if data == DONE:
            return data
        chunk = _any.decode(data)
        chunk |= {"id": first.id, "created": first.created}
        for choice in chunk.get("choices") or ():
            # The role was said at the beginning.
            if isinstance(choice.get("delta"), dict):
                choice["delta"].pop("role", None)
        if isinstance(usage := chunk.get("usage"), dict):
            usage["prompt_tokens"] -= first.completion_tokens
            usage["completion_tokens"] += first.completion_tokens
        return msgspec.json.encode(chunk)

    def collect(self, data: bytes) -> None:
        if data != DONE:
            self._whole.add(data)

    def whole(self) -> bytes:
        return self._whole.encode()
