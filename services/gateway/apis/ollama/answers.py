"""Completions as Ollama's clients expect them: one JSON object, or one a line. Pure."""

import time
from datetime import UTC, datetime
from typing import Any

import msgspec

from schemas.errors import YardError

Json = dict[str, Any]
_any = msgspec.json.Decoder(dict[str, Any]).decode
DONE = b"[DONE]"


class Translation:
    """One answer on its way: chunks in, lines out. `key` is where its text goes: `message` or `response`."""

    def __init__(self, model: str, *, chat: bool) -> None:
        self._model = model
        self._chat = chat
        self._began_ns = time.monotonic_ns()
        self._usage: Json = {}
        self._timings: Json = {}
        self._reason = "stop"
        self._arguments: dict[int, Json] = {}

    def line(self, data: bytes) -> bytes:
        """The line of one chunk; nothing where it says nothing."""
        if data == DONE:
            return b""
        chunk = _any(data)
        if "error" in chunk:
            return _encode({"error": chunk["error"]["message"]})
        self._note(chunk)
        for choice in chunk.get("choices") or ():
            if said := self._said(choice):
                return _encode({**self._head(), **said, "done": False})
        return b""

    def whole(self, body: bytes) -> bytes:
        """The one object for a client that does not stream."""
        completion = _any(body)
        self._note(completion)
        (choice, *_) = completion["choices"]
        message = choice.get("message") or {"content": choice.get("text")}
        calls = [_tool_call(call["function"]) for call in message.get("tool_calls") or ()]
        said = self._text(message.get("content") or "", message.get("reasoning_content"), calls)
        return msgspec.json.encode({**self._head(), **said, **self._tail()})

    def last(self) -> bytes:
        """The line that ends a stream, with its tools and its counts."""
        calls = [_tool_call(self._arguments[index]) for index in sorted(self._arguments)]
        return _encode({**self._head(), **self._text("", None, calls), **self._tail()})

    def _note(self, chunk: Json) -> None:
        self._usage = chunk.get("usage") or self._usage
        self._timings = chunk.get("timings") or self._timings
        for choice in chunk.get("choices") or ():
            if choice.get("finish_reason") == "length":
                self._reason = "length"

    def _said(self, choice: Json) -> Json:
        delta = choice.get("delta") or {"content": choice.get("text")}
        for part in delta.get("tool_calls") or ():
            call = self._arguments.setdefault(part.get("index", 0), {"name": "", "arguments": ""})
            call["name"] += part["function"].get("name") or ""
            call["arguments"] += part["function"].get("arguments") or ""
        text, thinking = delta.get("content") or "", delta.get("reasoning_content")
        return self._text(text, thinking, []) if text or thinking else {}

    def _text(self, text: str, thinking: str | None, calls: list[Json]) -> Json:
        thought = {"thinking": thinking} if thinking else {}
        if not self._chat:
            return {"response": text, **thought}
        tools = {"tool_calls": calls} if calls else {}
        return {"message": {"role": "assistant", "content": text, **thought, **tools}}

    def _head(self) -> Json:
        return {"model": self._model, "created_at": now()}

    def _tail(self) -> Json:
        prompt_ns = int(self._timings.get("prompt_ms", 0) * 1e6)
        return {
            "done": True,
            "done_reason": self._reason,
            "total_duration": time.monotonic_ns() - self._began_ns,
            "load_duration": 0,
            "prompt_eval_count": self._usage.get("prompt_tokens", 0),
            "prompt_eval_duration": prompt_ns,
            "eval_count": self._usage.get("completion_tokens", 0),
            "eval_duration": int(self._timings.get("predicted_ms", 0) * 1e6),
        }


def _tool_call(function: Json) -> Json:
    """OpenAI's arguments are a text, Ollama's an object."""
    arguments = msgspec.json.decode(function.get("arguments") or "{}")
    return {"function": {"name": function["name"], "arguments": arguments}}


def embeddings(body: bytes) -> tuple[list[Any], int]:
    """The vectors in the order of their texts, and the tokens of all."""
    answer = _any(body)
    ordered = sorted(answer["data"], key=lambda entry: entry["index"])
    usage = answer.get("usage") or {}
    return [entry["embedding"] for entry in ordered], usage.get("prompt_tokens", 0)


def error_body(error: YardError) -> bytes:
    """An error as Ollama says it."""
    return msgspec.json.encode({"error": error.message})


def now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def _encode(line: Json) -> bytes:
    return msgspec.json.encode(line) + b"\n"
