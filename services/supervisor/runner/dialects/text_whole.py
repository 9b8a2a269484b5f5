"""Chunks of a text completion put together to the answer a non-streaming client expects."""

from services.supervisor.runner.dialects.whole import Json, Whole


class TextWhole(Whole):
    """A whole `text_completion`."""

    kind = "text_completion"

    def begin(self, index: int) -> Json:
        return {"text": "", "index": index, "logprobs": None, "finish_reason": None}

    def grow(self, choice: Json, part: Json) -> None:
        choice["text"] += part.get("text") or ""
        choice["finish_reason"] = part.get("finish_reason") or choice["finish_reason"]
        choice["logprobs"] = _joined(choice["logprobs"], part.get("logprobs"))


def _joined(total: Json | None, part: Json | None) -> Json | None:
    if not part or not total:
        return part or total
    return {
        key: [*total.get(key, []), *value] if isinstance(value, list) else value
        for key, value in part.items()
    }
