"""The inference paths: which modes serve them, and in which style their answers come."""

from dataclasses import dataclass
from enum import StrEnum

from schemas.models import Mode


class Style(StrEnum):
    """The style of an answer, which determines how it is relayed, metered and assembled."""

    CHAT = "chat"
    """OpenAI's chat completion chunks."""
    COMPLETION = "completion"
    """OpenAI's text completion chunks."""
    RESPONSES = "responses"
    """The events of OpenAI's Responses API."""
    MESSAGES = "messages"
    """The events of Anthropic's Messages API."""
    PLAIN = "plain"
    """One body, passed on as it is."""


@dataclass(frozen=True)
class Endpoint:
    """One path of an engine. `name` is its token in `yard.command.openai.{name}`."""

    path: str
    name: str
    style: Style
    modes: frozenset[Mode]
    """Modes that serve it; empty for any."""


_TEXT = frozenset({Mode.CHAT, Mode.COMPLETION})
_CHAT = frozenset({Mode.CHAT})

ENDPOINTS = (
    Endpoint("/v1/chat/completions", "chat", Style.CHAT, _CHAT),
    Endpoint("/v1/completions", "completions", Style.COMPLETION, _TEXT),
    Endpoint("/v1/responses", "responses", Style.RESPONSES, _CHAT),
    Endpoint("/v1/messages", "messages", Style.MESSAGES, _CHAT),
    Endpoint("/v1/messages/count_tokens", "count_tokens", Style.PLAIN, _CHAT),
    Endpoint("/v1/embeddings", "embeddings", Style.PLAIN, frozenset({Mode.EMBEDDING})),
    Endpoint("/v1/rerank", "rerank", Style.PLAIN, frozenset({Mode.RERANK})),
    Endpoint("/v1/audio/transcriptions", "transcriptions", Style.PLAIN, frozenset({Mode.TRANSCRIPTION})),
    Endpoint("/tokenize", "tokenize", Style.PLAIN, frozenset()),
    Endpoint("/detokenize", "detokenize", Style.PLAIN, frozenset()),
    Endpoint("/apply-template", "apply_template", Style.PLAIN, _CHAT),
    Endpoint("/infill", "infill", Style.PLAIN, _TEXT),
)
BY_PATH = {endpoint.path: endpoint for endpoint in ENDPOINTS}


def endpoint_of(path: str) -> Endpoint:
    """The endpoint of a path; an unknown `/v1/…` path is passed through to the engine."""
    return BY_PATH.get(path) or Endpoint(path, "", Style.PLAIN, frozenset())


def paths_of(mode: Mode) -> list[str]:
    """The paths that a model of this mode serves."""
    return [endpoint.path for endpoint in ENDPOINTS if mode in endpoint.modes]
