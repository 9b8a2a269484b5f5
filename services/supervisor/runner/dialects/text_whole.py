"""Chunks of a text completion put together to the answer a non-streaming client expects."""

from typing import Any

import msgspec

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_PASSED = ("id", "created", "model", "system_fingerprint", "usage", "timings")

Json = dict[str, Any]


class TextWhole:
    """Grows with every chunk; `encode` is the whole `text_completion`."""

    def __init__(self) -> None:
        self._fields: Json = {}
        self._choices: dict[int, Json] = {}

    def add(self, data: bytes) -> None:
        """Take one chunk's JSON."""
        chunk = _decode(data)
        self._fields |= {key: chunk[key] for key in _PASSED if chunk.get(key) is not None}
        for part in chunk.get("choices") or ():
            index = part.get("index", 0)
            choice = self._choices.setdefault(
                index, {"text": "", "index": index, "logprobs": None, "finish_reason": None}
            )
            choice["text"] += part.get("text") or ""
            choice["finish_reason"] = part.get("finish_reason") or choice["finish_reason"]
            choice["logprobs"] = _joined(choice["logprobs"], part.get("logprobs"))

    def encode(self) -> bytes:
        ordered = [self._choices[index] for index in sorted(self._choices)]
        return msgspec.json.encode({"object": "text_completion", **self._fields, "choices": ordered})


def _joined(total: Json | None, part: Json | None) -> Json | None:
    if not part or not total:
        return part or total
    return {
        key: [*total.get(key, []), *value] if isinstance(value, list) else value
        for key, value in part.items()
    }
