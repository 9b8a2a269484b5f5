"""What Ollama's clients send. Many write null where they mean nothing, so nearly every field takes it."""

from typing import Any

import msgspec

from schemas.base import Record

Schema = dict[str, Any]


class CalledFunction(Record):
    """A function the model called; its arguments are an object, not a text as in OpenAI's API."""

    name: str
    arguments: Schema = msgspec.field(default_factory=dict)


class ToolCall(Record):
    """A call as the model made it. Older clients know no ids."""

    function: CalledFunction
    id: str | None = None


class Message(Record):
    """One turn of a chat."""

    role: str
    content: str | None = None
    images: tuple[str, ...] | None = None
    tool_calls: tuple[ToolCall, ...] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None
    thinking: str | None = None


class Options(Record):
    """What a request may say about sampling; options about loading a model are not read."""

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


class Common(Record):
    """What `/api/chat` and `/api/generate` share."""

    model: str
    stream: bool | None = None
    """Ollama streams unless it is told not to."""
    format: str | Schema | None = None
    options: Options | None = None
    think: bool | str | None = None
    keep_alive: float | str | None = None
    """When a model goes is for the yard to say."""

    @property
    def streams(self) -> bool:
        return self.stream is not False


class Chat(Common):
    """`POST /api/chat`."""

    messages: tuple[Message, ...] | None = None
    tools: tuple[Schema, ...] | None = None


class Generate(Common):
    """`POST /api/generate`."""

    prompt: str | None = None
    system: str | None = None
    suffix: str | None = None
    images: tuple[str, ...] | None = None
    raw: bool | None = None


class Embed(Record):
    """`POST /api/embed`."""

    model: str
    input: str | tuple[str, ...] | None = None
    dimensions: int | None = None


class OldEmbed(Record):
    """`POST /api/embeddings`."""

    model: str
    prompt: str | None = None


class Show(Record):
    """`POST /api/show`: newer clients say `model`, older ones `name`."""

    model: str | None = None
    name: str | None = None
