"""The turns of a chat: pictures become parts, calls of tools get ids. Pure."""

from collections.abc import Iterable

import msgspec

from services.gateway.apis.ollama.asked import Message, ToolCall

Turn = dict[str, object]

_KINDS = {"/9j/": "jpeg", "UklGR": "webp", "R0lGOD": "gif"}
"""What base64 of a picture begins with."""


def turns(messages: Iterable[Message]) -> list[Turn]:
    """Messages as OpenAI's API has them."""
    ids = _Ids()
    return [_turn(message, ids) for message in messages]


class _Ids:
    """Ollama's results name their function, OpenAI's the id of their call: the oldest open call is meant."""

    def __init__(self) -> None:
        self._open: dict[str, str] = {}
        self._count = 0

    def of_call(self, call: ToolCall) -> str:
        name = call.id or f"call_{self._count}"
        self._count += 1
        self._open[name] = call.function.name
        return name

    def of_result(self, message: Message) -> str:
        wanted = message.tool_name
        fitting = [name for name, function in self._open.items() if wanted in (None, function)]
        name = message.tool_call_id or next(iter(fitting), "call_unknown")
        self._open.pop(name, None)
        return name


def _turn(message: Message, ids: _Ids) -> Turn:
    turn: Turn = {"role": message.role, "content": _content(message)}
    if message.thinking:
        turn["reasoning_content"] = message.thinking
    if message.tool_calls:
        turn["tool_calls"] = [_call(call, ids.of_call(call)) for call in message.tool_calls]
    if message.role == "tool":
        turn["tool_call_id"] = ids.of_result(message)
        turn |= {"name": message.tool_name} if message.tool_name else {}
    return turn


def _content(message: Message) -> object:
    text = message.content or ""
    if not message.images:
        return text
    pictures = [{"type": "image_url", "image_url": {"url": _data_url(image)}} for image in message.images]
    return [*([{"type": "text", "text": text}] if text else []), *pictures]


def _call(call: ToolCall, name: str) -> Turn:
    arguments = msgspec.json.encode(call.function.arguments).decode()
    return {
        "id": name,
        "type": "function",
        "function": {"name": call.function.name, "arguments": arguments},
    }


def _data_url(image: str) -> str:
    """Ollama sends bare base64, and some clients a whole URL."""
    if image.startswith("data:"):
        return image
    kind = next((kind for start, kind in _KINDS.items() if image.startswith(start)), "png")
    return f"data:image/{kind};base64,{image}"
