"""Frames: the numbered messages in which a runner sends an answer to the requesting gateway."""

import msgspec

from schemas.base import Record
from schemas.errors import ErrorDetail


class AnswerHead(Record):
    """Status and headers of the HTTP response; sent with frame 0."""

    status: int
    content_type: str
    instance: str


class AnswerEnd(Record):
    """Sent with the last frame."""

    error: ErrorDetail | None = None
    """Why the answer is incomplete; None if it is complete."""
    may_retry: bool = False
    """The engine broke off: the request may be retried or continued by another instance."""


class Frame(Record, omit_defaults=True):
    """The first line of a frame, as JSON; the bytes of the answer follow after a newline."""

    attempt: int
    """The gateway's attempt number; frames of an earlier attempt are stale."""
    delivery: int
    """The broker's delivery number of this attempt; after a stall two runners may process it."""
    number: int
    """0, 1, 2, …; a gap is requested again."""
    head: AnswerHead | None = None
    end: AnswerEnd | None = None


_decoder = msgspec.json.Decoder(Frame)


def encode_frame(frame: Frame, data: bytes) -> bytes:
    """The message of a frame."""
    return b"%b\n%b" % (msgspec.json.encode(frame), data)


def decode_frame(message: bytes) -> tuple[Frame, bytes]:
    """A frame and its bytes; msgspec.DecodeError if it is none."""
    line, _, data = message.partition(b"\n")
    return _decoder.decode(line), data


class Resend(Record):
    """The gateway misses frames: send those from `number` on again."""

    attempt: int
    delivery: int
    """0 for any, as long as no frame has arrived."""
    number: int


class RunningAnswer(Record):
    """An answer that a runner is at, or has just given."""

    request: str
    attempt: int
    delivery: int
    frames: int
    """Sent so far."""


class AnswerCheck(Record):
    """From a runner: which of its answers are still wanted? Gateways that miss frames request them."""

    running: tuple[RunningAnswer, ...]


class AnswerCheckReply(Record):
    """Answers that must not continue."""

    unwanted: tuple[str, ...]
    """Answers without a waiting client."""
    superseded: tuple[str, ...] = ()
    """Another runner answers these, and will record them."""
