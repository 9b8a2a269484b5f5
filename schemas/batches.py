"""Files that clients bring, and batches of requests made from them."""

from enum import StrEnum

import msgspec

from schemas.base import Record


class StoredFile(Record):
    """An uploaded file; its bytes are chunks in the FILES stream."""

    file: str
    filename: str
    purpose: str
    size_bytes: int
    parts: int
    created_at: float
    key: str | None = None
    """Id of the API key it belongs to."""


class BatchState(StrEnum):
    """The state of a batch, in OpenAI's words."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


_S = BatchState
ENDED = frozenset({_S.FAILED, _S.COMPLETED, _S.EXPIRED, _S.CANCELLED})


class LineError(Record):
    """An error in a line of an input file."""

    code: str
    message: str
    line: int | None = None
    """From 1."""
    param: str | None = None


class Batch(Record):
    """A batch of requests, run in slots that no interactive request needs."""

    batch: str
    endpoint: str
    input_file: str
    completion_window: str
    state: BatchState
    created_at: float
    expires_at: float
    changed_at: float
    key: str | None = None
    metadata: dict[str, str] | None = None
    started_at: float | None = None
    total: int = 0
    completed: int = 0
    failed: int = 0
    output_file: str | None = None
    error_file: str | None = None
    errors: tuple[LineError, ...] = ()


class LineResult(Record):
    """The answer to one line, stored once and for all before it counts."""

    line: int
    custom_id: str
    request: str
    status: int
    body: msgspec.Raw
    """The engine's answer, or the error in the one shape."""
