"""The events of OpenAI's Responses API. The last one carries the whole response."""

import msgspec

from modelyard.openai.errors import engine_error
from schemas.base import Record
from services.supervisor.dialects.base import Dialect


class _Details(Record):
    cached_tokens: int = 0


class _Usage(Record):
    input_tokens: int = 0
    output_tokens: int = 0
    input_tokens_details: _Details | None = None


class _Response(Record):
    usage: _Usage | None = None


class _Event(Record):
    type: str = ""
    response: msgspec.Raw = msgspec.Raw(b"null")
    error: msgspec.Raw = msgspec.Raw()


_decode = msgspec.json.Decoder(_Event).decode
_response = msgspec.json.Decoder(_Response).decode
_LAST = frozenset({"response.completed", "response.incomplete", "response.failed"})


class Responses(Dialect):
    """Answers of `/v1/responses`."""

    def __init__(self) -> None:
        super().__init__()
        self._whole = b""

    def read(self, data: bytes) -> bool:
        try:
            event = _decode(data)
        except msgspec.DecodeError:
            return True
        if event.type.endswith(".delta"):
            self.meter.completion_tokens += 1
        if event.type in ("", "error") and bytes(event.error) not in (b"", b"null"):
            self.error = engine_error(data, 500)
        if event.type in _LAST:
            self.done = True
            self._whole = bytes(event.response)
            self._count(_response(event.response).usage)
        return True

    def _count(self, usage: _Usage | None) -> None:
        if usage is not None:
            self.meter.prompt_tokens = usage.input_tokens
            self.meter.completion_tokens = usage.output_tokens
            details = usage.input_tokens_details
            self.meter.cached_tokens = details.cached_tokens if details else 0

    def add(self, data: bytes) -> None:
        """Nothing to add: the last event has the whole response."""

    def whole(self) -> bytes:
        return self._whole
