"""What Ollama's clients ask, as OpenAI's API has it. Pure."""

from typing import Any

import msgspec

from schemas.record import Record

Json = dict[str, Any]

_OPTIONS = {
    "num_predict": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "seed": "seed",
    "stop": "stop",
    "repeat_penalty": "repeat_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}
"""Ollama's names and ours; what is not here is about loading a model and not for a request to say."""


class ToolFunction(Record):
    name: str
    arguments: Json = msgspec.field(default_factory=dict)


class ToolCall(Record):
    function: ToolFunction


class Message(Record):
    """One turn of a chat."""

    role: str
    content: str = ""
    images: tuple[str, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_name: str | None = None
    thinking: str | None = None


class Chat(Record):
    """`POST /api/chat`."""

    model: str
    messages: tuple[Message, ...] = ()
    stream: bool = True
    tools: tuple[Json, ...] | None = None
    format: str | Json | None = None
    options: Json | None = None
    think: bool | str | None = None


class Generate(Record):
    """`POST /api/generate`."""

    model: str
    prompt: str = ""
    system: str | None = None
    suffix: str | None = None
    images: tuple[str, ...] = ()
    raw: bool = False
    stream: bool = True
    format: str | Json | None = None
    options: Json | None = None
    think: bool | str | None = None


class Embed(Record):
    """`POST /api/embed`."""

    model: str
    input: str | tuple[str, ...] = ""


class OldEmbed(Record):
    """`POST /api/embeddings`."""

    model: str
    prompt: str = ""


class Show(Record):
    """`POST /api/show`: newer clients say `model`, older ones `name`."""

    model: str | None = None
    name: str | None = None


def chat_body(chat: Chat) -> Json:
    """As `/v1/chat/completions` takes it."""
    body: Json = {"model": chat.model, "messages": [_message(message) for message in chat.messages]}
    if chat.tools:
        body["tools"] = list(chat.tools)
    return body | _common(chat.options, chat.format, chat.think, stream=chat.stream)


def generate_body(asked: Generate) -> Json:
    """As `/v1/chat/completions` takes it, or with `raw` as `/v1/completions` does."""
    common = _common(asked.options, asked.format, asked.think, stream=asked.stream)
    if asked.raw:
        return {"model": asked.model, "prompt": asked.prompt} | common
    turns = [Message(role="system", content=asked.system)] if asked.system else []
    turns.append(Message(role="user", content=asked.prompt, images=asked.images))
    return {"model": asked.model, "messages": [_message(turn) for turn in turns]} | common


def _common(
    options: Json | None, shape: str | Json | None, think: bool | str | None, *, stream: bool
) -> Json:
    body: Json = {"stream": stream}
    if stream:
        body["stream_options"] = {"include_usage": True}
    for name, value in (options or {}).items():
        # A negative number of tokens means "no limit", which is ours when nothing is said.
        if name in _OPTIONS and not (name == "num_predict" and value < 0):
            body[_OPTIONS[name]] = value
    if shape == "json":
        body["response_format"] = {"type": "json_object"}
    elif isinstance(shape, dict):
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": shape}}
    if think is not None:
        body["chat_template_kwargs"] = {"enable_thinking": bool(think)}
    return body


def _message(message: Message) -> Json:
    said: Json = {"role": message.role, "content": message.content}
    if message.images:
        pictures = [{"type": "image_url", "image_url": {"url": _data_url(image)}} for image in message.images]
        said["content"] = [{"type": "text", "text": message.content}, *pictures]
    if message.thinking:
        said["reasoning_content"] = message.thinking
    if message.tool_calls:
        said["tool_calls"] = [_tool_call(number, call) for number, call in enumerate(message.tool_calls)]
    if message.role == "tool":
        said["tool_call_id"] = message.tool_name or "call_0"
    return said


def _tool_call(number: int, call: ToolCall) -> Json:
    arguments = msgspec.json.encode(call.function.arguments).decode()
    function = {"name": call.function.name, "arguments": arguments}
    return {"id": f"call_{number}", "type": "function", "function": function}


def _data_url(image: str) -> str:
    """Ollama sends bare base64; what it begins with tells what it is."""
    kind = "jpeg" if image.startswith("/9j/") else "webp" if image.startswith("UklGR") else "png"
    return f"data:image/{kind};base64,{image}"
