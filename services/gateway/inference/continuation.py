"""Going on with an answer that broke off: the text so far becomes the beginning of the answer."""

from typing import Any

import msgspec

from schemas.endpoints import Style
from services.gateway.inference.transcript import Transcript

_LIMITS = ("max_tokens", "max_completion_tokens", "n_predict")
_PREVENTS = (
    "tools",
    "functions",
    "response_format",
    "grammar",
    "json_schema",
    "logprobs",
    "top_logprobs",
    "n_probs",
    "echo",
    "suffix",
    "best_of",
)
"""What ties later tokens to earlier ones in ways that a new start does not know."""
_ANY = msgspec.json.Decoder(dict[str, Any])


def continued(body: bytes, style: Style, sent: Transcript) -> bytes | None:
    """The body that asks for the rest of an answer; None where nobody can go on."""
    sent.fold()
    fields = _ANY.decode(body)
    if sent.other or not sent.text or fields.get("n", 1) != 1 or any(fields.get(name) for name in _PREVENTS):
        return None
    for name in _LIMITS:
        if isinstance(fields.get(name), int) and fields[name] > 0:
            fields[name] = max(1, fields[name] - sent.tokens)
    match style:
        case Style.CHAT if (messages := _with_prefill(fields.get("messages"), sent.text)) is not None:
            fields["messages"] = messages
        case Style.COMPLETION if isinstance(fields.get("prompt"), str):
            fields["prompt"] += sent.text
        case _:
            return None
    return msgspec.json.encode(fields)


def _with_prefill(messages: Any, text: str) -> list[Any] | None:
    if not isinstance(messages, list) or not messages or not isinstance(messages[-1], dict):
        return None
    last = messages[-1]
    if last.get("role") != "assistant":
        return [*messages, {"role": "assistant", "content": text}]
    if not isinstance(last.get("content"), str):
        return None
    return [*messages[:-1], {**last, "content": last["content"] + text}]
