"""The events of Anthropic's Messages API."""

from typing import Any

import msgspec

from modelyard.openai.errors import engine_error
from schemas.base import Record
from services.supervisor.dialects.base import Dialect


class _Usage(Record):
    input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    output_tokens: int | None = None


class _Message(Record):
    usage: _Usage | None = None


class _Event(Record):
    type: str = ""
    message: _Message | None = None
    usage: _Usage | None = None
    error: msgspec.Raw = msgspec.Raw()


_decode = msgspec.json.Decoder(_Event).decode
_any = msgspec.json.Decoder(dict[str, Any]).decode


class Messages(Dialect):
    """Answers of `/v1/messages`."""

    def __init__(self) -> None:
        super().__init__()
        self._message: dict[str, Any] = {}
        self._blocks: dict[int, dict[str, Any]] = {}
        self._partial_json: dict[int, str] = {}

    def read(self, data: bytes) -> bool:
        try:
            event = _decode(data)
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

    def _count(self, usage: _Usage | None) -> None:
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
