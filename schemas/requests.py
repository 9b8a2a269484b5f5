"""One inference request, from its first byte to its usage record."""

from collections.abc import Mapping
from enum import StrEnum

from schemas.errors import ErrorDetail
from schemas.record import Record


class Lane(StrEnum):
    """Which queue of a model a request waits in."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


class Outcome(StrEnum):
    """How a request ended."""

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
    """What HTTP said, or would have said; 499 when the client left."""
    queued_at: float
    finished_at: float
    key: str | None = None
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


class InferHeaders(Record):
    """What travels beside the body in `yard.infer.…`; the message id is the request id."""

    request: str
    reply: str
    """The gateway's token in the reply subject."""
    path: str
    stream: bool
    queued_at: float
    deadline_at: float
    key: str | None = None
    traceparent: str | None = None

    def to_nats(self) -> dict[str, str]:
        """As NATS headers. `Nats-Msg-Id` makes publishing twice harmless."""
        headers = {
            "Nats-Msg-Id": self.request,
            "Yard-Reply": self.reply,
            "Yard-Path": self.path,
            "Yard-Stream": "1" if self.stream else "0",
            "Yard-Queued-At": f"{self.queued_at:.6f}",
            "Yard-Deadline-At": f"{self.deadline_at:.3f}",
        }
        if self.key:
            headers["Yard-Key"] = self.key
        if self.traceparent:
            headers["traceparent"] = self.traceparent
        return headers

    @classmethod
    def from_nats(cls, headers: Mapping[str, str]) -> "InferHeaders":
        """ValueError or KeyError if a header is missing or not what it should be."""
        return cls(
            request=headers["Nats-Msg-Id"],
            reply=headers["Yard-Reply"],
            path=headers["Yard-Path"],
            stream=headers["Yard-Stream"] == "1",
            queued_at=float(headers["Yard-Queued-At"]),
            deadline_at=float(headers["Yard-Deadline-At"]),
            key=headers.get("Yard-Key"),
            traceparent=headers.get("traceparent"),
        )


class AnswerHead(Record):
    """Frame 0 of an answer."""

    status: int
    content_type: str
    instance: str


class AnswerEnd(Record):
    """The last frame: how many frames of bytes came before it, and the error that cut the answer short."""

    frames: int
    error: ErrorDetail | None = None


REQUEST_HEADER = "Yard-Request"
"""On a command: an id for the request that the caller chose, so that he can cancel it."""
HEAD = "head"
END = "end"
ALIVE = "alive"
"""A request, not a frame: the runner asks whether anybody still waits for the answer."""


class StillWanted(Record):
    """The gateway's answer to `alive`."""

    wanted: bool


class UsageQuery(Record):
    """Which usage to sum up; without bounds, all there is."""

    since: float | None = None
    until: float | None = None
    model: str | None = None
    recent: int = 0
    """How many of the newest records to send along."""


class ModelUsage(Record):
    """Sums over the requests of one model."""

    model: str
    requests: int
    failed: int
    cancelled: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


class UsageReport(Record):
    """Usage by model, most requests first."""

    models: tuple[ModelUsage, ...]
    recent: tuple[RequestFinished, ...] = ()
