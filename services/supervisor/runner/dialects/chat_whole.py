"""Chunks of a chat completion put together to the answer a non-streaming client expects."""

from services.supervisor.runner.dialects.whole import Json, Whole

_TEXTS = ("content", "reasoning_content", "refusal")


class ChatWhole(Whole):
    """A whole `chat.completion`."""

    kind = "chat.completion"

    def begin(self, index: int) -> Json:
        return {"index": index, "message": {"role": "assistant", "content": None}, "finish_reason": None}

    def grow(self, choice: Json, part: Json) -> None:
        _add_delta(choice["message"], part.get("delta") or {})
        if part.get("finish_reason"):
            choice["finish_reason"] = part["finish_reason"]
        if part.get("logprobs"):
            _add_logprobs(choice, part["logprobs"])


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
