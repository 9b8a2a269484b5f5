"""OpenAI's completion chunks: chat completions and text completions."""

from typing import Any

import msgspec

from schemas.base import Record
from schemas.requests import Continues
from services.supervisor.runner.dialects.base import Dialect, Fields, engine_error
from services.supervisor.runner.dialects.chat_whole import ChatWhole
from services.supervisor.runner.dialects.sse import event_data, write_event
from services.supervisor.runner.dialects.text_whole import TextWhole
from services.supervisor.runner.dialects.usage import Usage, Usages

DONE = b"[DONE]"
NOTHING = b"null"
"""llama-server begins a stream of several prompts so."""


class _Choice(Record):
    index: int = 0


class _Timings(Record):
    predicted_per_second: float | None = None


class _Chunk(Record):
    choices: tuple[_Choice, ...] | None = None
    usage: Usage | None = None
    timings: _Timings | None = None
    # Not `Raw | None`: msgspec takes nothing but null for that.
    error: msgspec.Raw = msgspec.Raw()


_decode = msgspec.json.Decoder(_Chunk).decode
_options = msgspec.json.Decoder(dict[str, Any])
_any = msgspec.json.Decoder(dict[str, Any])


class Chunks(Dialect):
    """Usage is always asked for; those who asked themselves are shown it, in one chunk before the end."""

    def __init__(self, whole: ChatWhole | TextWhole, continues: Continues | None = None) -> None:
        super().__init__()
        self._whole = whole
        self._continues = continues
        self._wants_usage = False
        self._usages = Usages()
        self._held = b""
        """The newest chunk with usage alone."""

    def prepare(self, fields: Fields) -> None:
        super().prepare(fields)
        given = bytes(fields.get("stream_options", msgspec.Raw(b"null")))
        options = {} if given == b"null" else _options.decode(given)
        self._wants_usage = options.get("include_usage") is True
        fields["stream_options"] = msgspec.Raw(msgspec.json.encode({**options, "include_usage": True}))
        self._usages.n = _number(fields.get("n"))

    def see(self, event: bytes) -> bytes:
        if (data := event_data(event)) is None:
            return event if self._continues is None else b""
        if not self.read(data):
            return b""
        shown = event if self._continues is None else write_event(self._as_before(data, self._continues))
        return self._usage_event() + shown if self.done and self._wants_usage else shown

    def _usage_event(self) -> bytes:
        """The usage of all choices, once there is nothing more to come."""
        if not self._held:
            return b""
        if self._usages.several:
            chunk = _any.decode(self._held)
            self._held = msgspec.json.encode({**chunk, "usage": self._shown_usage()})
        held = self._held if self._continues is None else self._as_before(self._held, self._continues)
        return write_event(held)

    def _shown_usage(self) -> dict[str, Any]:
        total = self._usages.total
        return {
            "completion_tokens": total.completion_tokens,
            "prompt_tokens": total.prompt_tokens,
            "total_tokens": total.prompt_tokens + total.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": total.cached_tokens},
        }

    def read(self, data: bytes) -> bool:
        if data == DONE:
            self.done = True
            return True
        if data == NOTHING:
            return False
        try:
            chunk = _decode(data)
        except msgspec.DecodeError:
            # What we cannot read counts for nothing and is the client's to judge.
            return True
        if bytes(chunk.error) not in (b"", b"null"):
            self.error = engine_error(data, 500)
        self._count(chunk)
        if chunk.usage is None or chunk.choices:
            return True
        self._held = data
        return False

    def _count(self, chunk: _Chunk) -> None:
        meter = self.meter
        if chunk.timings is not None:
            meter.tokens_per_s = chunk.timings.predicted_per_second
        if chunk.usage is not None:
            self._usages.add(chunk.usage, (choice.index for choice in chunk.choices or ()))
            before, total = self._continues.completion_tokens if self._continues else 0, self._usages.total
            meter.prompt_tokens = total.prompt_tokens - before
            meter.completion_tokens = total.completion_tokens + before
            meter.cached_tokens = min(total.cached_tokens, meter.prompt_tokens)
        elif chunk.choices and not self._usages:
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
        if data not in (DONE, NOTHING):
            self._whole.add(data)

    def whole(self) -> bytes:
        return self._whole.encode(self._shown_usage() if self._usages.several else None)


def _number(given: msgspec.Raw | None) -> int:
    """`n` of a request, as far as it is one."""
    try:
        return max(1, msgspec.json.decode(given or b"1", type=int))
    except msgspec.DecodeError:
        return 1
