"""OpenAI's completion chunks: chat completions and text completions."""

from collections.abc import Iterable
from typing import Any

import msgspec

from modelyard.openai.chunks import DONE
from modelyard.openai.errors import engine_error
from modelyard.openai.sse import SseEvent, encode_event
from schemas.base import Record
from schemas.requests import Continuation
from services.supervisor.dialects.base import Dialect, Fields, TokenDetails
from services.supervisor.dialects.whole import WholeAnswer

NULL = b"null"
"""The first event of llama-server for a text completion with several prompts."""


class Usage(Record):
    """Tokens as OpenAI counts them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: TokenDetails | None = None

    @property
    def cached_tokens(self) -> int:
        return self.prompt_tokens_details.cached_tokens if self.prompt_tokens_details else 0


class UsageTotals:
    """The usage reports of one answer, summed up.

    A report without a choice is the last of the whole answer, or of one of its choices; one with a choice
    is about that choice and replaces the report before it. `n` choices share one prompt.
    """

    def __init__(self) -> None:
        self.n = 1
        self._last: list[Usage] = []
        self._of_choice: dict[int, Usage] = {}

    def __bool__(self) -> bool:
        return bool(self._last or self._of_choice)

    def add(self, usage: Usage, choices: Iterable[int]) -> None:
        """Add one report about `choices`."""
        indexes = tuple(choices)
        for index in indexes:
            self._of_choice[index] = usage
        if not indexes:
            self._last.append(usage)

    @property
    def several(self) -> bool:
        """Whether the total is that of more than one report."""
        return len(self._reports) > 1

    @property
    def total(self) -> Usage:
        reports = self._reports
        shared = self.n if len(reports) > 1 else 1
        return Usage(
            prompt_tokens=sum(usage.prompt_tokens for usage in reports) // shared,
            completion_tokens=sum(usage.completion_tokens for usage in reports),
            prompt_tokens_details=TokenDetails(
                cached_tokens=sum(usage.cached_tokens for usage in reports) // shared
            ),
        )

    @property
    def _reports(self) -> tuple[Usage, ...]:
        return tuple(self._last or self._of_choice.values())


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
_any = msgspec.json.Decoder(dict[str, Any])


class Completions(Dialect):
    """The engine always reports usage; a client that requested it gets it in one chunk before the end."""

    def __init__(self, whole: WholeAnswer, continuation: Continuation | None = None) -> None:
        super().__init__()
        self._whole = whole
        self._continuation = continuation
        self._wants_usage = False
        self._usages = UsageTotals()
        self._usage_chunk = b""
        """The newest chunk with nothing but usage."""

    def prepare(self, fields: Fields) -> None:
        super().prepare(fields)
        given = bytes(fields.get("stream_options", msgspec.Raw(b"null")))
        options = {} if given == b"null" else _any.decode(given)
        self._wants_usage = options.get("include_usage") is True
        fields["stream_options"] = msgspec.Raw(msgspec.json.encode({**options, "include_usage": True}))
        self._usages.n = _positive(fields.get("n"))

    def relay(self, event: SseEvent) -> bytes:
        if event.data is None:
            return event.raw if self._continuation is None else b""
        if not self.read(event.data):
            return b""
        shown = (
            event.raw
            if self._continuation is None
            else encode_event(self._continued(event.data, self._continuation))
        )
        return self._usage_event() + shown if self.done and self._wants_usage else shown

    def _usage_event(self) -> bytes:
        """The usage of all choices, before the last event."""
        if not self._usage_chunk:
            return b""
        if self._usages.several:
            chunk = _any.decode(self._usage_chunk)
            self._usage_chunk = msgspec.json.encode({**chunk, "usage": self._shown_usage()})
        if self._continuation is None:
            return encode_event(self._usage_chunk)
        return encode_event(self._continued(self._usage_chunk, self._continuation))

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
        if data == NULL:
            return False
        try:
            chunk = _decode(data)
        except msgspec.DecodeError:
            # A chunk that cannot be read counts for nothing and is passed on.
            return True
        if bytes(chunk.error) not in (b"", b"null"):
            self.error = engine_error(data, 500)
        self._count(chunk)
        if chunk.usage is None or chunk.choices:
            return True
        self._usage_chunk = data
        return False

    def _count(self, chunk: _Chunk) -> None:
        meter = self.meter
        if chunk.timings is not None:
            meter.tokens_per_s = chunk.timings.predicted_per_second
        if chunk.usage is not None:
            self._usages.add(chunk.usage, (choice.index for choice in chunk.choices or ()))
            before = self._continuation.completion_tokens if self._continuation else 0
            total = self._usages.total
            meter.prompt_tokens = total.prompt_tokens - before
            meter.completion_tokens = total.completion_tokens + before
            meter.cached_tokens = min(total.cached_tokens, meter.prompt_tokens)
        elif chunk.choices and not self._usages:
            # Until the engine reports usage, a chunk with choices is about a token.
            meter.completion_tokens += 1

    def _continued(self, data: bytes, first: Continuation) -> bytes:
        """A chunk of the second part with the id and time of the first, and the usage of both."""
        if data == DONE:
            return data
        chunk = _any.decode(data)
        chunk |= {"id": first.id, "created": first.created}
        for choice in chunk.get("choices") or ():
            # The first part had the role.
            if isinstance(choice.get("delta"), dict):
                choice["delta"].pop("role", None)
        if isinstance(usage := chunk.get("usage"), dict):
            usage["prompt_tokens"] -= first.completion_tokens
            usage["completion_tokens"] += first.completion_tokens
        return msgspec.json.encode(chunk)

    def add(self, data: bytes) -> None:
        if data not in (DONE, NULL):
            self._whole.add(data)

    def whole(self) -> bytes:
        return self._whole.encode(self._shown_usage() if self._usages.several else None)


def _positive(given: msgspec.Raw | None) -> int:
    """`n` of a request; 1 for what is no number above 0."""
    try:
        return max(1, msgspec.json.decode(given or b"1", type=int))
    except msgspec.DecodeError:
        return 1
