"""Embeddings as Ollama's clients expect them. Pure."""

import math

import msgspec

from schemas.base import Record
from services.gateway.apis.ollama.asked import Embed


class _Entry(Record):
    index: int
    embedding: list[float]


class _Usage(Record):
    prompt_tokens: int = 0


class _Answer(Record):
    data: tuple[_Entry, ...]
    usage: _Usage = _Usage()


_decode = msgspec.json.Decoder(_Answer).decode


def embedded(asked: Embed, body: bytes, took_ns: int) -> bytes:
    """The answer of `/api/embed`: the vectors in the order of their texts."""
    answer = _decode(body)
    ordered = sorted(answer.data, key=lambda entry: entry.index)
    vectors = [shortened(entry.embedding, asked.dimensions) for entry in ordered]
    counts = {"total_duration": took_ns, "load_duration": 0, "prompt_eval_count": answer.usage.prompt_tokens}
    return msgspec.json.encode({"model": asked.model, "embeddings": vectors, **counts})


def nothing_embedded(model: str) -> bytes:
    """The answer of `/api/embed` to no text."""
    return msgspec.json.encode({"model": model, "embeddings": []})


def embedded_one(body: bytes) -> bytes:
    """The answer of `/api/embeddings`."""
    return msgspec.json.encode({"embedding": _decode(body).data[0].embedding})


def shortened(vector: list[float], dimensions: int | None) -> list[float]:
    """The first `dimensions` of a vector, of length 1 again."""
    if not dimensions or dimensions < 0 or dimensions >= len(vector):
        return vector
    kept = vector[:dimensions]
    length = math.hypot(*kept)
    return [value / length for value in kept] if length else kept
