"""What Ollama's clients ask, as our own paths take it. Pure."""

import msgspec

from schemas.errors import BadRequest
from schemas.models import Mode
from services.gateway.apis.ollama.asked import Chat, Common, Generate, Message, Options
from services.gateway.apis.ollama.turns import turns

Body = dict[str, object]

CHAT, TEXT, INFILL, EMBED = "/v1/chat/completions", "/v1/completions", "/infill", "/v1/embeddings"
_RENAMED = {"num_predict": "max_tokens", "num_keep": "n_keep"}
"""Options of another name here; the others are called the same."""


def chat_body(chat: Chat) -> Body:
    """As `/v1/chat/completions` takes it."""
    body: Body = {"model": chat.model, "messages": turns(chat.messages or ())}
    if chat.tools:
        body["tools"] = chat.tools
    return body | _streaming(chat) | _sampling(chat.options) | _shape(chat) | _thinking(chat)


def generate_path(asked: Generate, mode: Mode) -> str:
    """Where a prompt goes: a hole to be filled, a text to go on with, or a turn of a chat."""
    if asked.suffix:
        return INFILL
    return TEXT if asked.raw or mode is Mode.COMPLETION else CHAT


def generate_body(asked: Generate, path: str) -> Body:
    """A prompt as `path` takes it."""
    if path == CHAT:
        return chat_body(_as_chat(asked))
    if path == INFILL:
        hole: Body = {"input_prefix": asked.prompt or "", "input_suffix": asked.suffix or ""}
        return {"model": asked.model} | hole | _sampling(asked.options)
    body: Body = {"model": asked.model, "prompt": asked.prompt or ""}
    return body | _streaming(asked) | _sampling(asked.options) | _grammar(asked)


def _as_chat(asked: Generate) -> Chat:
    system = [Message(role="system", content=asked.system)] if asked.system else []
    return Chat(
        model=asked.model,
        messages=(*system, Message(role="user", content=asked.prompt, images=asked.images)),
        stream=asked.stream,
        format=asked.format,
        options=asked.options,
        think=asked.think,
    )


def says_nothing(asked: Chat | Generate) -> bool:
    """Whether nothing is said: then Ollama loads the model, or lets it go."""
    if isinstance(asked, Chat):
        return not asked.messages
    return not (asked.prompt or asked.suffix or asked.images)


def lets_go(asked: Common) -> bool:
    """Whether a request that says nothing wants the model away."""
    return str(asked.keep_alive).rstrip("hms") in ("0", "0.0")


def _streaming(asked: Common) -> Body:
    if not asked.streams:
        return {"stream": False}
    return {"stream": True, "stream_options": {"include_usage": True}}


def _sampling(options: Options | None) -> Body:
    given = msgspec.structs.asdict(options) if options else {}
    # A number of tokens that is not positive means "no limit", which is ours when nothing is said.
    if (given.get("num_predict") or 0) <= 0:
        given.pop("num_predict", None)
    return {_RENAMED.get(name, name): value for name, value in given.items() if value is not None}


def _schema(asked: Common) -> dict[str, object] | None:
    """The schema of the answer: `{}` for any JSON, None where it need not be JSON."""
    if isinstance(asked.format, dict):
        return asked.format
    if asked.format not in (None, "", "json"):
        raise BadRequest(f'`format` is "json" or a JSON schema, not {asked.format!r}.', param="format")
    return {} if asked.format else None


def _shape(asked: Common) -> Body:
    if (schema := _schema(asked)) is None:
        return {}
    if not schema:
        return {"response_format": {"type": "json_object"}}
    named = {"name": "answer", "schema": schema}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


def _grammar(asked: Common) -> Body:
    """The text path has llama.cpp's own name for it."""
    schema = _schema(asked)
    return {} if schema is None else {"json_schema": schema or {"type": "object"}}


def _thinking(asked: Common) -> Body:
    """`think` is yes, no, or how much."""
    if asked.think is None:
        return {}
    effort = {"reasoning_effort": asked.think} if isinstance(asked.think, str) and asked.think else {}
    return {"chat_template_kwargs": {"enable_thinking": bool(asked.think), **effort}}
