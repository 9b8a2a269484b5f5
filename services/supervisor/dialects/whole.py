"""Chunks of a stream put together to the whole answer for a client without a stream."""

from abc import abstractmethod
from typing import Any

import msgspec

from modelyard.openai.chunks import Json, ToolCalls

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_PASSED = ("id", "created", "model", "system_fingerprint", "usage", "timings")
_TEXTS = ("content", "reasoning_content", "refusal")


class WholeAnswer:
    """Grows with every chunk; `encode` is the whole answer."""

    kind: str
    """Its `object`."""

    def __init__(self) -> None:
        self._fields: Json = {}
        self._choices: dict[int, Json] = {}

    def add(self, data: bytes) -> None:
        chunk = _decode(data)
        self._fields |= {key: chunk[key] for key in _PASSED if chunk.get(key) is not None}
        for part in chunk.get("choices") or ():
            index = part.get("index", 0)
            if index not in self._choices:
                self._choices[index] = self.new_choice(index)
            self.add_part(self._choices[index], part)

    def encode(self, usage: Json | None = None) -> bytes:
        """The answer, its choices in order; `usage` replaces that of the last chunk."""
        choices = [self.finish_choice(self._choices[index]) for index in sorted(self._choices)]
        fields = self._fields | ({"usage": usage} if usage else {})
        return msgspec.json.encode({"object": self.kind, **fields, "choices": choices})

    @abstractmethod
    def new_choice(self, index: int) -> Json:
        """An empty choice."""

    @abstractmethod
    def add_part(self, choice: Json, part: Json) -> None:
        """Add a chunk's part of a choice."""

    def finish_choice(self, choice: Json) -> Json:
        """The choice as it is encoded."""
        return choice


class WholeChat(WholeAnswer):
    kind = "chat.completion"

    def __init__(self) -> None:
        super().__init__()
        self._tool_calls: dict[int, ToolCalls] = {}

    def new_choice(self, index: int) -> Json:
        return {"index": index, "message": {"role": "assistant", "content": None}, "finish_reason": None}

    def add_part(self, choice: Json, part: Json) -> None:
        self._add_delta(choice["index"], choice["message"], part.get("delta") or {})
        if part.get("finish_reason"):
            choice["finish_reason"] = part["finish_reason"]
        if part.get("logprobs"):
            choice["logprobs"] = _joined(choice.get("logprobs"), part["logprobs"])

    def _add_delta(self, index: int, message: Json, delta: Json) -> None:
        for key, value in delta.items():
            if value is None:
                continue
            if key == "tool_calls":
                self._tool_calls.setdefault(index, ToolCalls()).add(value)
            elif key in _TEXTS:
                message[key] = (message.get(key) or "") + value
            else:
                message[key] = value

    def finish_choice(self, choice: Json) -> Json:
        if (calls := self._tool_calls.get(choice["index"])) is None:
            return choice
        return {**choice, "message": {**choice["message"], "tool_calls": calls.folded()}}


class WholeText(WholeAnswer):
    kind = "text_completion"

    def new_choice(self, index: int) -> Json:
        return {"text": "", "index": index, "logprobs": None, "finish_reason": None}

    def add_part(self, choice: Json, part: Json) -> None:
        choice["text"] += part.get("text") or ""
        choice["finish_reason"] = part.get("finish_reason") or choice["finish_reason"]
        choice["logprobs"] = _joined(choice["logprobs"], part.get("logprobs"))


def _joined(total: Json | None, part: Json | None) -> Json | None:
    if not part or not total:
        return part or total
    joined = {key: [*total.get(key, []), *value] for key, value in part.items() if isinstance(value, list)}
    return {**total, **part, **joined}
