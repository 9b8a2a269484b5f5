"""A hole filled between two texts. llama.cpp's own path for it answers in words of its own, and at once."""

import msgspec

from schemas.base import Record
from services.gateway.apis.ollama.answers import Translation


class _Filled(Record):
    content: str = ""
    stop_type: str = ""
    tokens_evaluated: int = 0
    tokens_predicted: int = 0
    timings: dict[str, float] = msgspec.field(default_factory=dict)


_decode = msgspec.json.Decoder(_Filled).decode


class Infill:
    """The answer of `/infill`, as one object or as the lines of a stream."""

    def __init__(self, translation: Translation, *, lines: bool) -> None:
        self._translation = translation
        self._lines = lines

    def whole(self, body: bytes) -> bytes:
        """All of the answer."""
        completion = as_completion(body)
        if self._lines:
            return self._translation.line(completion) + self._translation.last()
        return self._translation.whole(completion)


def as_completion(body: bytes) -> bytes:
    """llama.cpp's answer as OpenAI's text completion."""
    filled = _decode(body)
    reason = "length" if filled.stop_type == "limit" else "stop"
    usage = {"prompt_tokens": filled.tokens_evaluated, "completion_tokens": filled.tokens_predicted}
    choice = {"text": filled.content, "finish_reason": reason}
    return msgspec.json.encode({"choices": [choice], "usage": usage, "timings": filled.timings})
