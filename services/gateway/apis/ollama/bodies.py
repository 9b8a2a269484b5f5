"""The bodies of Ollama's API. Many clients write null for a field they do not set, so most fields take it."""

from typing import Any

import msgspec

from schemas.base import Record

Schema = dict[str, Any]


class CalledFunction(Record):
    """The function of a tool call; its arguments are an object, not a text as in OpenAI's API."""

    name: str
    arguments: Schema = msgspec.field(default_factory=dict)


class ToolCall(Record):
    """A tool call of the model. Older clients send no id."""

    function: CalledFunction
    id: str | None = None


class ChatMessage(Record):
    role: str
    content: str | None = None
    images: tuple[str, ...] | None = None
    tool_calls: tuple[ToolCall, ...] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None
    thinking: str | None = None


class SamplingOptions(Record):
    """Options of sampling; those about loading a model are not read."""

    num_predict: int | None = None
    num_keep: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    seed: int | None = None
    stop: str | tuple[str, ...] | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    mirostat: int | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None


class CompletionBody(Record):
    """The fields that `/api/chat` and `/api/generate` share."""

    model: str
    stream: bool | None = None
    """Ollama streams unless this is false."""
    format: str | Schema | None = None
    options: SamplingOptions | None = None
    think: bool | str | None = None
    keep_alive: float | str | None = None
    """Only 0 is read: the yard decides when a model is unloaded."""

    @property
    def streams(self) -> bool:
        return self.stream is not False


class ChatBody(CompletionBody):
    """`POST /api/chat`."""

    messages: tuple[ChatMessage, ...] | None = None
    tools: tuple[Schema, ...] | None = None


class GenerateBody(CompletionBody):
    """`POST /api/generate`."""

    prompt: str | None = None
    system: str | None = None
    suffix: str | None = None
    images: tuple[str, ...] | None = None
    raw: bool | None = None


class EmbedBody(Record):
    """`POST /api/embed`."""

    model: str
    input: str | tuple[str, ...] | None = None
    dimensions: int | None = None


class EmbeddingsBody(Record):
    """`POST /api/embeddings`."""

    model: str
    prompt: str | None = None


class ShowBody(Record):
    """`POST /api/show`: newer clients send `model`, older ones `name`."""

    model: str | None = None
    name: str | None = None
