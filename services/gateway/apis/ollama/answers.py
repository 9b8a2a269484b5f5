"""Answers of OpenAI's API and of llama.cpp as Ollama's clients expect them. Pure but for the clock."""

import math
import time
from datetime import UTC, datetime
from typing import Any

import msgspec

from modelyard.openai.chunks import DONE, ToolCalls
from schemas.base import Record
from schemas.errors import EngineFailed, YardError
from services.gateway.apis.ollama.bodies import EmbedBody

Json = dict[str, Any]
_any = msgspec.json.Decoder(dict[str, Any]).decode


class CompletionTranslation:
    """One completion: its chunks as lines, or the whole as one object; `chat` or `generate`."""

    def __init__(self, model: str, *, chat: bool) -> None:
        self._model = model
        self._chat = chat
        self._began_ns = time.monotonic_ns()
        self._usage: Json = {}
        self._timings: Json = {}
        self._reason = "stop"
        self._tool_calls = ToolCalls()
        self._failed = False

    def line(self, data: bytes) -> bytes:
        if data == DONE or self._failed:
            return b""
        chunk = _any(data)
        if "error" in chunk:
            self._failed = True
            return _encode({"error": chunk["error"]["message"]})
        self._read_counts(chunk)
        texts = [self._delta(choice.get("delta") or choice) for choice in chunk.get("choices") or ()]
        return b"".join(_encode({**self._head(), **text, "done": False}) for text in texts if text)

    def last(self) -> bytes:
        """The end of a stream: tool calls, if any, and the counts. Empty after an error."""
        if self._failed:
            return b""
        calls = self._folded_calls()
        called = {**self._head(), **self._text("", None, calls), "done": False}
        end = _encode({**self._head(), **self._text("", None, []), **self._tail()})
        return _encode(called) + end if calls else end

    def whole(self, body: bytes) -> bytes:
        completion = _any(body)
        self._read_counts(completion)
        (choice, *_) = completion["choices"]
        message = choice.get("message") or choice
        self._tool_calls.add(message.get("tool_calls") or ())
        text = self._text(_text_of(message), message.get("reasoning_content"), self._folded_calls())
        return msgspec.json.encode({**self._head(), **text, **self._tail()})

    def empty(self, reason: str) -> bytes:
        self._reason = reason
        return msgspec.json.encode({**self._head(), **self._text("", None, []), **self._tail()})

    def _read_counts(self, chunk: Json) -> None:
        self._usage = chunk.get("usage") or self._usage
        self._timings = chunk.get("timings") or self._timings
        if any(choice.get("finish_reason") == "length" for choice in chunk.get("choices") or ()):
            self._reason = "length"

    def _delta(self, delta: Json) -> Json:
        self._tool_calls.add(delta.get("tool_calls") or ())
        text, thinking = _text_of(delta), delta.get("reasoning_content")
        return self._text(text, thinking, []) if text or thinking else {}

    def _folded_calls(self) -> list[Json]:
        """Ollama's clients get each call whole. Of a cut answer, a call that cannot be read is left out."""
        calls = []
        for call in self._tool_calls.folded():
            try:
                calls.append(_tool_call(call))
            except msgspec.DecodeError as error:
                if self._reason != "length":
                    name = call["function"]["name"]
                    raise EngineFailed(f"The model called {name} with what is no JSON object.") from error
        return calls

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
            # The rest: loading, and waiting for a slot.
            "load_duration": max(0, total_ns - prompt_ns - eval_ns),
            "prompt_eval_count": self._usage.get("prompt_tokens", 0),
            "prompt_eval_duration": prompt_ns,
            "eval_count": self._usage.get("completion_tokens", 0),
            "eval_duration": eval_ns,
        }


def _text_of(part: Json) -> str:
    return part.get("content") or part.get("text") or ""


def _tool_call(call: Json) -> Json:
    arguments = _any(call["function"]["arguments"] or "{}")
    function = {"name": call["function"]["name"], "arguments": arguments}
    return {"id": call["id"], "function": function} if call["id"] else {"function": function}


def error_body(error: YardError) -> bytes:
    return msgspec.json.encode({"error": error.message})


def now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def _encode(line: Json) -> bytes:
    return msgspec.json.encode(line) + b"\n"


class _Infill(Record):
    content: str = ""
    stop_type: str = ""
    tokens_evaluated: int = 0
    tokens_predicted: int = 0
    timings: dict[str, float] = msgspec.field(default_factory=dict)


_decode_infill = msgspec.json.Decoder(_Infill).decode


def translate_infill(translation: CompletionTranslation, body: bytes, *, lines: bool) -> bytes:
    """The answer of llama.cpp's `/infill`, which never streams, as one object or as lines."""
    completion = _infill_as_completion(body)
    return translation.line(completion) + translation.last() if lines else translation.whole(completion)


def _infill_as_completion(body: bytes) -> bytes:
    infill = _decode_infill(body)
    reason = "length" if infill.stop_type == "limit" else "stop"
    usage = {"prompt_tokens": infill.tokens_evaluated, "completion_tokens": infill.tokens_predicted}
    choice = {"text": infill.content, "finish_reason": reason}
    return msgspec.json.encode({"choices": [choice], "usage": usage, "timings": infill.timings})


class _Embedding(Record):
    index: int
    embedding: list[float]


class _EmbeddingUsage(Record):
    prompt_tokens: int = 0


class _Embeddings(Record):
    data: tuple[_Embedding, ...]
    usage: _EmbeddingUsage = _EmbeddingUsage()


_decode_embeddings = msgspec.json.Decoder(_Embeddings).decode


def translate_embed(request: EmbedBody, body: bytes, took_ns: int) -> bytes:
    """The answer of `/api/embed`: the vectors in the order of their texts."""
    answer = _decode_embeddings(body)
    ordered = sorted(answer.data, key=lambda entry: entry.index)
    vectors = [shorten(entry.embedding, request.dimensions) for entry in ordered]
    counts = {"total_duration": took_ns, "load_duration": 0, "prompt_eval_count": answer.usage.prompt_tokens}
    return msgspec.json.encode({"model": request.model, "embeddings": vectors, **counts})


def empty_embed(model: str) -> bytes:
    return msgspec.json.encode({"model": model, "embeddings": []})


def translate_embeddings(body: bytes) -> bytes:
    return msgspec.json.encode({"embedding": _decode_embeddings(body).data[0].embedding})


def shorten(vector: list[float], dimensions: int | None) -> list[float]:
    """The first `dimensions` of a vector, normalised again."""
    if not dimensions or dimensions < 0 or dimensions >= len(vector):
        return vector
    prefix = vector[:dimensions]
    length = math.hypot(*prefix)
    return [value / length for value in prefix] if length else prefix
