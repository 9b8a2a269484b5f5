"""The chunks of a streamed completion: their text, and tool calls folded from their deltas."""

from collections.abc import Iterable
from typing import Any

import msgspec

from modelyard.openai.errors import read_error
from schemas.errors import EngineFailed

DONE = b"[DONE]"
"""The data of the last event of a stream."""
MAX_TOOL_CALLS = 1024
Json = dict[str, Any]


class ToolCalls:
    """The tool calls of one message, by the index that the engine gives them."""

    def __init__(self) -> None:
        self._calls: dict[int, Json] = {}

    def add(self, parts: Iterable[Json]) -> None:
        """Fold the calls of a message or of a delta; EngineFailed beyond `MAX_TOOL_CALLS`."""
        for position, part in enumerate(parts):
            call = self._call(self._index(part, position))
            function = part.get("function") or {}
            call["id"] = part.get("id") or call["id"]
            call["function"]["name"] += function.get("name") or ""
            call["function"]["arguments"] += function.get("arguments") or ""

    def _index(self, part: Json, position: int) -> int:
        if isinstance(index := part.get("index"), int):
            return index
        # Without an index only a first part without an id continues a call.
        last = max(self._calls, default=-1)
        return last if self._calls and not position and not part.get("id") else last + 1

    def _call(self, index: int) -> Json:
        # The index comes from the engine: it is a key, and never the size of anything.
        if index not in self._calls:
            if len(self._calls) >= MAX_TOOL_CALLS:
                raise EngineFailed(f"The answer has more than {MAX_TOOL_CALLS} tool calls.")
            self._calls[index] = {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
        return self._calls[index]

    def folded(self) -> list[Json]:
        """The calls so far, as in a whole message, by their index."""
        return [self._calls[index] for index in sorted(self._calls)]


def chunk_text(data: bytes) -> str:
    """The text in one chunk of a chat completion; an error in its place is raised."""
    if data == DONE:
        return ""
    try:
        chunk: Any = msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        raise EngineFailed("The answer has a piece that is not JSON.") from error
    if not isinstance(chunk, dict):
        raise EngineFailed("The answer has a piece that is not a chunk of a chat completion.")
    if "error" in chunk:
        raise read_error(data) or EngineFailed("The engine broke off with an error that cannot be read.")
    choices = chunk.get("choices") or [{}]
    return (choices[0].get("delta") or {}).get("content") or ""
