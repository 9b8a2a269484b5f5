"""Retries after the failure of an engine or a runner: what the client has, and the body for the rest."""

from typing import Any

import msgspec

from modelyard.openai.chunks import DONE
from modelyard.openai.sse import EventParser, EventTooLarge, encode_event
from schemas.base import Record
from schemas.errors import EngineFailed
from schemas.requests import Continuation, Style
from services.gateway.inference.request import InferRequest

MAX_FAILED_ATTEMPTS = 2
"""A request at which so many engines failed is not tried again."""
LAST_EVENT = encode_event(DONE)
FOLD_BYTES = 64 * 1024
"""How many bytes of an answer are stored as they came, before they are reduced to its text."""
_LIMITS = ("max_tokens", "max_completion_tokens", "n_predict")
_PREVENT_CONTINUATION = (
    *("tools", "functions", "response_format", "grammar", "json_schema"),
    *("logprobs", "top_logprobs", "n_probs", "echo", "suffix", "best_of"),
)
"""Fields that tie later tokens to earlier ones in ways that a new start does not restore."""
_any = msgspec.json.Decoder(dict[str, Any])


class Transcript:
    """The chunks of a completion that went to the client, parsed for a retry or to bound their size."""

    def __init__(self) -> None:
        self.text = ""
        self.id = ""
        self.created = 0
        self.tokens = 0
        """Chunks with text: about a token each."""
        self.finished = False
        """Whether a chunk had a finish reason."""
        self.other = ""
        """What the answer has beside text, which prevents a continuation."""
        self._raw = bytearray()
        self._parser = EventParser()

    def add(self, piece: bytes) -> None:
        self._raw += piece
        if len(self._raw) > FOLD_BYTES:
            self.fold()

    def fold(self) -> None:
        raw, self._raw = bytes(self._raw), bytearray()
        try:
            events = self._parser.feed(raw)
        except EventTooLarge:
            self.other = "an event that is too large"
            return
        for event in events:
            if event.data is not None and event.data != DONE:
                self._read(event.data)

    def _read(self, data: bytes) -> None:
        try:
            chunk = _any.decode(data)
        except msgspec.DecodeError:
            self.other = "pieces that cannot be read"
            return
        self.id = self.id or chunk.get("id") or ""
        self.created = self.created or chunk.get("created") or 0
        for choice in chunk.get("choices") or ():
            self._read_choice(choice)

    def _read_choice(self, choice: dict[str, Any]) -> None:
        delta = choice.get("delta") or {}
        text = choice.get("text") or delta.get("content") or ""
        self.text += text
        self.tokens += bool(text)
        self.finished = self.finished or bool(choice.get("finish_reason"))
        if choice.get("index", 0):
            self.other = "several choices"
        for name in ("tool_calls", "reasoning_content", "function_call"):
            if delta.get(name):
                self.other = name

    def continuation(self) -> Continuation:
        return Continuation(id=self.id, created=self.created, completion_tokens=self.tokens)


def continuation(body: bytes, style: Style, transcript: Transcript) -> bytes | None:
    """The body that requests the rest of an answer; None where it cannot be continued."""
    transcript.fold()
    fields = _any.decode(body)
    prevented = fields.get("n", 1) != 1 or any(fields.get(name) for name in _PREVENT_CONTINUATION)
    if transcript.other or not transcript.text or prevented:
        return None
    for name in _LIMITS:
        if isinstance(fields.get(name), int) and fields[name] > 0:
            fields[name] = max(1, fields[name] - transcript.tokens)
    match style:
        case Style.CHAT if (messages := _with_prefill(fields.get("messages"), transcript.text)) is not None:
            fields["messages"] = messages
        case Style.COMPLETION if isinstance(fields.get("prompt"), str):
            fields["prompt"] += transcript.text
        case _:
            return None
    return msgspec.json.encode(fields)


def _with_prefill(messages: Any, text: str) -> list[Any] | None:
    if not isinstance(messages, list) or not messages or not isinstance(messages[-1], dict):
        return None
    last = messages[-1]
    if last.get("role") != "assistant":
        return [*messages, {"role": "assistant", "content": text}]
    if not isinstance(last.get("content"), str):
        return None
    return [*messages[:-1], {**last, "content": last["content"] + text}]


class Republish(Record):
    body: bytes
    continuation: Continuation | None = None


class Finish(Record):
    """End the answer with the piece that is missing."""

    last: bytes = LAST_EVENT


class GiveUp(Record):
    message: str


def plan_retry(
    request: InferRequest, transcript: Transcript | None, *, begun: bool, failed_attempts: int
) -> Republish | Finish | GiveUp:
    """What happens after the `failed_attempts`th failure, if the client has `begun` to receive the answer."""
    if failed_attempts >= MAX_FAILED_ATTEMPTS:
        return GiveUp(message="The engine died twice at this request; it is not tried again.")
    if not begun:
        return Republish(body=request.body)
    if transcript is not None:
        rest = continuation(request.body, request.endpoint.style, transcript)
        if transcript.finished:
            return Finish()
        if rest is not None:
            return Republish(body=rest, continuation=transcript.continuation())
    return GiveUp(message=str(engine_broke_off()))


def engine_broke_off() -> EngineFailed:
    """The error of an answer that ended early and cannot be continued."""
    return EngineFailed("The engine broke off while it answered; please try again.")
