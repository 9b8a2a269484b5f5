"""Ollama's bodies as the paths of OpenAI's API and of llama.cpp take them. Pure."""

from collections.abc import Iterable

import msgspec

from schemas.errors import BadRequest
from schemas.models import Mode
from services.gateway.apis.ollama.bodies import (
    ChatBody,
    ChatMessage,
    CompletionBody,
    GenerateBody,
    SamplingOptions,
    ToolCall,
)

Json = dict[str, object]

CHAT, TEXT, INFILL, EMBED = "/v1/chat/completions", "/v1/completions", "/infill", "/v1/embeddings"
_RENAMED = {"num_predict": "max_tokens", "num_keep": "n_keep"}
"""Options with another name here; the others keep theirs."""
_IMAGE_TYPES = {"/9j/": "jpeg", "UklGR": "webp", "R0lGOD": "gif"}
"""Image types by the first base64 characters; any other is a PNG."""


def chat_request(chat: ChatBody) -> Json:
    body: Json = {"model": chat.model, "messages": openai_messages(chat.messages or ())}
    if chat.tools:
        body["tools"] = chat.tools
    return body | _streaming(chat) | _sampling(chat.options) | _response_format(chat) | _thinking(chat)


def generate_path(generate: GenerateBody, mode: Mode) -> str:
    """The path for a prompt: infill, text completion, or one turn of a chat."""
    if generate.suffix:
        return INFILL
    return TEXT if generate.raw or mode is Mode.COMPLETION else CHAT


def generate_request(generate: GenerateBody, path: str) -> Json:
    if path == CHAT:
        return chat_request(_as_chat(generate))
    if path == INFILL:
        infill: Json = {"input_prefix": generate.prompt or "", "input_suffix": generate.suffix or ""}
        return {"model": generate.model} | infill | _sampling(generate.options)
    body: Json = {"model": generate.model, "prompt": generate.prompt or ""}
    return body | _streaming(generate) | _sampling(generate.options) | _json_schema(generate)


def _as_chat(generate: GenerateBody) -> ChatBody:
    system = [ChatMessage(role="system", content=generate.system)] if generate.system else []
    return ChatBody(
        model=generate.model,
        messages=(*system, ChatMessage(role="user", content=generate.prompt, images=generate.images)),
        stream=generate.stream,
        format=generate.format,
        options=generate.options,
        think=generate.think,
    )


def is_empty(body: ChatBody | GenerateBody) -> bool:
    """Whether there is nothing to answer: Ollama then loads or unloads the model."""
    if isinstance(body, ChatBody):
        return not body.messages
    return not (body.prompt or body.suffix or body.images)


def is_unload(body: CompletionBody) -> bool:
    return str(body.keep_alive).rstrip("hms") in ("0", "0.0")


def _streaming(body: CompletionBody) -> Json:
    if not body.streams:
        return {"stream": False}
    return {"stream": True, "stream_options": {"include_usage": True}}


def _sampling(options: SamplingOptions | None) -> Json:
    given = msgspec.structs.asdict(options) if options else {}
    # A number of tokens that is not positive means no limit, which is the default here.
    if (given.get("num_predict") or 0) <= 0:
        given.pop("num_predict", None)
    return {_RENAMED.get(name, name): value for name, value in given.items() if value is not None}


def _schema(body: CompletionBody) -> dict[str, object] | None:
    """The schema of the answer: `{}` for any JSON, None where it need not be JSON."""
    if isinstance(body.format, dict):
        return body.format
    if body.format not in (None, "", "json"):
        raise BadRequest(f'`format` is "json" or a JSON schema, not {body.format!r}.', param="format")
    return {} if body.format else None


def _response_format(body: CompletionBody) -> Json:
    if (schema := _schema(body)) is None:
        return {}
    if not schema:
        return {"response_format": {"type": "json_object"}}
    named = {"name": "answer", "schema": schema}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


def _json_schema(body: CompletionBody) -> Json:
    # Text completions have llama.cpp's own field for it.
    schema = _schema(body)
    return {} if schema is None else {"json_schema": schema or {"type": "object"}}


def _thinking(body: CompletionBody) -> Json:
    """`think` is true, false, or an effort."""
    if body.think is None:
        return {}
    effort = {"reasoning_effort": body.think} if isinstance(body.think, str) and body.think else {}
    return {"chat_template_kwargs": {"enable_thinking": bool(body.think), **effort}}


def openai_messages(messages: Iterable[ChatMessage]) -> list[Json]:
    """Messages as OpenAI's API has them: images become parts, tool calls get ids."""
    ids = _ToolCallIds()
    return [_message(message, ids) for message in messages]


class _ToolCallIds:
    """Ollama's results name their function, OpenAI's the id of a call: the oldest open call of that name."""

    def __init__(self) -> None:
        self._open: dict[str, str] = {}
        self._count = 0

    def of_call(self, call: ToolCall) -> str:
        call_id = call.id or f"call_{self._count}"
        self._count += 1
        self._open[call_id] = call.function.name
        return call_id

    def of_result(self, message: ChatMessage) -> str:
        name = message.tool_name
        matching = [call_id for call_id, function in self._open.items() if name in (None, function)]
        call_id = message.tool_call_id or next(iter(matching), "call_unknown")
        self._open.pop(call_id, None)
        return call_id


def _message(message: ChatMessage, ids: _ToolCallIds) -> Json:
    converted: Json = {"role": message.role, "content": _content(message)}
    if message.thinking:
        converted["reasoning_content"] = message.thinking
    if message.tool_calls:
        converted["tool_calls"] = [_tool_call(call, ids.of_call(call)) for call in message.tool_calls]
    if message.role == "tool":
        converted["tool_call_id"] = ids.of_result(message)
        converted |= {"name": message.tool_name} if message.tool_name else {}
    return converted


def _content(message: ChatMessage) -> object:
    text = message.content or ""
    if not message.images:
        return text
    images = [{"type": "image_url", "image_url": {"url": _data_url(image)}} for image in message.images]
    return [*([{"type": "text", "text": text}] if text else []), *images]


def _tool_call(call: ToolCall, call_id: str) -> Json:
    arguments = msgspec.json.encode(call.function.arguments).decode()
    function = {"name": call.function.name, "arguments": arguments}
    return {"id": call_id, "type": "function", "function": function}


def _data_url(image: str) -> str:
    """Ollama sends bare base64, and some clients a whole URL."""
    if image.startswith("data:"):
        return image
    image_type = next((name for start, name in _IMAGE_TYPES.items() if image.startswith(start)), "png")
    return f"data:image/{image_type};base64,{image}"
