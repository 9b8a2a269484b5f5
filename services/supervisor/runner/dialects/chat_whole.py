"""Chunks of a chat completion put together to the answer a non-streaming client expects."""

from typing import Any

import msgspec

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_PASSED = ("id", "created", "model", "system_fingerprint", "usage", "timings")
_TEXTS = ("content", "reasoning_content", "refusal")

Json = dict[str, Any]


class ChatWhole:
    """Grows with every chunk; `encode` is the whole `chat.completion`."""

    def __init__(self) -> None:
        self._fields: Json = {}
        self._choices: dict[int, Json] = {}

    def add(self, data: bytes) -> None:
        """Take one chunk's JSON."""
        chunk = _decode(data)
        self._fields |= {key: chunk[key] for key in _PASSED if chunk.get(key) is not None}
        for choice in chunk.get("choices") or ():
            self._add_choice(choice)

    def _add_choice(self, part: Json) -> None:
        index = part.get("index", 0)
        choice = self._choices.setdefault(
            index, {"index": index, "message": {"role": "assistant", "content": None}, "finish_reason": None}
        )
        _add_delta(choice["message"], part.get("delta") or {})
        if part.get("finish_reason"):
            choice["finish_reason"] = part["finish_reason"]
        if part.get("logprobs"):
            _add_logprobs(choice, part["logprobs"])

    def encode(self) -> bytes:
        ordered = [self._choices[index] for index in sorted(self._choices)]
        return msgspec.json.encode({"object": "chat.completion", **self._fields, "choices": ordered})


def _add_delta(message: Json, delta: Json) -> None:
    for key, value in delta.items():
        if value is None:
            continue
        if key == "tool_calls":
            _add_tool_calls(message.setdefault("tool_calls", []), value)
        elif key in _TEXTS:
            message[key] = (message.get(key) or "") + value
        else:
            message[key] = value


def _add_tool_calls(calls: list[Json], parts: list[Json]) -> None:
    for part in parts:
        index = part.get("index", len(calls))
        while len(calls) <= index:
            calls.append({"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
        call, function = calls[index], part.get("function") or {}
        call["id"] = part.get("id") or call["id"]
        call["function"]["name"] += function.get("name") or ""
        call["function"]["arguments"] += function.get("arguments") or ""


def _add_logprobs(choice: Json, part: Json) -> None:
    total = choice.setdefault("logprobs", {})
    for key, value in part.items():
        total[key] = [*total.get(key, []), *value] if isinstance(value, list) else value
