"""The events of OpenAI's Responses API and Anthropic's Messages API, which carry their type."""

from typing import Any

import msgspec

from modelyard.openai.errors import engine_error
from schemas.base import Record
from services.supervisor.dialects.base import Dialect, TokenDetails


class _ResponsesUsage(Record):
    input_tokens: int = 0
    output_tokens: int = 0
    input_tokens_details: TokenDetails | None = None


class _Response(Record):
    usage: _ResponsesUsage | None = None


class _ResponsesEvent(Record):
    type: str = ""
    response: msgspec.Raw = msgspec.Raw(b"null")
    error: msgspec.Raw = msgspec.Raw()


_responses_event = msgspec.json.Decoder(_ResponsesEvent).decode
_response = msgspec.json.Decoder(_Response).decode
_LAST = frozenset({"response.completed", "response.incomplete", "response.failed"})


class Responses(Dialect):
    def __init__(self) -> None:
        super().__init__()
        self._whole = b""

    def read(self, data: bytes) -> bool:
        try:
            event = _responses_event(data)
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

    def _count(self, usage: _ResponsesUsage | None) -> None:
        if usage is not None:
            self.meter.prompt_tokens = usage.input_tokens
            self.meter.completion_tokens = usage.output_tokens
            details = usage.input_tokens_details
            self.meter.cached_tokens = details.cached_tokens if details else 0

    def add(self, data: bytes) -> None:
        """Nothing to add: the last event has the whole response."""

    def whole(self) -> bytes:
        return self._whole


class _MessagesUsage(Record):
    input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    output_tokens: int | None = None


class _Message(Record):
    usage: _MessagesUsage | None = None


class _MessagesEvent(Record):
    type: str = ""
    message: _Message | None = None
    usage: _MessagesUsage | None = None
    error: msgspec.Raw = msgspec.Raw()


_messages_event = msgspec.json.Decoder(_MessagesEvent).decode
_any = msgspec.json.Decoder(dict[str, Any]).decode


class Messages(Dialect):
    def __init__(self) -> None:
        super().__init__()
        self._message: dict[str, Any] = {}
        self._blocks: dict[int, dict[str, Any]] = {}
        self._partial_json: dict[int, str] = {}

    def read(self, data: bytes) -> bool:
        try:
            event = _messages_event(data)
        except msgspec.DecodeError:
            return True
        if event.type == "content_block_delta":
            self.meter.completion_tokens += 1
        if bytes(event.error) not in (b"", b"null"):
            self.error = engine_error(data, 500)
        if event.message is not None:
            self._count(event.message.usage)
        self._count(event.usage)
        self.done = self.done or event.type == "message_stop"
        return True

    def _count(self, usage: _MessagesUsage | None) -> None:
        # Anthropic counts tokens from the cache apart; here prompt tokens include them.
        if usage is None:
            return
        if usage.input_tokens is not None:
            self.meter.cached_tokens = usage.cache_read_input_tokens or 0
            self.meter.prompt_tokens = usage.input_tokens + self.meter.cached_tokens
        if usage.output_tokens:
            self.meter.completion_tokens = usage.output_tokens

    def add(self, data: bytes) -> None:
        event = _any(data)
        kind, index = event.get("type"), event.get("index", 0)
        if kind == "message_start":
            self._message = event["message"]
        elif kind == "content_block_start":
            self._blocks[index] = event["content_block"]
        elif kind == "content_block_delta":
            self._add_delta(index, event["delta"])
        elif kind == "message_delta":
            self._message |= event["delta"]
            self._message["usage"] = {**self._message.get("usage", {}), **event.get("usage", {})}

    def _add_delta(self, index: int, delta: dict[str, Any]) -> None:
        block = self._blocks[index]
        if "partial_json" in delta:
            self._partial_json[index] = self._partial_json.get(index, "") + delta["partial_json"]
        for name in ("text", "thinking", "signature"):
            if name in delta:
                block[name] = block.get(name, "") + delta[name]

    def whole(self) -> bytes:
        for index, arguments in self._partial_json.items():
            self._blocks[index]["input"] = _decode_arguments(arguments)
        content = [self._blocks[index] for index in sorted(self._blocks)]
        return msgspec.json.encode({**self._message, "content": content})


def _decode_arguments(text: str) -> Any:
    """The arguments of a call; empty where the answer was cut off within them."""
    try:
        return msgspec.json.decode(text or "{}")
    except msgspec.DecodeError:
        return {}
