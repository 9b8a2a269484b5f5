"""Inference requests: the paths that take them, and the messages from queueing to the usage record."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from schemas.base import Record
from schemas.errors import ErrorDetail
from schemas.models import Mode


class Style(StrEnum):
    """The style of an answer, which determines how it is relayed, metered and assembled."""

    CHAT = "chat"
    """OpenAI's chat completion chunks."""
    COMPLETION = "completion"
    """OpenAI's text completion chunks."""
    RESPONSES = "responses"
    """The events of OpenAI's Responses API."""
    MESSAGES = "messages"
    """The events of Anthropic's Messages API."""
    PLAIN = "plain"
    """One body, passed on as it is."""


@dataclass(frozen=True)
class Endpoint:
    """One path of an engine. `name` is its token in `yard.command.openai.{name}`."""

    path: str
    name: str
    style: Style
    modes: frozenset[Mode]
    """Modes that serve it; empty for any."""


_TEXT = frozenset({Mode.CHAT, Mode.COMPLETION})
_CHAT = frozenset({Mode.CHAT})

ENDPOINTS = (
    Endpoint("/v1/chat/completions", "chat", Style.CHAT, _CHAT),
    Endpoint("/v1/completions", "completions", Style.COMPLETION, _TEXT),
    Endpoint("/v1/responses", "responses", Style.RESPONSES, _CHAT),
    Endpoint("/v1/messages", "messages", Style.MESSAGES, _CHAT),
    Endpoint("/v1/messages/count_tokens", "count_tokens", Style.PLAIN, _CHAT),
    Endpoint("/v1/embeddings", "embeddings", Style.PLAIN, frozenset({Mode.EMBEDDING})),
    Endpoint("/v1/rerank", "rerank", Style.PLAIN, frozenset({Mode.RERANK})),
    Endpoint("/v1/audio/transcriptions", "transcriptions", Style.PLAIN, frozenset({Mode.TRANSCRIPTION})),
    Endpoint("/tokenize", "tokenize", Style.PLAIN, frozenset()),
    Endpoint("/detokenize", "detokenize", Style.PLAIN, frozenset()),
    Endpoint("/apply-template", "apply_template", Style.PLAIN, _CHAT),
    Endpoint("/infill", "infill", Style.PLAIN, _TEXT),
)
BY_PATH = {endpoint.path: endpoint for endpoint in ENDPOINTS}


def endpoint_of(path: str) -> Endpoint:
    """The endpoint of a path; an unknown `/v1/…` path is passed through to the engine."""
    return BY_PATH.get(path) or Endpoint(path, "", Style.PLAIN, frozenset())


def paths_of(mode: Mode) -> list[str]:
    """The paths that a model of this mode serves."""
    return [endpoint.path for endpoint in ENDPOINTS if mode in endpoint.modes]


REQUEST_HEADER = "Yard-Request"
"""The id of a request. On a command: one that the caller chose, so that he can cancel it."""
INFER_HEADER = "Yard-Infer"
"""On a message of the work queue: `InferHeaders` as JSON; the body is the client's, unchanged."""
ANYONE = "anyone"
"""The queue of those who need no key."""


class Lane(StrEnum):
    """Which queue of a model a request waits in."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


class Outcome(StrEnum):
    """The outcome of a request."""

    OK = "ok"
    FAILED = "failed"
    CANCELLED = "cancelled"


class RequestQueued(Record):
    """A request waits for a slot of its model."""

    request: str
    model: str
    lane: Lane
    path: str
    stream: bool
    queued_at: float
    key: str | None = None
    """Id of the API key, never the key."""


class RequestStarted(Record):
    """A runner took the request and sends it to its engine."""

    request: str
    model: str
    instance: str
    node: str
    attempt: int
    queue_ms: float


class RequestFinished(Record):
    """The usage record: exactly one for every request, also for failed and cancelled ones."""

    request: str
    model: str
    lane: Lane
    path: str
    stream: bool
    outcome: Outcome
    status: int
    """The HTTP status; 499 when the client disconnected."""
    queued_at: float
    finished_at: float
    key: str | None = None
    mode: Mode | None = None
    """The model's mode."""
    instance: str | None = None
    node: str | None = None
    error: ErrorDetail | None = None
    prompt_tokens: int = 0
    """All prompt tokens, those from the cache included."""
    cached_tokens: int = 0
    completion_tokens: int = 0
    queue_ms: float | None = None
    first_token_ms: float | None = None
    """From queued to the first byte of the answer."""
    tokens_per_s: float | None = None


class Continuation(Record):
    """The continuation of an answer that broke off: metadata of its first part."""

    id: str
    """Id of the completion, the same in every chunk of an answer."""
    created: int
    completion_tokens: int
    """Sent already; they are part of the new prompt."""


class InferHeaders(Record, omit_defaults=True):
    """Metadata of a request in `yard.infer.…`."""

    request: str
    reply: str
    """The gateway's token in the reply subject."""
    path: str
    stream: bool
    queued_at: float
    deadline_at: float
    lane: Lane = Lane.INTERACTIVE
    attempt: int = 1
    """The gateway's attempt number; above 1 only after a runner or an engine died."""
    content_type: str = "application/json"
    """Content type of the body."""
    body_parts: int = 0
    """Number of chunks of the body in the BODIES stream; 0 if the message contains it."""
    key: str | None = None
    traceparent: str | None = None
    continuation: Continuation | None = None

    def to_nats(self) -> dict[str, str]:
        """As NATS headers. `Nats-Msg-Id` makes publishing idempotent."""
        return {
            "Nats-Msg-Id": f"{self.request}.{self.attempt}",
            INFER_HEADER: msgspec.json.encode(self).decode(),
        }

    @classmethod
    def from_nats(cls, headers: Mapping[str, str]) -> "InferHeaders":
        """KeyError or msgspec.DecodeError if they are not those of a request."""
        return _infer_headers.decode(headers[INFER_HEADER])


_infer_headers = msgspec.json.Decoder(InferHeaders)
