"""What the readers of all styles share: the body for the engine, its events, the whole answer."""

from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec

from modelyard.openai.sse import SseEvent
from schemas.base import Record
from schemas.errors import ErrorDetail
from schemas.models import ParameterPolicy

Fields = dict[str, msgspec.Raw]

_fields = msgspec.json.Decoder(Fields)
TRUE = msgspec.Raw(b"true")
ROUTING = frozenset(
    {"api_base", "base_url", "api_key", "api_version", "custom_llm_provider", "extra_headers"}
)
"""Names by which other gateways let a body choose its target. Here the model decides it."""


@dataclass
class TokenMeter:
    """The tokens of one request, or of several."""

    prompt_tokens: int = 0
    """All of them, those from the cache included."""
    cached_tokens: int = 0
    completion_tokens: int = 0
    tokens_per_s: float | None = None

    def add(self, other: "TokenMeter") -> None:
        self.prompt_tokens += other.prompt_tokens
        self.cached_tokens += other.cached_tokens
        self.completion_tokens += other.completion_tokens


class TokenDetails(Record):
    """OpenAI's details of input tokens."""

    cached_tokens: int = 0


class Dialect:
    """Reads one answer. `done` only if it is whole."""

    streams: ClassVar[bool] = True
    """Whether the engine gets a request for events: a closed connection without a stream goes unnoticed."""

    def __init__(self) -> None:
        self.meter = TokenMeter()
        self.done = False
        self.error: ErrorDetail | None = None

    def request_body(self, body: bytes, policy: ParameterPolicy) -> bytes:
        """The body for the engine; msgspec.DecodeError if it is no JSON object."""
        fields = apply_policy(_fields.decode(body), policy)
        self.prepare(fields)
        return msgspec.json.encode(fields)

    def prepare(self, fields: Fields) -> None:
        """Change the body so that the answer can be read."""
        if self.streams:
            fields["stream"] = TRUE

    def relay(self, event: SseEvent) -> bytes:
        """Read one event; the bytes of it that the client gets."""
        if event.data is None:
            return event.raw
        return event.raw if self.read(event.data) else b""

    def read(self, data: bytes) -> bool:
        """Read the data of one event; whether the client gets it."""
        raise NotImplementedError

    def collect(self, event: SseEvent) -> None:
        """Read one event, for a client that does not stream."""
        if event.data is not None:
            self.read(event.data)
            self.add(event.data)

    def add(self, data: bytes) -> None:
        """Add the data of one event to the whole answer."""
        raise NotImplementedError

    def whole(self) -> bytes:
        """The answer for a client that does not stream."""
        raise NotImplementedError


def apply_policy(fields: Fields, policy: ParameterPolicy) -> Fields:
    """A body under the policy of its model: names dropped, defaults filled in, values forced."""
    allowed = {
        name: value for name, value in fields.items() if name not in ROUTING and name not in policy.dropped
    }
    defaults = {name: _raw(value) for name, value in policy.defaults.items() if name not in allowed}
    forced = {name: _raw(value) for name, value in policy.forced.items()}
    return {**allowed, **defaults, **forced}


def _raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


class _PlainUsage(Record):
    prompt_tokens: int = 0
    input_tokens: int = 0
    completion_tokens: int = 0


class _PlainAnswer(Record):
    usage: _PlainUsage | None = None


_decode = msgspec.json.Decoder(_PlainAnswer).decode


class Plain(Dialect):
    """Answers in one piece (embeddings, scores, tokens): passed on unchanged, under the model's policy."""

    streams = False

    def __init__(self, content_type: str) -> None:
        super().__init__()
        self._is_json = content_type == "application/json"

    def request_body(self, body: bytes, policy: ParameterPolicy) -> bytes:
        return super().request_body(body, policy) if self._is_json else body

    def count(self, body: bytes) -> None:
        """Read the usage of a whole answer, if it has one."""
        try:
            usage = _decode(body).usage
        except msgspec.DecodeError:
            return
        if usage is not None:
            self.meter.prompt_tokens = usage.prompt_tokens or usage.input_tokens
            self.meter.completion_tokens = usage.completion_tokens
