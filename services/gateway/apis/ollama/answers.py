"""Completions as Ollama's clients expect them: one JSON object, or one a line. Pure but for the clock."""

import time
from datetime import UTC, datetime
from typing import Any

import msgspec

from schemas.errors import YardError
from services.gateway.apis.ollama.calls import Calls

Json = dict[str, Any]
_any = msgspec.json.Decoder(dict[str, Any]).decode
_DONE = b"[DONE]"


class Translation:
    """One answer on its way: chunks in, lines out. `chat` says where its text goes."""

    def __init__(self, model: str, *, chat: bool) -> None:
        self._model = model
        self._chat = chat
        self._began_ns = time.monotonic_ns()
        self._usage: Json = {}
        self._timings: Json = {}
        self._reason = "stop"
        self._calls = Calls()
        self._failed = False

    def line(self, data: bytes) -> bytes:
        """The line of one chunk; nothing where it says nothing."""
        if data == _DONE or self._failed:
            return b""
        chunk = _any(data)
        if "error" in chunk:
            self._failed = True
            return _encode({"error": chunk["error"]["message"]})
        self._note(chunk)
        said = [self._said(choice.get("delta") or choice) for choice in chunk.get("choices") or ()]
        return b"".join(_encode({**self._head(), **one, "done": False}) for one in said if one)

    def last(self) -> bytes:
        """What ends a stream: the calls of tools, if any, and the counts. Nothing after an error."""
        if self._failed:
            return b""
        calls = self._calls.made(cut=self._reason == "length")
        called = {**self._head(), **self._text("", None, calls), "done": False}
        end = _encode({**self._head(), **self._text("", None, []), **self._tail()})
        return _encode(called) + end if calls else end

    def whole(self, body: bytes) -> bytes:
        """The one object for a client that does not stream."""
        completion = _any(body)
        self._note(completion)
        (choice, *_) = completion["choices"]
        message = choice.get("message") or choice
        self._calls.add(message)
        calls = self._calls.made(cut=self._reason == "length")
        said = self._text(_text_of(message), message.get("reasoning_content"), calls)
        return msgspec.json.encode({**self._head(), **said, **self._tail()})

    def nothing(self, reason: str) -> bytes:
        """The answer to a client that said nothing."""
        self._reason = reason
        return msgspec.json.encode({**self._head(), **self._text("", None, []), **self._tail()})

    def _note(self, chunk: Json) -> None:
        self._usage = chunk.get("usage") or self._usage
        self._timings = chunk.get("timings") or self._timings
        if any(choice.get("finish_reason") == "length" for choice in chunk.get("choices") or ()):
            self._reason = "length"

    def _said(self, delta: Json) -> Json:
        self._calls.add(delta)
        text, thinking = _text_of(delta), delta.get("reasoning_content")
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
        total_ns = time.monotonic_ns() - self._began_ns
        prompt_ns, eval_ns = (int(self._timings.get(name, 0) * 1e6) for name in ("prompt_ms", "predicted_ms"))
        return {
            "done": True,
            "done_reason": self._reason,
            "total_duration": total_ns,
            # All that was neither reading nor writing: loading, and waiting for a slot.
            "load_duration": max(0, total_ns - prompt_ns - eval_ns),
            "prompt_eval_count": self._usage.get("prompt_tokens", 0),
            "prompt_eval_duration": prompt_ns,
            "eval_count": self._usage.get("completion_tokens", 0),
            "eval_duration": eval_ns,
        }


def _text_of(part: Json) -> str:
    return part.get("content") or part.get("text") or ""


def error_body(error: YardError) -> bytes:
    """An error as Ollama says it."""
    return msgspec.json.encode({"error": error.message})


def now() -> str:
    """The time as Ollama writes it."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def _encode(line: Json) -> bytes:
    return msgspec.json.encode(line) + b"\n"
