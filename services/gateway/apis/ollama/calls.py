"""Calls of tools, put together from their pieces: OpenAI's arguments are a text, Ollama's an object. Pure."""

from typing import Any

import msgspec

from schemas.errors import EngineFailed

Json = dict[str, Any]
_arguments = msgspec.json.Decoder(dict[str, Any])


class Calls:
    """Grows with every piece. Ollama's clients get each call whole."""

    def __init__(self) -> None:
        self._parts: dict[int, Json] = {}

    def add(self, delta: Json) -> None:
        """Take the calls of a message, or pieces of them."""
        for number, part in enumerate(delta.get("tool_calls") or ()):
            call = self._parts.setdefault(part.get("index", number), {"id": "", "name": "", "arguments": ""})
            function = part.get("function") or {}
            call["id"] = part.get("id") or call["id"]
            call["name"] += function.get("name") or ""
            call["arguments"] += function.get("arguments") or ""

    def made(self, *, cut: bool) -> list[Json]:
        """The calls in order. Where the answer was `cut` short, one that cannot be read is left out."""
        calls = []
        for index in sorted(self._parts):
            try:
                calls.append(_call(self._parts[index]))
            except msgspec.DecodeError as error:
                if not cut:
                    name = self._parts[index]["name"]
                    raise EngineFailed(f"The model called {name} with what is no JSON object.") from error
        return calls


def _call(part: Json) -> Json:
    function = {"name": part["name"], "arguments": _arguments.decode(part["arguments"] or "{}")}
    return {"id": part["id"], "function": function} if part["id"] else {"function": function}
