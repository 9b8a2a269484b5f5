"""Counting tokens from what passes by, in bounded memory, without touching what the client sees."""

import msgspec

from schemas.record import Record


class _Details(Record):
    cached_tokens: int = 0


class _Usage(Record):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None


class _Timings(Record):
    cache_n: int = 0
    prompt_n: int = 0
    predicted_n: int = 0
    predicted_per_second: float | None = None


class _Chunk(Record):
    choices: tuple[msgspec.Raw, ...] | None = None
    usage: _Usage | None = None
    timings: _Timings | None = None
    # Not `Raw | None`: msgspec takes nothing but null for that.
    error: msgspec.Raw = msgspec.Raw()


_decode = msgspec.json.Decoder(_Chunk).decode
DONE = b"[DONE]"


class Seen(Record):
    """What one chunk was."""

    usage_only: bool = False
    """It carries usage and no choices: the chunk that clients get only when they ask for it."""
    error: bool = False
    done: bool = False


class Meter:
    """The tokens of one request."""

    def __init__(self) -> None:
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.completion_tokens = 0
        self.tokens_per_s: float | None = None
        self._counted = False

    def see(self, data: bytes) -> Seen:
        """Take one chunk's data into account; one that cannot be read counts for nothing."""
        if data == DONE:
            return Seen(done=True)
        try:
            chunk = _decode(data)
        except msgspec.DecodeError:
            return Seen()
        self._count(chunk)
        return Seen(
            usage_only=chunk.usage is not None and not chunk.choices,
            error=bytes(chunk.error) not in (b"", b"null"),
        )

    def _count(self, chunk: _Chunk) -> None:
        if chunk.timings is not None:
            self.tokens_per_s = chunk.timings.predicted_per_second
        if chunk.usage is not None:
            self._counted = True
            self.prompt_tokens = chunk.usage.prompt_tokens
            self.completion_tokens = chunk.usage.completion_tokens
            details = chunk.usage.prompt_tokens_details
            self.cached_tokens = details.cached_tokens if details else 0
        elif chunk.choices and not self._counted:
            # Until the engine says how many there were, a chunk with choices is about a token.
            self.completion_tokens += 1
